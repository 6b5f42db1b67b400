"""A pool of processes: tasks go in, answers come out. No kernel file has this.

All that works in several processes uses it. A :class:`ProcessPool` has a leader, which is the
process that made it, and workers. Its design:

* Workers are forked. What they need is there, and none of it has to be pickled, which the functions
  of a user's scenario could not be. Only tasks, answers, news and errors travel, each worker over a
  connection of its own. Nothing is forked before there are tasks, and nothing at all for a pool of
  one, which works in the leader.
* A worker builds its state once, at its first task. The state ends with the process.
* A worker holds one task at a time. It gets the next one as soon as its answer is here, so a worker
  that waits for a task has left nothing unread, and no send can wait for ever.
* News (:meth:`ProcessPool.learn`) travel with the next task, so that a worker knows before a task
  all that was told before the task was given out.
* An error that a task raises is raised in the leader, at the place of the task's answer, with the
  worker's traceback as its cause.

What goes wrong around the tasks has one treatment:

* Ctrl-C. A terminal sends SIGINT to all processes of a command, but only the leader answers. SIGINT
  is blocked while a worker starts, so it begins that way, and it ignores the signal from then on.
  The leader raises KeyboardInterrupt wherever it is, and closes the pool on its way out. It can't
  be interrupted while it starts or ends a worker, so none is left behind.
* A worker that dies, such as by ``kill -9`` or by the kernel's OOM killer, closes its connection.
  The leader reads an end of file there, or a reset where bytes were lost, and takes it as the
  answer to the worker's task: an error, :class:`~engine.errors.WorkerDied`, which is raised where
  that answer would have been. So the other workers finish the tasks before it. Death is noticed in
  this one place: a task that could not be sent to a dead worker is one that has no answer.
* A worker that is out of memory says so, by the same error. So does the leader of a worker that
  can't be started.
* A leader that dies closes its connections. A worker ends without output when it next reads or
  writes, whether that is an end of file or a reset.
* :meth:`ProcessPool.close` ends workers in the middle of a task, which the executors of the
  standard library can't do.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from types import TracebackType
from typing import Any, Final, Generic, TypeAlias, TypeVar

from engine.ctrl_c import blocked
from engine.errors import EngineBug, WorkerDied, error_text

__all__ = ("ProcessPool",)

State = TypeVar("State")
Task = TypeVar("Task")
Answer = TypeVar("Answer")

_Pipe: TypeAlias = "Connection[Any, Any]"
_Reply: TypeAlias = "tuple[Any, BaseException | None, str]"
"""What a worker sends: an answer, or else an error and the text of its traceback."""

_DIED: Final = "a worker process died, perhaps for lack of memory; use fewer --jobs"
_FULL: Final = "a worker process has too little memory; use fewer --jobs"
_FULL_REPLY: Final = pickle.dumps((None, WorkerDied(_FULL), ""))
"""The reply of a worker without memory, made beforehand since it has no memory left to make it."""
_END_SECONDS: Final = 5.0
"""Seconds that SIGTERM has to end a worker.

One that it has not ended by then, such as a stopped one, is killed.
"""


def _learn_nothing(_news: Any) -> None:
    """Ignore news: the pool's workers need none."""


class ProcessPool(Generic[State, Task, Answer]):
    """Processes that work on tasks. Use it in a ``with`` statement, or close it in another way.

    :param make: builds what a worker needs for its tasks; called once in each process.
    :param work: works on a task; its answer is pickled.
    :param number: the number of processes; with 1 the tasks are worked on in the leader.
    :param learn: takes in news, in each worker. It may be called before ``make``.
    """

    def __init__(
        self,
        make: Callable[[], State],
        work: Callable[[State, Task], Answer],
        number: int,
        *,
        learn: Callable[[Any], None] = _learn_nothing,
    ) -> None:
        self._desk = _Desk(make, work, learn)
        self._number = number
        self._workers: list[_Worker] = []

    def __enter__(self) -> ProcessPool[State, Task, Answer]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def started(self) -> bool:
        """Whether workers have been forked.

        What the leader learns from then on reaches them by :meth:`learn` only.
        """
        return bool(self._workers)

    def in_order(
        self, tasks: Iterable[Task], came: Callable[[Answer], None] | None = None
    ) -> Iterator[Answer]:
        """The answers in the order of ``tasks``, whichever is done first.

        :param came: called with each answer as it comes, before its turn.
        :raises WorkerDied: the worker on the next task died or has no memory left, or a worker
            could not be started.
        """
        early: dict[int, _Reply] = {}
        turn = 0
        for number, reply in self._replies(tasks):
            early[number] = reply
            if came is not None and reply[1] is None:
                came(reply[0])
            while turn in early:
                yield _answer(early.pop(turn))
                turn += 1

    def as_they_come(self, tasks: Iterable[Task]) -> Iterator[tuple[int, Answer]]:
        """Each answer as soon as it is there, behind the number of its task.

        :raises WorkerDied: a worker died, has no memory left, or could not be started.
        """
        for number, reply in self._replies(tasks):
            yield number, _answer(reply)

    def learn(self, news: Any) -> None:
        """Tell all workers ``news``, which are pickled, before their next task."""
        if not self._workers:
            self._desk.learn(news)
        for worker in self._workers:
            worker.news.append(news)

    def close(self) -> None:
        """End all workers, whatever they are doing."""
        with blocked():
            for worker in self._workers:
                worker.connection.close()
                worker.process.terminate()
            for worker in self._workers:
                worker.process.join(_END_SECONDS)
                worker.process.kill()
                worker.process.join()
            self._workers.clear()

    def _replies(self, tasks: Iterable[Task]) -> Iterator[tuple[int, _Reply]]:
        """The replies of all tasks as they come, each behind the number of its task."""
        waiting = iter(enumerate(tasks))
        if self._number == 1:
            for number, task in waiting:
                yield number, (self._desk.work(task), None, "")
            return
        self._start()
        assert all(worker.task is None for worker in self._workers), (
            "answers were left unread, so the pool is at its end"
        )
        for worker in self._workers:
            worker.give(waiting)
        while busy := {
            worker.connection: worker for worker in self._workers if worker.task is not None
        }:
            replies: list[tuple[int, _Reply]] = []
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                worker = busy[connection]
                replies.append(worker.receive())
                if not worker.dead:
                    worker.give(waiting)
            # An answer that has come is not lost behind an error that comes with it.
            yield from sorted(replies, key=_is_error)

    def _start(self) -> None:
        """Fork the workers that are still missing."""
        context = multiprocessing.get_context("fork")
        while len(self._workers) < self._number:
            try:
                with blocked(), warnings.catch_warnings():
                    # Forking beside threads is said to be risky, but a worker takes no lock that a
                    # thread may hold.
                    warnings.simplefilter("ignore", DeprecationWarning)
                    ours, theirs = context.Pipe()
                    leaders = [*(worker.connection for worker in self._workers), ours]
                    process = context.Process(
                        target=_serve, args=(theirs, leaders, self._desk), daemon=True
                    )
                    process.start()
                    self._workers.append(_Worker(process, ours))
                    theirs.close()
            except OSError as error:
                raise WorkerDied(
                    f"cannot start a process: {error_text(error)}; use fewer --jobs"
                ) from None


