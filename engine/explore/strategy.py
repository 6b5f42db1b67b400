"""What every strategy has in common: an outcome, a way to say how far it is, and a second run of some schedules to see that they repeat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from engine.errors import EngineBug
from engine.explore.schedule import Segments, segments_of
from engine.explore.system import System, Violation

__all__ = ("Found", "Outcome", "Progress", "ReplayDivergence", "Strategy", "check_repeats", "run_numbered")

RECHECK_EVERY: Final = 100
"""One schedule in so many is run twice."""
_PROGRESS_EVERY: Final = 64


class ReplayDivergence(EngineBug):
    """The same schedule did something else the second time: something is not deterministic."""


@dataclass(frozen=True, slots=True)
class Found:
    """A violation, and the schedule that shows it."""

    violation: Violation
    segments: Segments


@dataclass(slots=True)
class Outcome:
    """What a strategy has done.

    :ivar schedules: runs to an end, or to a state that was met before.
    :ivar merged: how many of them the latter.
    :ivar rechecked: how many were run twice.
    :ivar exhaustive: nothing was left out within the bound.
    """

    schedules: int = 0
    merged: int = 0
    rechecked: int = 0
    exhaustive: bool = False
    found: list[Found] = field(default_factory=list[Found])


Progress = Callable[[Outcome], None]


class Strategy(Protocol):
    """One way to choose schedules."""

    def run(self, system: System, progress: Progress | None = None, outcome: Outcome | None = None) -> Outcome:
        """Explore ``system`` from its start.

        :param outcome: to be filled in, for who wants what there is when the run is interrupted.
        """
        ...


def check_repeats(system: System) -> None:
    """Run the schedule that led to the present state again, and compare.

    :raises ReplayDivergence: the states, or the verdicts, differ.
    """
    key, violation, trace = system.key(), system.violation, system.trace
    segments = segments_of(trace)
    system.reset()
    for actor, steps in segments:
        left = steps
        while left > 0:
            system.choices()
            left -= max(1, system.take(actor, left))
    if trace is not None and violation is not None and system.violation is None:  # the last thing it did was to find that it can't go on
        system.choices()
        system.take(trace[1], 1)
    system.choices()
    if system.key() != key or system.violation != violation:
        raise ReplayDivergence(f"a schedule of {len(segments)} segments ended differently when it was run again")


def run_numbered(
    system: System, numbers: range, one: Callable[[int], None], outcome: Outcome, progress: Progress | None, recheck_every: int
) -> Outcome:
    """Run schedule ``one(n)`` for each number, up to the first violation: what the strategies that draw schedules have in common."""
    for number in numbers:
        one(number)
        outcome.schedules += 1
        if system.violation is not None:
            outcome.found.append(Found(system.violation, segments_of(system.trace)))
        if recheck_every and outcome.schedules % recheck_every == 0:
            check_repeats(system)
            outcome.rechecked += 1
        if progress is not None and outcome.schedules % _PROGRESS_EVERY == 0:
            progress(outcome)
        if outcome.found:
            break
    return outcome
