"""The record of a hit in progress, between two of its pieces: what an exploration keeps, compares
and goes back to.

Probes are kept by name, since another control state, with a core of its own, may have come between
two pieces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from engine.hit_phases import HitKind, HitPhase
from engine.kprobe import KprobeStatus

__all__ = ("NO_HIT", "Block", "Hit")

Block = tuple[Any, ...]
"""A CPU's record of the hit that it is in (``struct kprobe_ctlblk``) with probes by name."""
NO_HIT: Final[Block] = (0, KprobeStatus.HIT_ACTIVE.value, 0, 0, (), 0, None)


@dataclass(frozen=True, slots=True)
class Hit:
    """A hit in progress.

    :ivar at: guest address of its pt_regs.
    :ivar probe: name of what the table had at the site.
    :ivar argument: the number that the detour buffer passes to the callback; of a call that ftrace
        has put in place, where it returns to.
    :ivar children: names of those whose handlers are still to run, as they were listed when the
        first one ran: a probe that joins meanwhile comes in front, and one that leaves is disabled.
    """

    kind: HitKind
    phase: HitPhase
    at: int
    probe: int = 0
    argument: int = 0
    children: tuple[int, ...] = ()

    @property
    def key(self) -> tuple[int, ...]:
        """For a state's hash. Of ``kind``, ``at`` and ``argument`` no case is known that shows
        them: the stub's registers say the same.
        """
        return (self.kind, self.phase, self.at, self.probe, self.argument, *self.children)
