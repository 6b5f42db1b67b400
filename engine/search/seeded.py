"""What strategies have in common that draw schedules: each from a seed of its own, whoever
runs it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Sequence
from random import Random
from typing import Final

from engine.search.explorable import Coverage, System
from engine.search.schedule import segments_of
from engine.search.strategy import (
    BATCH,
    RECHECK_EVERY,
    TICK_EVERY,
    Found,
    Outcome,
    PartResult,
    Tick,
    check_repeats,
)

__all__ = ("Numbered",)

_PART: Final = 256


class Numbered(ABC):
    """The strategy, but for :meth:`one`.

    :param seed: of the whole; schedule ``n`` is drawn from ``seed`` and ``n``.
    :param schedules: how many.
    :param first: number of the first schedule.
    """

    def __init__(
        self, *, seed: int, schedules: int, first: int = 0, recheck_every: int = RECHECK_EVERY
    ) -> None:
        self.seed = seed
        self.schedules = schedules
        self.recheck_every = recheck_every
        self.violations_max = 1
        self._next = first
        self._end = first + schedules

    def batch(self, outcome: Outcome) -> Sequence[range]:
        """The next numbers, up to the first violation."""
        parts: list[range] = []
        while not outcome.found and self._next < self._end and len(parts) < BATCH:
            parts.append(range(self._next, min(self._next + _PART, self._end)))
            self._next = parts[-1].stop
        return parts

    def merge(self, result: PartResult) -> None:
        """No part knows of another."""
        del result

    def expected(self, outcome: Outcome) -> int:
        """All of them."""
        del outcome
        return self.schedules

    def learn(self, keys: bytes) -> None:
        """Nor of what it found."""
        del keys

    def work(self, system: System, part: range, tick: Tick | None = None) -> PartResult:
        """Draw and run them, up to the first violation."""
        result = PartResult()
        self.prepare(system)
        system.coverage, system.points = Coverage(), set()
        for number in part:
            self.one(system, Random(f"{self.seed}:{number}"))
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

    def prepare(self, system: System) -> None:
        """Before a part."""
        del system

    @abstractmethod
    def one(self, system: System, random: Random) -> None:
        """One schedule, from the start to its end."""
