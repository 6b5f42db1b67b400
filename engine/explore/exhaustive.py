"""Depth first through every schedule within a preemption bound (Musuvathi and Qadeer, PLDI 2007)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from engine.explore.system import Choice, System, Violation

__all__ = ("Exhaustive", "Found", "Outcome")


@dataclass(frozen=True, slots=True)
class Found:
    """A violation, and how it came about: the system's trace (segments of actor and steps, latest first)."""

    violation: Violation
    trace: Any


@dataclass(slots=True)
class Outcome:
    """What a strategy has done. ``schedules``: runs to an end, or to a state that was met before. ``complete``: nothing was left out
    within the bound."""

    schedules: int = 0
    merged: int = 0
    complete: bool = False
    found: list[Found] = field(default_factory=list[Found])


class _Frame:
    """A state with choices left."""

    __slots__ = ("left", "rest", "state")

    def __init__(self, state: Any, left: int, rest: list[Choice]) -> None:
        self.state = state
        self.left = left
        self.rest = rest


class Exhaustive:
    """The strategy.

    :param bound: what the choices of a schedule may cost together; None: anything.
    :param hashing: go on from a state only if it was not met before with as much of the bound left. It keeps the set of outcomes.
    :param max_schedules: stop after so many.
    :param violations_max: stop after so many.
    """

    def __init__(
        self, *, bound: int | None, hashing: bool = True, max_schedules: int | None = None, violations_max: int = 1
    ) -> None:  # fmt: skip
        self.bound = bound
        self.hashing = hashing
        self.max_schedules = max_schedules
        self.violations_max = violations_max
        self._seen: dict[int, int] = {}

    def run(self, system: System, progress: Callable[[Outcome], None] | None = None) -> Outcome:
        """Explore ``system`` from its start."""
        outcome = Outcome()
        system.reset()
        left = 1 << 30 if self.bound is None else self.bound
        stack: list[_Frame] = []
        while True:
            if self._forward(system, left, stack, outcome):
                outcome.schedules += 1
                if system.violation is not None:
                    outcome.found.append(Found(system.violation, system.trace))
            if progress is not None and outcome.schedules % 256 == 0:
                progress(outcome)
            over = self.max_schedules is not None and outcome.schedules >= self.max_schedules
            if len(outcome.found) >= self.violations_max or over:
                for frame in stack:
                    system.release(frame.state)
                return outcome
            left = self._back(system, stack)
            if left < 0:
                outcome.complete = True
                return outcome

    def _forward(self, system: System, left: int, stack: list[_Frame], outcome: Outcome) -> bool:
        """On to the end of the schedule, leaving a frame wherever there was a choice. False: cut short, counted as merged."""
        while True:
            choices = [choice for choice in system.choices() if choice.cost <= left]
            if not choices:
                return True
            if len(choices) > 1:
                if self.hashing:
                    key = system.key()
                    if self._seen.get(key, -1) >= left:
                        outcome.merged += 1
                        return True
                    self._seen[key] = left
                stack.append(_Frame(system.save(), left, choices[:0:-1]))
            choice = choices[0]
            left -= choice.cost
            system.take(choice.actor)

    def _back(self, system: System, stack: list[_Frame]) -> int:
        """To the latest state with a choice left, and take it. Returns what is left of the bound; below 0: there is none."""
        while stack:
            frame = stack[-1]
            choice = frame.rest.pop()
            system.restore(frame.state)
            if not frame.rest:
                system.release(frame.state)
                stack.pop()
            system.take(choice.actor)
            return frame.left - choice.cost
        return -1
