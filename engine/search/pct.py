"""Probabilistic concurrency testing: priorities by chance, lowered at ``depth`` - 1 points
(Burckhardt et al., ASPLOS 2010).

A fault that takes ``depth`` ordering constraints is found by one schedule with a probability of at
least 1 / (n k^(depth-1)), for n actors and k choice points.
"""

from __future__ import annotations

from random import Random

from engine.search.actor import Actor
from engine.search.explorable import System
from engine.search.seeded import Numbered
from engine.search.strategy import RECHECK_EVERY

__all__ = ("Pct",)


class Pct(Numbered):
    """The strategy. ``depth``: at least 1."""

    def __init__(
        self,
        *,
        seed: int,
        schedules: int,
        depth: int = 3,
        first: int = 0,
        recheck_every: int = RECHECK_EVERY,
    ) -> None:
        super().__init__(seed=seed, schedules=schedules, first=first, recheck_every=recheck_every)
        self.depth = depth
        self._length = 0

    def prepare(self, system: System) -> None:
        """How long a schedule is, by one of them."""
        self._length = self._length or self._run(system, Random(f"{self.seed}:length"), [])

    def one(self, system: System, random: Random) -> None:
        """With points of change all along."""
        self._run(
            system,
            random,
            sorted(random.getrandbits(40) % max(1, self._length) for _ in range(self.depth - 1)),
        )

    def _run(self, system: System, random: Random, changes: list[int]) -> int:
        """One schedule. Returns how many choice points it had."""
        system.reset()
        priority: dict[Actor, int] = {}
        points = 0
        lowest = 0
        while True:
            choices = system.choices()
            if not choices:
                return points
            actors = [choice for choice in choices if not choice.actor.is_event]
            events = [choice for choice in choices if choice.actor.is_event]
            for choice in actors:
                if choice.actor not in priority:
                    priority[choice.actor] = 1 + random.getrandbits(40)
            best = max(actors, key=lambda choice: priority[choice.actor])
            if changes and points >= changes[0]:
                changes = changes[1:]
                if events and random.getrandbits(1):
                    best = events[random.getrandbits(30) % len(events)]
                else:
                    lowest -= 1
                    priority[best.actor] = lowest
                    best = max(actors, key=lambda choice: priority[choice.actor])
            points += 1
            system.take(best.actor)
