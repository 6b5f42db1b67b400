"""How a search is driven: a runner gets its parts, and their results are put together.

The results are put together in the order of the parts, so the whole does not depend on which
process is done first.
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
"""A function that is called now and then with the number of schedules so far, and with the number
that is expected in all; None: that can't be told yet.
"""


class PartRunner(Protocol):
    """A runner, which works on the parts of a search."""

    def work(self, parts: Sequence[Any], tick: Tick | None) -> Iterator[PartResult]:
        """Work on ``parts``, and yield their results in the order of the parts.

        :param tick: called now and then with the number of schedules of these parts so far.
        """
        ...

    def learn(self, keys: bytes) -> None:
        """Take in the ``keys`` of states that were met, before the next parts."""
        ...

    def close(self) -> None:
        """End the runner, which gets no more parts."""
        ...


class InProcess:
    """A runner that works on parts in this process, one after another."""

    def __init__(self, search: PartedSearch, system: System) -> None:
        self._search = search
        self._system = system

    def work(self, parts: Sequence[Any], tick: Tick | None) -> Iterator[PartResult]:
        """Work on ``parts`` one after another, and yield the result of each once it is there."""
        for part in parts:
            yield self._search.work(self._system, part, tick)

    def learn(self, keys: bytes) -> None:
        """Take in the ``keys`` of states that were met, before the next parts."""
        self._search.learn(keys)

    def close(self) -> None:
        """Do nothing, since this runner has no processes that would have to end."""


class Workers:
    """A runner with several processes, each of which has a system of its own.

    Until there is a batch of more than one part, this process works alone, since a short search
    would be over before the processes had started.

    :param search: the search that all of them work on, with what it knows so far.
    :param system: this process's own system.
    :param make: makes the system of a worker, in the worker's process.
    :param number: the number of processes, at least 2.
    """

    def __init__(
        self, search: PartedSearch, system: System, make: Callable[[], System], number: int
    ) -> None:
        self._here = InProcess(search, system)
        self._pool: ProcessPool[System, Any, PartResult] = ProcessPool(
            make, search.work, number, learn=search.learn
        )

    def work(self, parts: Sequence[Any], tick: Tick | None) -> Iterator[PartResult]:
        """Work on ``parts`` in several processes, and yield the results in the order of the parts.

        A result that comes before its turn waits, but its schedules are told to ``tick`` at once.
        """
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
    """Lead a search to its end, or to as many violations as end it.

    :param outcome: filled in as the results come, so that a caller who interrupts the search has
        what was found so far.
    :param checkpoint: the results to go on from, and the file to which new results are written.
    :returns: ``outcome``.
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
