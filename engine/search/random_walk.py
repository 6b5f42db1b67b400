"""Schedules by chance."""

from __future__ import annotations

from random import Random
from typing import Final

from engine.search.explorable import System
from engine.search.seeded import Numbered
from engine.search.strategy import RECHECK_EVERY

__all__ = ("RandomWalk",)

_STAY: Final = 8


class RandomWalk(Numbered):
    """The strategy. ``bound``: what the choices of a schedule may cost together; None: anything."""

    def __init__(
        self,
        *,
        seed: int,
        schedules: int,
        bound: int | None = None,
        first: int = 0,
        recheck_every: int = RECHECK_EVERY,
    ) -> None:
        super().__init__(seed=seed, schedules=schedules, first=first, recheck_every=recheck_every)
        self.bound = bound

    def one(self, system: System, random: Random) -> None:
        """Mostly on as before, or nothing would ever get far."""
        system.reset()
        left = 1 << 30 if self.bound is None else self.bound
        while True:
            choices = [choice for choice in system.choices() if choice.cost <= left]
            if not choices:
                return
            stay = choices[0].cost == 0 and random.getrandbits(30) % _STAY
            choice = choices[0] if stay else choices[random.getrandbits(30) % len(choices)]
            left -= choice.cost
            system.take(choice.actor)
