"""The record of a hit in progress, as an exploration saves, compares and restores it.

The record is made between two pieces of a hit. It has probes by name, since another control state,
with a core of its own, may come between two pieces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from engine.hit_phases import HitKind, HitPhase
from engine.kprobe import KprobeStatus

__all__ = ("NO_HIT", "Block", "Hit")

Block = tuple[Any, ...]
"""This record says in which hit a CPU is (``struct kprobe_ctlblk``), with probes by name."""
NO_HIT: Final[Block] = (0, KprobeStatus.HIT_ACTIVE.value, 0, 0, (), 0, None)


@dataclass(frozen=True, slots=True)
class Hit:
    """This record describes a hit in progress.

    :ivar kind: whether a breakpoint, a jump or a call of ftrace was hit.
    :ivar phase: which piece of the hit comes next.
    :ivar at: the guest address of its pt_regs.
    :ivar probe: the name of the entry that the table had at the site.
    :ivar argument: the number that the detour buffer passes to the callback; of a hit by
        ftrace's call, the address to which that call returns.
    :ivar children: the names of the probes whose handlers are still to run, as the aggregator
        listed them when the first one ran. A probe that joins meanwhile is listed in front of
        them, and one that leaves is disabled.
    """

    kind: HitKind
    phase: HitPhase
    at: int
    probe: int = 0
    argument: int = 0
    children: tuple[int, ...] = ()

    @property
    def key(self) -> tuple[int, ...]:
        """Return what the hash of a state has of this hit.

        No case is known in which states differ in ``kind``, ``at`` or ``argument`` alone,
        since the registers of the stub decide these.
        """
        return (self.kind, self.phase, self.at, self.probe, self.argument, *self.children)
