"""What the explorer keeps of each vCPU beside its registers."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any

from arch_x86.explore.control import Lives
from arch_x86.explore.hit import NO_HIT, Block, Hit

if TYPE_CHECKING:
    from arch_x86.emu.nested import NestedCall
    from arch_x86.explore.parking import Parked

__all__ = ("Lane", "Mode", "Passing")

Passing = tuple[int, bool, Lives, tuple[int, ...]]
"""A pass over a site: its address, whether its text was armed when it was fetched, what held for each probe, and what was counted."""


class Mode(IntEnum):
    """What a vCPU is doing."""

    IDLE = 0
    """Between calls."""
    CALL = 1
    DONE = 2
    """All its calls are made."""


class Lane:
    """One vCPU.

    :ivar task: number of the task that runs; ``parked``: those that do not; ``asleep``: those that never will again.
    :ivar calls: how many calls the task has begun.
    :ivar hit: the hit whose next piece is to come, or None.
    :ivar block: the kprobes layer's record of the hit in progress.
    :ivar nmi: an NMI is being handled; its handler runs guest code in ``nested``. ``interrupted``: hit and pass in progress, and the
        counts, when it came.
    :ivar quiet: it stands in ``schedule()``: a quiescent point.
    :ivar passing: the pass over a site that it is in.
    :ivar counts: hits and misses of each probe so far in the task that runs, together.
    :ivar position: steps made.
    """

    __slots__ = (
        "asleep",
        "block",
        "calls",
        "counts",
        "hit",
        "index",
        "interrupted",
        "mode",
        "nested",
        "nmi",
        "parked",
        "passing",
        "position",
        "quiet",
        "task",
    )

    def __init__(self, index: int) -> None:
        self.index = index
        self.reset(0)

    def reset(self, probes: int, parked: tuple[Parked, ...] = ()) -> None:
        """As at the start of a schedule."""
        self.task = 2 * self.index
        self.parked = parked
        self.asleep: tuple[Parked, ...] = ()
        self.mode = Mode.IDLE
        self.calls = 0
        self.hit: Hit | None = None
        self.block: Block = NO_HIT
        self.quiet = False
        self.passing: Passing | None = None
        self.counts: tuple[int, ...] = (0,) * probes
        self.position = 0
        self.nmi = False
        self.nested: NestedCall | None = None
        self.interrupted: tuple[Hit | None, Passing | None, tuple[int, ...]] | None = None

    @property
    def over(self) -> bool:
        """All calls of all its tasks are made."""
        return self.mode is Mode.DONE and not self.parked

    @property
    def quiescent(self) -> bool:
        """Idle, or in ``schedule()``."""
        return self.mode is not Mode.CALL or self.quiet

    def count(self, probe: int) -> None:
        """A hit or a miss of a probe."""
        counts = list(self.counts)
        counts.extend([0] * (probe + 1 - len(counts)))
        counts[probe] += 1
        self.counts = tuple(counts)

    def save(self) -> tuple[Any, ...]:
        """For :meth:`restore`."""
        return (
            self.mode, self.calls, self.hit, self.block, self.quiet, self.passing, self.counts, self.position, self.task, self.parked,
            self.nmi, self.nested, self.interrupted, self.asleep,
        )  # fmt: skip

    def restore(self, saved: tuple[Any, ...]) -> None:
        """Go back."""
        (
            self.mode, self.calls, self.hit, self.block, self.quiet, self.passing, self.counts, self.position, self.task, self.parked,
            self.nmi, self.nested, self.interrupted, self.asleep,
        ) = saved  # fmt: skip

    def key(self) -> tuple[Any, ...]:
        """For a state's hash: all but the position."""
        hit = self.hit.key if self.hit is not None else 0
        passing = self.passing
        done = tuple(now - then for now, then in zip(self.counts, passing[3], strict=False)) if passing is not None else ()
        parked = tuple(one.key() for one in (*self.parked, *self.asleep))
        hit_before = self.interrupted[0] if self.interrupted is not None else None
        nmi = (self.nmi, self.nested is not None, hit_before.key if hit_before is not None else 0)
        return (self.mode, self.calls, hit, self.block, self.quiet, passing and passing[:3], done, self.task, parked, nmi)
