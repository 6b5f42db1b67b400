"""``Control`` for scenario files that import it from here. New ones take it from
:mod:`arch_x86.explore.scenario`.
"""

from __future__ import annotations

from engine.patching.operations import Control

__all__ = ("Control",)
