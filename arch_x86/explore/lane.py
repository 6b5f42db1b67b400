"""What the explorer keeps of each vCPU beside its registers."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any

from arch_x86.explore.control import Lives
from arch_x86.explore.hit import NO_HIT, Block, Hit

if TYPE_CHECKING:
    from arch_x86.emu.nested import NestedCall
    from arch_x86.explore.parking import Parked

__all__ = ("Lane", "Mode", "Passing", "counted_since", "passing_key")

Passing = tuple[int, bool, Lives, tuple[int, ...]]
"""A pass over a site: its address, whether its text was armed when it was fetched, what held for each probe, and what was counted."""


def passing_key(passing: Passing | None, counts: tuple[int, ...], lives: Lives) -> tuple[Any, ...]:
    """What the verdict on a pass depends on: of a probe that anything happened to since, nothing is asked."""
    if passing is None:
        return ()
    addr, armed, then, before = passing
    counted = tuple(counted_since(n, counts, before) if n < len(then) and then[n] == life else -1 for n, life in enumerate(lives))
    return (addr, armed, counted)


def counted_since(probe: int, counts: tuple[int, ...], before: tuple[int, ...]) -> int:
    """Hits and misses of a probe; of one that was made since, there were none before."""
    return (counts[probe] if probe < len(counts) else 0) - (before[probe] if probe < len(before) else 0)


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
    :ivar nmi: an NMI is being handled; its handler runs guest code in ``nested``. ``interrupted``: hit and pass in progress, the
        counts and the registers, when it came.
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
        self.interrupted: tuple[Hit | None, Passing | None, tuple[int, ...], tuple[int, ...]] | None = None

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

    @property
    def live(self) -> bool:
        """What its registers and stack hold matters: it is in a call, or in an NMI."""
        return self.mode is Mode.CALL or self.nmi

    @property
    def idle(self) -> bool:
        """None of its tasks is in the middle of a call."""
        return not (self.live or self.asleep or any(one.mode is Mode.CALL for one in self.parked))

    def key(self, lives: Lives) -> tuple[Any, ...]:
        """For a state's hash: all that what comes depends on but registers and stack, which the next call makes anew."""
        away = tuple(sorted(one.key(lives) for one in self.parked))
        asleep = tuple((one.task, one.rip) for one in self.asleep)
        if not self.live:  # which of two tasks between calls the CPU has is all the same
            here = ((self.task, self.calls),) if self.mode is Mode.IDLE else ()
            return (tuple(sorted((*here, *away))), asleep)
        hit = self.hit.key if self.hit is not None else 0
        nmi: tuple[Any, ...] = (self.nested is not None,) if self.nmi else ()
        if self.interrupted is not None:
            before, passing, counts, registers = self.interrupted
            nmi = (*nmi, before.key if before is not None else 0, passing_key(passing, counts, lives), registers)
        passing = passing_key(self.passing, self.counts, lives)
        return (self.calls, self.task, self.mode, away, asleep, hit, self.block, self.quiet, passing, nmi)
