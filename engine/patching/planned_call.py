"""The record of a task's call in an exploration."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ("PlannedCall",)


class PlannedCall(NamedTuple):
    """The call that a task makes: the ``addr`` of its function, and how often (``times``) it makes
    it. The tasks of vCPU ``n`` are ``2n`` and, with preemption, ``2n + 1``.
    """

    addr: int
    times: int
