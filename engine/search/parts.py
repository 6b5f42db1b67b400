"""The parts of a search, each of which any process can work on, and what a part comes to.

A search cuts itself into parts, in batches. What a part comes to depends on the part and on what
the batches before it have found, never on which process works on it, or when. So the whole does not
depend on how many processes there are, and a search that was killed goes on with the results that
were written down.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, runtime_checkable

from engine.brief import count, described
from engine.errors import EngineBug
from engine.search.explorable import Coverage, System, Violation
from engine.search.schedule import Segments, segments_of

__all__ = (
    "BATCH",
    "ChecksItself",
    "Found",
    "Group",
    "Outcome",
    "PartResult",
    "PartedSearch",
    "ReplayDivergence",
    "Tick",
    "check_repeats",
    "run_again",
    "uncounted",
)

RECHECK_EVERY: Final = 100
"""One schedule in so many is run twice. That costs a hundredth of the time, and a search of some
hundreds of schedules still notices what is not deterministic.
"""
BATCH: Final = 8
"""The most parts that can be worked on at once, and so the most processes that can help. What a
batch finds is known only from the next batch on, so in an exhaustive search the parts of a larger
batch would meet the same states more often.
"""
TICK_EVERY: Final = 64
"""Progress is told after so many schedules of a part, which is often enough for people, and too
seldom to cost anything.
"""


class ReplayDivergence(EngineBug):
    """A schedule did something else when it was run again, so something is not deterministic."""


@dataclass(frozen=True, slots=True)
class Found:
    """A violation that a search has found, and the schedule that shows it."""

    violation: Violation
    segments: Segments


@dataclass(slots=True)
class Outcome:
    """The outcome of a search: what it has done so far.

    :ivar schedules: how many runs came to an end, or to a state that was met before.
    :ivar merged: how many of them came to a state that was met before.
    :ivar rechecked: how many were run twice.
    :ivar exhaustive: whether nothing was left out within the bound.
    :ivar found: the violations, each with its schedule.
    :ivar coverage: how often hits took each way.
    :ivar points: the names of the pairs of a vCPU's position and a control state that were met.
    """

    schedules: int = 0
    merged: int = 0
    rechecked: int = 0
    exhaustive: bool = False
    found: list[Found] = field(default_factory=list[Found])
    coverage: Coverage = field(default_factory=Coverage)
    points: set[int] = field(default_factory=set[int])

    def __repr__(self) -> str:
        how = "exhaustive" if self.exhaustive else "not exhaustive"
        return described(
            self,
            count(self.schedules, "schedule"),
            how,
            count(len(self.found), "violation"),
            count(len(self.points), "point"),
        )

    def add(self, result: PartResult) -> None:
        """Add what one more part came to."""
        self.schedules += result.schedules
        self.merged += result.merged
        self.rechecked += result.rechecked
        self.found += result.found
        self.coverage.add(result.coverage)
        self.points.update(array("Q", result.points))


Group = tuple[int, int, bytes]
"""Starts of schedules that are left to other parts: what each of them costs so far, how many there
are, and their text, compressed.
"""


@dataclass(slots=True)
class PartResult:
    """The result of the work on one part.

    The fields that :class:`Outcome` has too mean the same here, for one part.

    :ivar points: as in :class:`Outcome`, each as 8 bytes.
    :ivar keys: the keys of the states that the part was the first to meet, as far as it knew, each
        as 8 bytes.
    :ivar groups: the starts that the part leaves to others.
    """

    schedules: int = 0
    merged: int = 0
    rechecked: int = 0
    found: list[Found] = field(default_factory=list[Found])
    coverage: Coverage = field(default_factory=Coverage)
    points: bytes = b""
    keys: bytes = b""
    groups: list[Group] = field(default_factory=list[Group])


Tick = Callable[[int], None]
"""A function that is called now and then with the number of schedules of a part so far."""


class PartedSearch(Protocol):
    """One way to search, cut into parts.

    The process that leads the search calls the first three methods; each process that works on
    parts calls the other two. A strategy (:mod:`engine.search.strategy`) becomes such a search in
    :class:`engine.search.drawn.Drawn`.

    :ivar violations_max: the search ends after so many violations.
    """

    violations_max: int

    def batch(self, outcome: Outcome) -> Sequence[Any]:
        """Return the next parts, at most :data:`BATCH`.

        Without a part the search is over, and ``outcome.exhaustive`` says whether it has left out
        nothing.
        """
        ...

    def merge(self, result: PartResult) -> None:
        """Take in what a part has come to; parts come in the order of the batches."""
        ...

    def expected(self, outcome: Outcome) -> int | None:
        """Return about how many schedules there will be, or None if that can't be told yet."""
        ...

    def learn(self, keys: bytes) -> None:
        """Take in the keys of the states that all parts of a batch were the first to meet."""
        ...

    def work(self, system: System, part: Any, tick: Tick | None = None) -> PartResult:
        """Work on a part, and return what it comes to.

        :param tick: called now and then with the number of schedules of the part so far.
        """
        ...


def run_again(system: System, segments: Segments, violation: Violation | None) -> None:
    """Run a schedule from the start to its end.

    :param violation: what was wrong at its end before, or None.
    """
    system.reset()
    for actor, steps in segments:
        left = steps
        while left > 0:
            system.choices()
            left -= max(1, system.take(actor, left))
    system.choices()
    # The violation may be that the last actor could not go on. That is found only when the
    # actor is asked to; this makes no step, so the actor is asked once more here.
    if segments and violation is not None and system.violation is None:
        system.take(segments[-1][0], 1)
        system.choices()


@contextmanager
def uncounted(system: System) -> Generator[None]:
    """Leave the counts of the system's coverage as they are while something is run again."""
    before, system.coverage = system.coverage, Coverage()
    try:
        yield
    finally:
        system.coverage = before


@runtime_checkable
class ChecksItself(Protocol):
    """A system that knows a better way to check that it is deterministic than to run again."""

    def check_repeats(self) -> None:
        """Check the present state, and what has led to it.

        :raises ReplayDivergence: something is not deterministic.
        """
        ...


def check_repeats(system: System) -> None:
    """Run the schedule that led to the present state again, and compare the states.

    :raises ReplayDivergence: the states, or the verdicts, differ.
    """
    if isinstance(system, ChecksItself):
        system.check_repeats()
        return
    key, violation, trace = system.key(), system.violation, system.trace
    segments = segments_of(trace)
    with uncounted(system):
        run_again(system, segments, violation)
    if system.key() != key or system.violation != violation:
        raise ReplayDivergence(
            f"a schedule of {len(segments)} segments ended differently when it was run again"
        )
