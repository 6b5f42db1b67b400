"""Parts of a search in several processes, each with a system of its own. Results do not depend on how many there are."""

from __future__ import annotations

import multiprocessing
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Final

from engine.ctrl_c import blocked
from engine.errors import WorkerDied
from engine.search.explorable import System
from engine.search.strategy import PartResult, Strategy, Tick

__all__ = ("Workers",)


_DIED: Final = "a worker process died; was it killed, perhaps for lack of memory? use fewer --jobs"


class Workers:
    """The processes, which are forked when there is a batch of more than one part, and until then one process does.

    :param strategy: what all of them know so far.
    :param system: this process's own; ``make``: makes one more, in a process of its own.
    :param number: how many; at least 1.
    """

    def __init__(self, strategy: Strategy, system: System, make: Callable[[], System], number: int) -> None:
        self._strategy = strategy
        self._system = system
        self._make = make
        self._number = number
        self._processes: list[tuple[BaseProcess, Connection]] = []

    def work(self, parts: Sequence[Any], tick: Tick | None) -> Iterator[PartResult]:
        """What each comes to, in order, whoever is done first."""
        if len(parts) < 2 and not self._processes:
            for part in parts:
                yield self._strategy.work(self._system, part, tick)
            return
        if not self._processes:
            self._start()
        idle = [connection for _, connection in self._processes]
        busy: dict[Connection, int] = {}
        done: dict[int, PartResult] = {}
        given, asked, schedules = 0, 0, 0
        while asked < len(parts):
            while idle and given < len(parts):
                connection = idle.pop(0)
                _send(connection, parts[given])
                busy[connection] = given
                given += 1
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                result = done[busy.pop(connection)] = self._receive(connection)
                idle.append(connection)
                schedules += result.schedules
            if tick is not None:
                tick(schedules)
            while asked in done:
                result = done.pop(asked)
                schedules -= result.schedules
                asked += 1
                yield result

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        for _ in range(self._number):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, ours, self._make, self._strategy), daemon=True)
            with warnings.catch_warnings():  # a child makes its own machine and takes no lock that a thread may hold
                warnings.simplefilter("ignore", DeprecationWarning)
                try:
                    with blocked():
                        process.start()
                        self._processes.append((process, ours))
                except OSError as error:
                    raise WorkerDied(f"cannot start a process: {error.strerror}; use fewer --jobs") from None
            theirs.close()

    def _receive(self, connection: Connection) -> PartResult:
        try:
            answer = connection.recv()
        except (EOFError, OSError):
            raise WorkerDied(_DIED) from None
        if isinstance(answer, MemoryError):
            raise WorkerDied("a worker process has too little memory; use fewer --jobs")
        if isinstance(answer, BaseException):
            raise answer
        assert isinstance(answer, PartResult)
        return answer

    def learn(self, keys: bytes) -> None:
        """All of them."""
        if not self._processes:
            self._strategy.learn(keys)
        for _, connection in self._processes:
            _send(connection, keys)

    def close(self) -> None:
        """They end, whatever they do."""
        for process, connection in self._processes:
            connection.close()
            process.terminate()
            process.join()
        self._processes.clear()


def _send(connection: Connection, what: Any) -> None:
    try:
        connection.send(what)
    except OSError:
        raise WorkerDied(_DIED) from None


def _serve(connection: Connection, parents: Connection, make: Callable[[], System], strategy: Strategy) -> None:
    """A process's work, until nobody is there to ask for more. An interrupt from the keyboard is for who leads the search."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parents.close()
    system: System | None = None
    while True:
        try:
            asked = connection.recv()
        except (EOFError, ConnectionError):  # whoever asks has gone
            return
        if isinstance(asked, bytes):
            strategy.learn(asked)
            continue
        answer: PartResult | Exception
        try:
            system = system or make()
            answer = strategy.work(system, asked)
        except Exception as error:  # whatever it is, it is the search's, which is led elsewhere
            answer = error
        try:
            connection.send(answer)
        except ConnectionError:
            return
