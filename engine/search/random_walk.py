"""Schedules by chance."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from engine.search.explorable import Choice
from engine.search.strategy import Strategy

__all__ = ("RandomWalk",)

_STAY: Final = 8
"""At seven of so many choices whoever went on last goes on, if that costs nothing. Without that a
walk would change between actors at every choice, and none of them would get far.
"""
_BITS: Final = 30
"""Bits of a random number that picks a choice: so many more than there are choices that the
remainder of the division favours none noticeably.
"""


class RandomWalk(Strategy):
    """Mostly on as before, and else any of the choices, each as likely as the others.

    :param seed: schedule ``n`` is drawn from ``seed`` and ``n``.
    """

    def __init__(self, *, seed: int) -> None:
        self.seed = seed
        self._random = Random(0)  # of no schedule: begin() gives each its own

    def begin(self, number: int) -> bool:
        """Every number has its schedule."""
        self._random = Random(f"{self.seed}:{number}")
        return True

    def choose(self, choices: Sequence[Choice]) -> Choice:
        """See :class:`RandomWalk`."""
        random = self._random
        if choices[0].cost == 0 and random.getrandbits(_BITS) % _STAY:
            return choices[0]
        return choices[random.getrandbits(_BITS) % len(choices)]
