"""Probabilistic concurrency testing (Burckhardt et al., ASPLOS 2010).

Priorities are drawn by chance and lowered at ``depth`` - 1 points. A fault that takes ``depth``
ordering constraints is found by one schedule with a probability of at least 1 / (n k^(depth-1)),
for n actors and k choice points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from engine.search.actor import Actor, ActorKind
from engine.search.explorable import Choice
from engine.search.strategy import Strategy

__all__ = ("Pct",)

_FETCH, _VCPU = ActorKind.FETCH, ActorKind.VCPU
_BITS: Final = 40
"""The number of bits of a random priority, and of a random point of change. With so many, equal
priorities are too rare to matter, and the remainder of the division favours no point noticeably.
"""
_EVENT_BITS: Final = 30
"""The number of bits of a random number that picks one of a few events."""


class Pct(Strategy):
    """A strategy that lets the actor with the highest priority go on.

    At a point of change either an event comes, or that actor's priority becomes the lowest of all.

    :param seed: schedule ``n`` is drawn from ``seed`` and ``n``.
    :param depth: one more than there are points of change in a schedule; at least 1.
    """

    def __init__(self, *, seed: int, depth: int = 3) -> None:
        self.seed = seed
        self.depth = depth
        self._length = 0
        self._start(Random(0))  # begin() gives each schedule a generator of its own.

    def prepare(self, draw: Callable[[], int]) -> None:
        """Find out how many choices a schedule has, by running one without points of change."""
        if not self._length:
            self._start(Random(f"{self.seed}:length"))
            self._length = draw()

    def begin(self, number: int) -> bool:
        """Draw the points of change of schedule ``number``; every number has its schedule."""
        self._start(Random(f"{self.seed}:{number}"))
        draw, length = self._random.getrandbits, max(1, self._length)
        self._changes = sorted(draw(_BITS) % length for _ in range(self.depth - 1))
        return True

    def _start(self, random: Random) -> None:
        self._random = random
        self._changes: list[int] = []
        self._priority: dict[Actor, int] = {}
        self._lowest = 0
        self._points = 0

    def choose(self, choices: Sequence[Choice]) -> Choice:
        """Return the choice of the actor with the highest priority; an event may come instead.

        An event comes only at a point of change.
        """
        random, priority = self._random, self._priority
        actors = [choice for choice in choices if not choice.actor.is_event]
        events = [choice for choice in choices if choice.actor.is_event]
        for choice in actors:
            if choice.actor not in priority:
                priority[choice.actor] = 1 + random.getrandbits(_BITS)
        best = max(actors, key=lambda choice: priority[choice.actor])
        if self._changes and self._points >= self._changes[0]:
            self._changes = self._changes[1:]
            if events and random.getrandbits(1):
                best = events[random.getrandbits(_EVENT_BITS) % len(events)]
            else:
                self._lowest -= 1
                priority[best.actor] = self._lowest
                best = max(actors, key=lambda choice: priority[choice.actor])
        self._points += 1
        # Which stores a fetch sees is drawn at each fetch, since it is no preemption.
        other = next((one for one in events if one.actor == (_FETCH, best.actor.index)), None)
        if other is not None and best.actor.kind is _VCPU and random.getrandbits(1):
            return other
        return best
