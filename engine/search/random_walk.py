"""A random walk: schedules whose choices are drawn by chance."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from engine.search.explorable import Choice
from engine.search.strategy import Strategy

__all__ = ("RandomWalk",)

_STAY: Final = 8
"""At all but one of so many choices the actor that went on last goes on, if that costs nothing.
Without that a walk would change between actors at every choice, and none would get far.
"""
_BITS: Final = 30
"""The number of bits of a random number that picks a choice. With so many, the remainder of the
division favours no choice noticeably.
"""


class RandomWalk(Strategy):
    """A strategy that mostly lets the same actor go on, and else draws any choice.

    The choices are drawn with equal chances.

    :param seed: schedule ``n`` is drawn from ``seed`` and ``n``.
    """

    def __init__(self, *, seed: int) -> None:
        self.seed = seed
        self._random = Random(0)  # begin() gives each schedule a generator of its own.

    def begin(self, number: int) -> bool:
        """Seed the generator for schedule ``number``; every number has its schedule."""
        self._random = Random(f"{self.seed}:{number}")
        return True

    def choose(self, choices: Sequence[Choice]) -> Choice:
        """Return the first choice most times, if it costs nothing, and else any choice."""
        random = self._random
        if choices[0].cost == 0 and random.getrandbits(_BITS) % _STAY:
            return choices[0]
        return choices[random.getrandbits(_BITS) % len(choices)]
