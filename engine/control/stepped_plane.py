"""The control plane of an exploration: each step of a control task is chosen from outside.

Each task is ordinary Python on a greenlet. It runs from one *point* to the next: before it takes a
lock, after it has dropped its last one, before a text write, in a wait, and where the code that it
runs asks for one (:func:`stop_here`). The exploration chooses which task goes on, and when. Delayed
work is one more task, which may start as soon as it was scheduled. The same choices give the same
run, so a state of the control plane is named by the steps that led to it.

What a task does while it holds a lock and what it does before and behind can be separated by
another task only at a point. So a task that holds no lock stops in front of each lock that it
takes, and behind the last that it drops, as long as another task is there to come in between. A
task in front of a lock that another one owns can make no step: it would only come to wait.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol

from greenlet import GreenletExit, getcurrent, greenlet

from engine.control.sync import ControlPlane, Freeze, Hardware, Mutex
from engine.ctrl_c import ends_all, was_interrupted
from engine.errors import EngineBug, InputError, OptprobeError

__all__ = (
    "SENDS",
    "ControlTask",
    "LockWait",
    "MachineWait",
    "StepWatch",
    "SteppedPlane",
    "WaitKind",
    "stop_here",
)


class WaitKind(Enum):
    """What a control task waits for, where only the machine's vCPUs can bring it about."""

    SCHED = "synchronize_sched"
    TASKS = "synchronize_rcu_tasks"
    SYNC = "text_poke_sync"
    DEFERRABLE_SYNC = "text_poke_sync_deferrable"
    STOP = "stop_machine"
    TRAPS = "traps in progress"
    FREEZE = "suspends every task"
    ALLOCATOR = "allocates memory"


@dataclass(frozen=True, slots=True)
class MachineWait:
    """A wait of the control task with index ``task`` for the machine.

    :ivar why: the reason, for messages.
    """

    kind: WaitKind
    why: str
    task: int

    @property
    def stops(self) -> bool:
        """Whether the task waits for all vCPUs to be parked, or to leave where they were parked."""
        return self.kind is WaitKind.STOP


@dataclass(frozen=True, slots=True)
class LockWait:
    """A control task stands in front of ``lock``: its next step takes it, once no task owns it."""

    lock: Mutex

    @property
    def free(self) -> bool:
        """Whether no task owns the lock now."""
        return self.lock.owner is None


class StepWatch(Protocol):
    """What is told when the code of a control task begins to run, and when it stops."""

    def begin(self) -> None:
        """Note that the code of a control task runs from now on, on the present greenlet."""
        ...

    def end(self) -> None:
        """Note that it stops, at a point or for ever."""
        ...


_START: Final = "start"
SENDS: Final = "sends the interrupts of a core sync"
"""The name of the point in front of a core sync, where there is one."""


class _Body(greenlet):
    """The greenlet that a control task of ``plane`` runs on."""

    plane: SteppedPlane


def stop_here(at: str) -> None:
    """Make a point named ``at`` of the control task that runs this code.

    It is for code that has no reference to the plane. There is no point if no control task runs the
    code, or if it runs under ``stop_machine``, whose function is one step.
    """
    body = getcurrent()
    if isinstance(body, _Body) and not body.plane.stopped:
        body.plane.point(at)


