"""Probabilistic concurrency testing: priorities by chance, lowered at ``depth`` - 1 points (Burckhardt et al., ASPLOS 2010).

A fault that takes ``depth`` ordering constraints is found by one schedule with a probability of at least 1 / (n k^(depth-1)), for n
actors and k choice points.
"""

from __future__ import annotations

from random import Random

from engine.explore.strategy import RECHECK_EVERY, Outcome, Progress, run_numbered
from engine.explore.system import Choice, System

__all__ = ("Pct",)


class Pct:
    """The strategy. ``seed``, ``schedules``, ``first`` as of a random walk; ``depth``: at least 1."""

    def __init__(self, *, seed: int, schedules: int, depth: int = 3, first: int = 0, recheck_every: int = RECHECK_EVERY) -> None:
        self.seed = seed
        self.schedules = schedules
        self.depth = depth
        self.first = first
        self.recheck_every = recheck_every

    def run(self, system: System, progress: Progress | None = None, outcome: Outcome | None = None) -> Outcome:
        """Draw and run them, up to the first violation."""
        length = self._one(system, Random(f"{self.seed}:length"), [])
        numbers = range(self.first, self.first + self.schedules)

        def one(number: int) -> None:
            random = Random(f"{self.seed}:{number}")
            self._one(system, random, sorted(random.getrandbits(40) % max(1, length) for _ in range(self.depth - 1)))

        return run_numbered(system, numbers, one, outcome or Outcome(), progress, self.recheck_every)

    def _one(self, system: System, random: Random, changes: list[int]) -> int:
        """One schedule. Returns how many choice points it had."""
        system.reset()
        priority: dict[str, int] = {}
        points = 0
        lowest = 0
        while True:
            choices = system.choices()
            if not choices:
                return points
            actors = [choice for choice in choices if not self._is_event(choice)]
            events = [choice for choice in choices if self._is_event(choice)]
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

    def _is_event(self, choice: Choice) -> bool:
        """Something that happens to a vCPU, not somebody who goes on."""
        return choice.actor[0] in "inp"
