"""A search whose schedules a strategy draws one by one, up to a limit or to the first violation.

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
"""The number of schedules of a part. Such a part takes seconds, which is long against what it costs
to send one to a worker, and short against a whole search.
"""


class Drawn:
    """A search whose schedules are drawn by ``strategy``.

    :param strategy: decides on each schedule.
    :param schedules: the most schedules that are drawn; the strategy may end the search sooner.
    :param bound: what the choices of a schedule may cost together; None: there is no bound.
    :param first: the number of the first schedule.
    :param recheck_every: one schedule in so many is run a second time; 0: none is.
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
        """Return the next parts, each a range of numbers of schedules.

        There are none behind the first violation, or behind the part in which the strategy ended
        the search.
        """
        parts: list[range] = []
        while not outcome.found and self._next < self._end and len(parts) < BATCH:
            parts.append(range(self._next, min(self._next + _PART, self._end)))
            self._next = parts[-1].stop
        self._given.extend(parts)
        return parts

    def merge(self, result: PartResult) -> None:
        """End the search if the strategy has ended it in the part of ``result``.

        The part then has fewer schedules than numbers, and no violation that would explain it.
        """
        if result.schedules < len(self._given.popleft()) and not result.found:
            self._end = self._next

    def expected(self, outcome: Outcome) -> int:
        """Return the limit, since the strategy may use it up."""
        del outcome
        return self.schedules

    def learn(self, keys: bytes) -> None:
        """Ignore the keys, since a strategy does not ask which states were met before."""
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
        """Run one schedule from the start to its end.

        :returns: how many choices it had.
        """
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