class ControlTask:
    """One control task.

    :ivar index: its place in :attr:`SteppedPlane.tasks`.
    :ivar at: the name of the point where it stands.
    :ivar delayed: whether it is delayed work, which another task has scheduled.
    :ivar wait: the wait for the machine that it is in, or None.
    :ivar lock: the lock that it stands in front of, or None.
    :ivar dropped: whether it stands behind the last lock that it held.
    :ivar ready: tells whether its wait for other control tasks is over; None where it is in none.
    :ivar error: the error that ended it, or None.
    :ivar again: the work that it was asked for again while it ran, or None.
    :ivar steps: how many steps it has made.
    """

    __slots__ = (
        "_run",
        "_work",
        "again",
        "at",
        "body",
        "delayed",
        "done",
        "dropped",
        "error",
        "index",
        "lock",
        "name",
        "ready",
        "started",
        "steps",
        "wait",
    )

    def __init__(
        self, index: int, name: str, work: Callable[[], None], *, delayed: bool = False
    ) -> None:
        self.index = index
        self.delayed = delayed
        self.name = name
        self.at = _START
        self.wait: MachineWait | None = None
        self.lock: LockWait | None = None
        self.dropped = False
        self.ready: Callable[[], bool] | None = None
        self.error: BaseException | None = None
        self.done = False
        self.started = False
        self.steps = 0

        def run() -> None:
            try:
                self._watched()
                self.body.plane.lock_order.ended(self)
            except OptprobeError as error:
                if was_interrupted(error):
                    raise KeyboardInterrupt from error
                self.error = error
            except Exception as error:
                # Any other error that a scenario's own code raises goes on to whatever runs the
                # exploration.
                if ends_all(error) or was_interrupted(error) or not self.delayed:
                    raise
                self.error = EngineBug(f"{self.name}: {type(error).__name__}: {error}")
            self.done = True
            self.at = "done"

        self._work = work
        self._run = run
        self.again: Callable[[], None] | None = None
        self.body: Any = None

    def _watched(self) -> None:
        """Do the task's work."""
        watch = self.body.plane.watch
        if watch is None:
            self._work()
            return
        watch.begin()
        try:
            self._work()
        finally:
            watch.end()

    def renew(self, work: Callable[[], None]) -> None:
        """Let a task that is done do ``work``, from the start."""
        self._work = work
        self.at = _START
        self.done = self.started = False

    def begin(self, plane: SteppedPlane) -> None:
        """Make the task's greenlet.

        A greenlet that ends goes back to the one that made it. So the greenlet that steps the task
        makes it, and not the task that spawned it.
        """
        self.started = True
        self.body = _Body(self._run)
        self.body.plane = plane

    def __repr__(self) -> str:
        return self.name

    @property
    def steppable(self) -> bool:
        """Whether the task can make a step, as far as control tasks decide that."""
        if self.done or (self.lock is not None and not self.lock.free):
            return False
        return self.ready is None or self.ready()