class _Worker:
    """What the leader knows of a worker.

    :ivar task: the number of the task that it is at, or None.
    :ivar news: the news that it has not been told.
    :ivar dead: whether it has died without an answer to its last task.
    """

    __slots__ = ("connection", "dead", "news", "process", "task")

    def __init__(self, process: ForkProcess, connection: _Pipe) -> None:
        self.process = process
        self.connection = connection
        self.news: list[Any] = []
        self.task: int | None = None
        self.dead = False

    def give(self, waiting: Iterator[tuple[int, Any]]) -> None:
        """Send the next task to the worker, if there is one."""
        number, task = next(waiting, (None, None))
        if number is None:
            return
        self.task = number
        with suppress(OSError):  # where the worker has died, receive() says so
            self.connection.send((self.news, task))
        self.news = []

    def receive(self) -> tuple[int, _Reply]:
        """Wait for the worker's answer, and return it behind the number of its task."""
        number, self.task = self.task, None
        assert number is not None
        try:
            return number, self.connection.recv()
        except (EOFError, OSError):
            self.dead = True
            return number, (None, WorkerDied(_DIED), "")


class _Desk(Generic[State, Task, Answer]):
    """The place where tasks are worked on: each worker has one, or else the leader."""

    def __init__(
        self,
        make: Callable[[], State],
        work: Callable[[State, Task], Answer],
        learn: Callable[[Any], None],
    ) -> None:
        self._make = make
        self._work = work
        self._made: list[State] = []
        self.learn = learn

    def work(self, task: Task) -> Answer:
        """Work on ``task``, with the state of this process."""
        if not self._made:
            self._made.append(self._make())
        return self._work(self._made[0], task)


def _serve(connection: _Pipe, leaders: Sequence[_Pipe], desk: _Desk[Any, Any, Any]) -> None:
    """Work on tasks until the leader sends no more: a worker's whole life.

    :param leaders: the leader's ends of all connections so far. If a worker kept one of them open,
        the worker at its other end would never learn that the leader is gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for one in leaders:
        one.close()
    # The leader has gone, or learns of the lack of memory by the end of this process.
    with suppress(EOFError, OSError, MemoryError):
        while True:
            news, task = connection.recv()
            connection.send_bytes(_reply(desk, news, task))


def _reply(desk: _Desk[Any, Any, Any], news: Sequence[Any], task: Any) -> bytes:
    """The pickled reply for a task."""
    try:
        for one in news:
            desk.learn(one)
        return pickle.dumps((desk.work(task), None, ""), pickle.HIGHEST_PROTOCOL)
    except MemoryError:
        return _FULL_REPLY
    except BaseException as error:  # whatever it is, the leader raises it
        return _failure(error)


def _failure(error: BaseException) -> bytes:
    """``error`` pickled, or another error in its place where it can't be pickled and restored."""
    told = "".join(traceback.format_exception(error))
    try:
        reply = pickle.dumps((None, error, told))
        pickle.loads(reply)
    except Exception:
        text = error_text(error) if isinstance(error, Exception) else str(error)
        return pickle.dumps(
            (None, EngineBug(f"in a worker process: {type(error).__name__}: {text}"), told)
        )
    return reply


def _is_error(numbered: tuple[int, _Reply]) -> bool:
    return numbered[1][1] is not None


class _WorkerTraceback(Exception):
    """The traceback of an error in a worker, as text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _answer(reply: _Reply) -> Any:
    """Return the answer in ``reply``, or raise its error."""
    answer, error, told = reply
    if error is None:
        return answer
    raise error from (_WorkerTraceback(told) if told else None)
