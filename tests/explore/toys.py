"""Systems small enough to count by hand."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from engine.search.actor import Actor, ActorKind
from engine.search.explorable import Choice, Coverage, Violation, ViolationKind


class Counter:
    """Actors that each add 1 to a shared cell, ``rounds`` times (each its own number), by a load
    and a store: two steps a round.

    :param bad: final values that are a violation.
    """

    def __init__(self, actors: int, rounds: int | Sequence[int], bad: Sequence[int] = ()) -> None:
        self.actors = actors
        self.steps = [2 * n for n in ([rounds] * actors if isinstance(rounds, int) else rounds)]
        self.bad = bad
        self.outcomes: set[int] = set()
        self.schedules: list[str] = []
        self.coverage = Coverage()
        self.points: set[int] = set()
        self.reset()

    def reset(self) -> None:
        self.done = [0] * self.actors
        self.held = [0] * self.actors
        self.cell = 0
        self.cur: Actor | None = None
        self.path = ""
        self.trace: Any = None
        self.violation: Violation | None = None

    def choices(self) -> Sequence[Choice]:
        if self.violation is not None:
            return ()
        live = [
            Actor(ActorKind.VCPU, a) for a in range(self.actors) if self.done[a] < self.steps[a]
        ]
        if not live:
            self.outcomes.add(self.cell)
            self.schedules.append(self.path)
            if self.cell in self.bad:
                self.violation = Violation(
                    ViolationKind.WRONG_RESULT, None, None, f"the cell holds {self.cell}"
                )
            return ()
        if self.cur is not None and self.cur in live:
            return [Choice(self.cur, 0), *(Choice(a, 1) for a in live if a != self.cur)]
        return [Choice(a, 0) for a in live]

    def take(self, actor: Actor, most: int | None = None, *, alone: bool = False) -> int:
        a = actor.index
        if self.done[a] % 2 == 0:
            self.held[a] = self.cell
        else:
            self.cell = self.held[a] + 1
        self.done[a] += 1
        self.cur = actor
        self.path += str(actor)
        trace = self.trace
        if trace is not None and trace[1] == actor:
            self.trace = (trace[0], actor, trace[2] + 1)
        else:
            self.trace = (trace, actor, 1)
        return 1

    def save(self) -> Any:
        return self.done[:], self.held[:], self.cell, self.cur, self.path, self.trace

    def restore(self, state: Any) -> None:
        done, held, self.cell, self.cur, self.path, self.trace = state
        self.done, self.held = done[:], held[:]
        self.violation = None

    def release(self, state: Any) -> None:
        pass

    def key(self) -> int:
        told = repr((self.done, self.held, self.cell, str(self.cur or "")))
        return int.from_bytes(blake2b(told.encode(), digest_size=8).digest())
