"""Schedules by chance, each from a seed of its own, so that which ones are run does not depend on who runs them."""

from __future__ import annotations

from random import Random
from typing import Final

from engine.explore.strategy import RECHECK_EVERY, Outcome, Progress, run_numbered
from engine.explore.system import System

__all__ = ("RandomWalk",)

_STAY: Final = 8


class RandomWalk:
    """The strategy.

    :param seed: of the whole; schedule ``n`` is drawn from ``seed`` and ``n``.
    :param schedules: how many.
    :param bound: what the choices of a schedule may cost together; None: anything.
    :param first: number of the first schedule.
    """

    def __init__(
        self, *, seed: int, schedules: int, bound: int | None = None, first: int = 0, recheck_every: int = RECHECK_EVERY
    ) -> None:  # fmt: skip
        self.seed = seed
        self.schedules = schedules
        self.bound = bound
        self.first = first
        self.recheck_every = recheck_every

    def run(self, system: System, progress: Progress | None = None, outcome: Outcome | None = None) -> Outcome:
        """Draw and run them, up to the first violation."""
        numbers = range(self.first, self.first + self.schedules)

        def one(number: int) -> None:
            self._one(system, Random(f"{self.seed}:{number}"))

        return run_numbered(system, numbers, one, outcome or Outcome(), progress, self.recheck_every)

    def _one(self, system: System, random: Random) -> None:
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
