"""Leads a search: parts go to who runs them, and what they come to is put together in the
search's order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, Protocol

from engine.process_pool import ProcessPool
from engine.search.checkpoint import Checkpoint
from engine.search.explorable import System
from engine.search.parts import Outcome, PartedSearch, PartResult, Tick

__all__ = ("InProcess", "PartRunner", "Progress", "Workers", "drive", "explore")

Progress = Callable[[int, int | None], None]
"""Called now and then with the number of schedules so far, and about how many there will be, where
that can be told.
"""


class PartRunner(Protocol):
    """Works on parts of a search."""

    def work(self, parts: Sequence[Any], tick: Tick | None) -> Iterator[PartResult]:
        """What each of ``parts`` comes to, in their order.

        :param tick: called now and then with the number of schedules of these parts so far.
        """
        ...

    def learn(self, keys: bytes) -> None:
        """Take in the ``keys`` of states that were met, before the next parts."""
        ...

    def close(self) -> None:
        """There will be no more parts."""
        ...


class InProcess:
    """Works on parts in this process, one after another."""

    def __init__(self, search: PartedSearch, system: System) -> None:
        self._search = search
        self._system = system

    def work(self, parts: Sequence[Any], tick: Tick | None) -> Iterator[PartResult]:
        """See :class:`PartRunner`."""
        for part in parts:
            yield self._search.work(self._system, part, tick)

    def learn(self, keys: bytes) -> None:
        """Take in the ``keys`` of states that were met, before the next parts."""
        self._search.learn(keys)

    def close(self) -> None:
        """There is nothing to end."""


class Workers:
    """Several processes, each with a system of its own. Until there is a batch of more than one
    part, this process works alone.

    :param search: what all of them know so far.
    :param system: this process's own; ``make``: makes one for a worker, in its process.
    :param number: how many; at least 2.
    """

    def __init__(
        self, search: PartedSearch, system: System, make: Callable[[], System], number: int
    ) -> None:
        self._here = InProcess(search, system)
        self._pool: ProcessPool[System, Any, PartResult] = ProcessPool(
            make, search.work, number, learn=search.learn
        )

    def work(self, parts: Sequence[Any], tick: Tick | None) -> Iterator[PartResult]:
        """What each comes to, in order, whoever is done first."""
        if len(parts) < 2 and not self._pool.started:
            yield from self._here.work(parts, tick)
            return
        schedules = 0

        def came(result: PartResult) -> None:
            nonlocal schedules
            schedules += result.schedules
            if tick is not None:
                tick(schedules)

        for result in self._pool.in_order(parts, came):
            schedules -= result.schedules
            yield result

    def learn(self, keys: bytes) -> None:
        """Make the keys known to all processes before their next parts."""
        self._pool.learn(keys)

    def close(self) -> None:
        """End the processes, whatever they are doing."""
        self._pool.close()


def drive(
    search: PartedSearch,
    runner: PartRunner,
    outcome: Outcome,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> Outcome:
    """Search to the end.

    :param outcome: to be filled in, for who wants what there is when the search is interrupted.
    :param checkpoint: what was found before, to go on from, and where to write down what is found.
    """
    while parts := search.batch(outcome):
        known = checkpoint.known(len(parts)) if checkpoint is not None else []

        def tick(schedules: int) -> None:
            if progress is not None:
                progress(outcome.schedules + schedules, search.expected(outcome))

        keys = b""
        for number, result in enumerate(chain(known, runner.work(parts[len(known) :], tick))):
            if checkpoint is not None and number >= len(known):
                checkpoint.write(result)
            outcome.add(result)
            search.merge(result)
            keys += result.keys
            if result.found and len(outcome.found) >= search.violations_max:
                return outcome
        runner.learn(keys)
    return outcome


def explore(search: PartedSearch, system: System, progress: Progress | None = None) -> Outcome:
    """Search ``system`` to the end, in this process."""
    return drive(search, InProcess(search, system), Outcome(), progress)
