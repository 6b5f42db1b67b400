"""A system that is two: an exploration on the machine, and the same one over numbers. Each is asked
and told what the other is, and the first difference is an AssertionError with the schedule.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from arch_x86.emu.uc import UcPool
from arch_x86.explore.open_experiment import open_experiment
from engine.patching.automata.numbered import NumberedExploration
from engine.patching.experiment import Experiment
from engine.search.schedule import segments_of, text_of


class BothSystems:
    """A :class:`engine.search.explorable.System` of ``plain`` and ``numbered``."""

    def __init__(self, plain, numbered) -> None:
        self.plain = plain
        self.numbered = numbered
        self.names: dict[int, int] = {}
        self.names_back: dict[int, int] = {}

    def _same(self, what: str, plain, numbered) -> None:
        schedule = text_of(segments_of(self.plain.trace))
        assert plain == numbered, (schedule, what, plain, numbered)

    @property
    def coverage(self):
        return self.plain.coverage

    @coverage.setter
    def coverage(self, coverage) -> None:
        self.plain.coverage, self.numbered.coverage = coverage, replace(coverage)

    @property
    def points(self):
        return self.plain.points

    @points.setter
    def points(self, points) -> None:
        self.plain.points, self.numbered.points = points, set(points)

    @property
    def trace(self):
        return self.plain.trace

    @property
    def violation(self):
        self._same("violation", self.plain.violation, self.numbered.violation)
        return self.plain.violation

    def reset(self) -> None:
        self.plain.reset()
        self.numbered.reset()

    def save(self):
        return self.plain.save(), self.numbered.save()

    def restore(self, state) -> None:
        self.plain.restore(state[0])
        self.numbered.restore(state[1])

    def release(self, state) -> None:
        self.plain.release(state[0])
        self.numbered.release(state[1])

    def choices(self):
        found = list(self.plain.choices())
        self._same("choices", found, list(self.numbered.choices()))
        assert self.violation is None or not found
        return found

    def key(self) -> int:
        """The name of the machine's state; equal names have to be equal names of numbers."""
        name, number = self.plain.key(), self.numbered.key()
        self._same("names", self.names.setdefault(name, number), number)
        self._same("names", self.names_back.setdefault(number, name), name)
        return name

    def take(self, actor, most=None, *, alone=False) -> int:
        steps = self.plain.take(actor, most, alone=alone)
        self._same("steps", steps, self.numbered.take(actor, most, alone=alone))
        self._same("coverage", self.plain.coverage, self.numbered.coverage)
        self._same("points", self.plain.points, self.numbered.points)
        return steps


@contextmanager
def both(case: Experiment, pool: UcPool) -> Iterator[BothSystems]:
    """The two systems of ``case``, each on a machine of its own."""
    plain = open_experiment(case, pool)
    under = open_experiment(case, pool, orders=plain.orders)
    try:
        yield BothSystems(plain, NumberedExploration(under))
    finally:
        plain.close()
        under.close()