class SteppedPlane(ControlPlane):
    """A control plane that does nothing of its own accord.

    :param nmis: whether a vCPU may be in an NMI while ``stop_machine`` runs its function.
    :param late: whether a vCPU may not have seen what was stored, so that there is a point between
        a store and the core sync behind it.
    :ivar watch: is told when code of a control task runs, or None.
    :ivar tasks: all tasks, in the order in which they were made.
    :ivar held: how many locks each task holds, by its index.
    :ivar stopped: whether ``stop_machine`` runs its function.
    :ivar frozen: how all tasks are suspended, or None.
    :ivar hidden: the code that CPUs fault at which try to execute it, or None.
    :ivar lock_listeners: called with the name of each lock that a task has taken; the task is
        :attr:`current` then.
    """

    def __init__(self, hardware: Hardware, *, nmis: bool = False, late: bool = False) -> None:
        super().__init__(hardware)
        self._nmis = nmis
        self._late = late
        self.watch: StepWatch | None = None
        self.tasks: list[ControlTask] = []
        self.held: dict[int, int] = {}
        self._running: ControlTask | None = None
        self._closing = False
        self.stopped = False
        self.frozen: Freeze | None = None
        self.hidden: range | None = None
        self.lock_listeners: list[Callable[[str], None]] = []

    def spawn(self, name: str, work: Callable[[], None], *, delayed: bool = False) -> ControlTask:
        """Add a task called ``name``, which has not started."""
        task = ControlTask(len(self.tasks), name, work, delayed=delayed)
        self.tasks.append(task)
        return task

    def step(self, index: int) -> ControlTask:
        """Let task ``index`` go on to its next point, and return it.

        :raises EngineBug: the task can't make a step, or another one is in the middle of a step.
        """
        task = self.tasks[index]
        if self._running is not None or not task.steppable:
            raise EngineBug(f"{task} can't make a step")
        self._running = task
        task.wait = task.ready = task.lock = None
        task.dropped = False
        if not task.started:
            task.begin(self)
        task.steps += 1
        try:
            task.body.switch()
        finally:
            self._running = None
        if task.done and task.again is not None:
            task.renew(task.again)
            task.again = None
        return task

    @property
    def current(self) -> object:
        """The task that makes a step; ``"caller"`` while the scenario is set up."""
        return self._caller if self._running is None else self._running

    def close(self) -> None:
        """End all tasks that have not ended, so that none is unwound at some later time."""
        self._closing = True
        for task in self.tasks:
            if task.started and not task.done:
                self._running = task
                task.body.throw(GreenletExit)
        self._running = None

    def _pause(self, at: str) -> None:
        """Stop the current task at the point ``at`` until :meth:`step` lets it go on.

        :raises InputError: the scenario's code runs on another greenlet or thread than its task.
        """
        task = self._running
        # Set-up code makes no steps, and a task that is being cut off must not stop again on its
        # way out.
        if task is None or self._closing or ends_all(sys.exc_info()[1]):
            return
        if getcurrent() is not task.body:
            task.error = InputError(
                f"control task {task.name}: an operation in a thread or greenlet of its own; make"
                " it in the task"
            )
            raise task.error
        task.at = at
        self._running = None
        scheduler = getcurrent().parent
        assert scheduler is not None
        if self.watch is not None:
            self.watch.end()
        scheduler.switch()
        self._running = task
        if self.watch is not None:
            self.watch.begin()

    def point(self, at: str) -> None:
        """Stop the task at a point named ``at``."""
        self._pause(at)

    def wait_for_lock(self, lock: Mutex, why: str) -> None:
        """Stop in front of ``lock``, if the task holds no lock or another task owns this one.

        A task that holds no lock does not stop where no other task is left.

        :raises EngineBug: set-up code finds the lock taken.
        """
        task = self._running
        if task is None:
            if lock.owner is not None:
                raise EngineBug(f"set-up code waits: {lock.name} ({why})")
            return
        if lock.owner is not None or not (self.held.get(task.index) or self._alone(task)):
            task.lock = LockWait(lock)
            self._pause(f"takes {lock.name} ({why})")

    def lock_taken(self, name: str) -> None:
        """Count the lock; the point was in front of it."""
        self._count(+1)
        for listener in self.lock_listeners:
            listener(name)

    def lock_dropped(self, name: str) -> None:
        """Stop behind the last lock that the task has dropped, if another task is there."""
        self._count(-1)
        task = self._running
        if task is not None and not self.held[task.index] and not self._alone(task):
            task.dropped = True
            self._pause(f"{name} dropped")

    def _alone(self, task: ControlTask) -> bool:
        """Whether no other task is left that could come in between.

        A task that is done comes back only when another task asks for it, so it does not count.
        """
        return all(other is task or other.done for other in self.tasks)

    def _count(self, change: int) -> None:
        """Add ``change`` to the number of locks that the current task holds."""
        task = self._running
        if task is not None:
            self.held[task.index] = self.held.get(task.index, 0) + change

    # Waits ----------------------------------------------------------------------------------------

    def wait_until(self, ready: Callable[[], bool], why: str) -> None:
        """Wait until ``ready()`` is true, which other control tasks bring about.

        :raises EngineBug: set-up code waits, where no task runs yet.
        """
        while not ready():
            task = self._running
            if task is None:
                raise EngineBug(f"set-up code waits: {why}")
            task.ready = ready
            self._pause(why)

    def _wait(self, kind: WaitKind, why: str) -> None:
        """Stop the current task in a wait for the machine."""
        task = self._running
        if task is None:
            return  # no vCPU and no task runs while the scenario is set up
        task.wait = MachineWait(kind, why, task.index)
        self._pause(f"{kind.value} ({why})")

    def sleep(self, jiffies: int) -> None:
        """Stop at a point: how long others run meanwhile is a choice anyway."""
        self._pause(f"sleep {jiffies}")

    def schedule_delayed_work(self, work: Callable[[], None], delay: int, name: str) -> None:
        """Add ``work`` as a task, which may start at once.

        How long a delay takes in the vCPUs' instructions is a choice, too, so ``delay`` does not
        count. Work of one name is one task, which never runs beside itself, as in a workqueue. If
        it is asked for while it runs, it runs once more.
        """
        del delay
        task = next((task for task in self.tasks if task.name == name), None)
        if task is None:
            self.spawn(name, work, delayed=True)
        elif task.done:
            task.renew(work)
        else:
            task.again = work

    def synchronize_sched(self, why: str) -> None:
        """Wait until every vCPU has passed a quiescent point that began after now."""
        self.stats.grace_periods += 1
        self._wait(WaitKind.SCHED, why)

    def synchronize_rcu_tasks(self, why: str) -> None:
        """Wait until every task has passed a voluntary ``schedule()`` or ended its call."""
        self.stats.grace_periods += 1
        self._wait(WaitKind.TASKS, why)

    def text_poke_sync(self, why: str) -> None:
        """Wait until every vCPU has taken an interrupt, so that it fetches the text anew."""
        self._sync(WaitKind.SYNC, why)

    def text_poke_sync_deferrable(self, why: str) -> None:
        """Wait until every vCPU has taken an interrupt but those that are in user mode now."""
        self._sync(WaitKind.DEFERRABLE_SYNC, why)

    def _sync(self, kind: WaitKind, why: str) -> None:
        self.stats.syncs += 1
        if self._late:
            self._pause(f"{SENDS} ({why})")
        self._wait(kind, why)

    def traps_over(self, why: str) -> None:
        """Wait until no trap is being handled that began before now.

        Then the last reference to a poke's descriptor is dropped.
        """
        self._wait(WaitKind.TRAPS, why)

    def freeze_tasks(self, freeze: Freeze, why: str) -> None:
        """Wait until every task can be suspended where it stands, and suspend it."""
        self._wait(WaitKind.FREEZE, why)
        self.frozen = freeze
        self._pause(f"all tasks are suspended ({why})")

    def thaw_tasks(self, why: str) -> None:
        """Let the tasks go on that :meth:`freeze_tasks` has suspended."""
        self._pause(f"lets the tasks go on ({why})")
        self.frozen = None

    def hide_code(self, code: range, why: str) -> None:
        """Let CPUs fault at ``code``, and wait there, once they have taken a core sync."""
        self._pause(f"takes the right to execute away ({why})")
        self.hidden = code

    def show_code(self, why: str) -> None:
        """Let CPUs execute the code again that :meth:`hide_code` has hidden."""
        self._pause(f"gives the right to execute back ({why})")
        self.hidden = None

    def allocate(self, why: str) -> None:
        """Wait until no task holds the allocator's lock."""
        self._wait(WaitKind.ALLOCATOR, why)

    def stop_machine(self, fn: Callable[[], None], why: str) -> None:
        """Wait until every vCPU is parked, and run ``fn`` in one step."""
        self._wait(WaitKind.STOP, why)
        self.stats.stop_machine += 1
        self.stopped = True
        fn()
        if self._nmis:
            # stop_machine ends when every vCPU has left it, and one in an NMI leaves it behind the
            # NMI.
            self._wait(WaitKind.STOP, f"the end of stop_machine ({why})")
        self.stopped = False
