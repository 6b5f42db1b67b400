"""Depth first through every schedule within a preemption bound (Musuvathi and Qadeer, PLDI 2007)."""

from __future__ import annotations

from typing import Any

from engine.explore.schedule import segments_of
from engine.explore.strategy import RECHECK_EVERY, Found, Outcome, Progress, check_repeats
from engine.explore.system import Choice, System

__all__ = ("Exhaustive",)


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
    :param recheck_every: one schedule in so many is run a second time; 0: none.
    """

    def __init__(
        self,
        *,
        bound: int | None,
        hashing: bool = True,
        max_schedules: int | None = None,
        violations_max: int = 1,
        recheck_every: int = RECHECK_EVERY,
    ) -> None:
        self.bound = bound
        self.hashing = hashing
        self.max_schedules = max_schedules
        self.violations_max = violations_max
        self.recheck_every = recheck_every
        self._seen: dict[int, int] = {}

    def run(self, system: System, progress: Progress | None = None, outcome: Outcome | None = None) -> Outcome:
        """Explore ``system`` from its start."""
        outcome = outcome or Outcome()
        system.reset()
        left = 1 << 30 if self.bound is None else self.bound
        stack: list[_Frame] = []
        while True:
            self._forward(system, left, stack, outcome)
            outcome.schedules += 1
            if system.violation is not None:
                outcome.found.append(Found(system.violation, segments_of(system.trace)))
            if self.recheck_every and outcome.schedules % self.recheck_every == 0:
                check_repeats(system)
                outcome.rechecked += 1
            if progress is not None and outcome.schedules % 256 == 0:
                progress(outcome)
            over = self.max_schedules is not None and outcome.schedules >= self.max_schedules
            if len(outcome.found) >= self.violations_max or (over and stack):
                for frame in stack:
                    system.release(frame.state)
                return outcome
            left = self._back(system, stack)
            if left < 0:
                outcome.exhaustive = True
                return outcome

    def _price(self, choice: Choice) -> int:
        """Without a bound nothing is spent, or equal states would not be met with as much left."""
        return 0 if self.bound is None else choice.cost

    def _forward(self, system: System, left: int, stack: list[_Frame], outcome: Outcome) -> None:
        """On to the end of the schedule, or to a known state, leaving a frame wherever there was a choice."""
        while True:
            choices = [choice for choice in system.choices() if choice.cost <= left]
            if not choices:
                return
            if len(choices) > 1:
                if self.hashing:
                    key = system.key()
                    if self._seen.get(key, -1) >= left:
                        outcome.merged += 1
                        return
                    self._seen[key] = left
                stack.append(_Frame(system.save(), left, choices[:0:-1]))
            left -= self._price(choices[0])
            system.take(choices[0].actor, alone=left == 0)

    def _back(self, system: System, stack: list[_Frame]) -> int:
        """To the latest state with a choice left, and take it. Returns what is left of the bound; below 0: there is none."""
        if not stack:
            return -1
        frame = stack[-1]
        choice = frame.rest.pop()
        system.restore(frame.state)
        if not frame.rest:
            system.release(frame.state)
            stack.pop()
        left = frame.left - self._price(choice)
        system.take(choice.actor, alone=left == 0)
        return left
