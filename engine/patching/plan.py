"""The record of what happens in one exploration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from engine.core.profiles import Profile
from engine.patching.control_code import ControlCodes

__all__ = ("Plan", "PlannedCall")


class PlannedCall(NamedTuple):
    """The call that a task makes: the ``addr`` of its function, and how often (``times``) it makes
    it.
    """

    addr: int
    times: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What happens in a scenario.

    :ivar calls: of each task, its call. The tasks of vCPU ``n`` are ``2n`` and, with ``preempt``,
        ``2n + 1``.
    :ivar code: makes the control tasks, by name, for each control state.
    :ivar interrupts: external interrupts may come at every boundary that is a choice point.
    :ivar nmis: NMIs may, too.
    :ivar preempt: each vCPU has a second task, which makes the call once, and an interrupt may give
        it the CPU.
    :ivar resched: in front of the instructions at these addresses a task calls ``schedule()``.
    :ivar asleep: in front of the instructions at these addresses a task falls asleep in the middle
        of its call, and nobody wakes it.
    :ivar reduce: choice points are where something of the vCPU meets somebody else's doing; else at
        every instruction.
    :ivar apart: with ``reduce``, of tasks that share nothing one at a time is in the middle of its
        call (:mod:`engine.patching.independence`).
    :ivar points: ``stores``: control tasks also stop in front of their stores to what hits read
        without a lock.
    :ivar limit: most instructions of one call.
    :ivar restores: after the last control task has ended the text has to be the original.
    """

    calls: dict[int, PlannedCall]
    code: ControlCodes
    profile: Profile
    interrupts: bool = True
    nmis: bool = False
    preempt: bool = False
    resched: frozenset[int] = frozenset()
    asleep: frozenset[int] = frozenset()
    reduce: bool = True
    apart: bool = True
    points: str = "locks"
    limit: int = 1_000_000
    restores: bool = True
