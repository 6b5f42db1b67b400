"""A search that has a strategy draw schedules one by one, up to a limit or to the first violation.

It is cut into parts by the numbers of the schedules. A schedule depends on its number alone, so
what is found does not depend on which process draws which schedule.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence
from typing import Final

from engine.errors import InputError
from engine.search.explorable import Coverage, System
from engine.search.parts import (
    BATCH,
    RECHECK_EVERY,
    TICK_EVERY,
    Found,
    Outcome,
    PartResult,
    Tick,
    check_repeats,
)
from engine.search.schedule import segments_of
from engine.search.strategy import Strategy

__all__ = ("Drawn",)

_PART: Final = 256
"""Schedules of a part. Such a part takes seconds, which is long against what it costs to send one
to a worker, and short against a whole search.
"""


class Drawn:
    """The search.

    :param strategy: decides on each schedule.
    :param schedules: at most how many there are; the strategy may end the search sooner.
    :param bound: what the choices of a schedule may cost together; None: anything.
    :param first: the number of the first schedule.
    :param recheck_every: one schedule in so many is run a second time; 0: none.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        schedules: int,
        bound: int | None = None,
        first: int = 0,
        recheck_every: int = RECHECK_EVERY,
    ) -> None:
        self.strategy = strategy
        self.schedules = schedules
        self.bound = bound
        self.recheck_every = recheck_every
        self.violations_max = 1
        self._next = first
        self._end = first + schedules
        self._given: deque[range] = deque()

    def batch(self, outcome: Outcome) -> Sequence[range]:
        """The next numbers, up to the first violation, or to where the strategy ended the
        search.
        """
        parts: list[range] = []
        while not outcome.found and self._next < self._end and len(parts) < BATCH:
            parts.append(range(self._next, min(self._next + _PART, self._end)))
            self._next = parts[-1].stop
        self._given.extend(parts)
        return parts

    def merge(self, result: PartResult) -> None:
        """A part that came to fewer schedules than it has numbers, without a violation, is where
        the strategy ended the search.
        """
        if result.schedules < len(self._given.popleft()) and not result.found:
            self._end = self._next

    def expected(self, outcome: Outcome) -> int:
        """All schedules up to the limit."""
        del outcome
        return self.schedules

    def learn(self, keys: bytes) -> None:
        """A strategy that draws schedules does not ask which states were met before."""
        del keys

    def work(self, system: System, part: range, tick: Tick | None = None) -> PartResult:
        """Draw the schedules with the numbers of ``part``, up to the first violation.

        :raises InputError: the strategy has chosen what was not offered.
        """
        result = PartResult()
        self.strategy.prepare(lambda: self._draw(system))
        system.coverage, system.points = Coverage(), set()
        for number in part:
            if not self.strategy.begin(number):
                break
            self._draw(system)
            result.schedules += 1
            if system.violation is not None:
                result.found.append(Found(system.violation, segments_of(system.trace)))
            if self.recheck_every and (number + 1) % self.recheck_every == 0:
                check_repeats(system)
                result.rechecked += 1
            if tick is not None and result.schedules % TICK_EVERY == 0:
                tick(result.schedules)
            if result.found:
                break
        result.coverage, result.points = system.coverage, array("Q", system.points).tobytes()
        return result

    def _draw(self, system: System) -> int:
        """Run one schedule from the start to its end. Returns how many choices it had."""
        choose, left, made = self.strategy.choose, self.bound, 0
        system.reset()
        while choices := system.choices():
            if left is not None:
                choices = [choice for choice in choices if choice.cost <= left]
                if not choices:
                    break
            choice = choose(choices)
            if choice is None:
                break
            if choice not in choices:
                offered = ", ".join(str(one.actor) for one in choices)
                raise InputError(
                    f"strategy {type(self.strategy).__name__}: choose() has returned {choice!r},"
                    f" which was not offered; it has to return one of its choices ({offered}), or"
                    " None"
                )
            if left is not None:
                left -= choice.cost
            made += 1
            system.take(choice.actor)
        return made
