"""A former place of ``Control``, kept for the scenario files that import it from here.

New files of scenarios take ``Control`` from :mod:`arch_x86.explore.scenario`.
"""

from __future__ import annotations

from engine.patching.operations import Control

__all__ = ("Control",)
