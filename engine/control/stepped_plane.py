"""Control tasks whose every step is chosen from outside: the control plane of an exploration.

Each task is ordinary Python on a greenlet. It runs from one *point* to the next: before it takes a
lock, after it has dropped its last one, before a text write, in a wait, and where the code that it
runs asks for one (:func:`stop_here`). Who goes on, and when, is somebody else's choice; delayed
work is one more task, which may start as soon as it was scheduled. The same choices give the same
run, so a state of the control plane is named by the steps that led to it.

What a task does while it holds a lock and what it does before and behind can be separated by
another task only at a point. So a task that holds no lock stops in front of each lock that it
takes, and behind the last that it drops, as long as another task is there to come in between. A
task in front of a lock that somebody owns can make no step: nobody merely comes to wait for a lock.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from greenlet import GreenletExit, getcurrent, greenlet

from engine.control.sync import ControlPlane, Hardware, Mutex
from engine.ctrl_c import ends_all, was_interrupted
from engine.errors import EngineBug, InputError, OptprobeError

__all__ = ("ControlTask", "LockWait", "MachineWait", "SteppedPlane", "WaitKind", "stop_here")


class WaitKind(Enum):
    """What a control task waits for that only the machine can bring about."""

    SCHED = "synchronize_sched"
    TASKS = "synchronize_rcu_tasks"
    SYNC = "text_poke_sync"
    STOP = "stop_machine"
    TRAPS = "traps in progress"


@dataclass(frozen=True, slots=True)
class MachineWait:
    """One such wait of control task ``task``."""

    kind: WaitKind
    why: str
    task: int


@dataclass(frozen=True, slots=True)
class LockWait:
    """A control task stands in front of ``lock``: its next step takes it, once nobody owns it."""

    lock: Mutex

    @property
    def free(self) -> bool:
        """Nobody owns the lock now."""
        return self.lock.owner is None


_START: Final = "start"


class _Body(greenlet):
    """The greenlet that a control task of ``plane`` runs on."""

    plane: SteppedPlane


def stop_here(at: str) -> None:
    """A point named ``at`` of the control task that runs this code, for who knows no plane. None,
    if no control task runs it, or if it runs it in ``stop_machine``, whose function is one step.
    """
    body = getcurrent()
    if isinstance(body, _Body) and not body.plane.stopped:
        body.plane.point(at)


class ControlTask:
    """One control task.

    :ivar at: the name of the point where it stands.
    :ivar delayed: it is delayed work, which another task has scheduled.
    :ivar wait: the machine's wait that it is in, or None.
    :ivar lock: the lock that it stands in front of, or None.
    :ivar dropped: it stands behind the last lock that it held.
    :ivar ready: what else it waits for that control tasks bring about, or None.
    :ivar error: what ended it, if that was an error.
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
                self._work()
                self.body.plane.lock_order.ended(self)
            except OptprobeError as error:
                if was_interrupted(error):
                    raise KeyboardInterrupt from error
                self.error = error
            except Exception as error:
                # what a scenario's own code raises is for who calls it
                if ends_all(error) or was_interrupted(error) or not self.delayed:
                    raise
                self.error = EngineBug(f"{self.name}: {type(error).__name__}: {error}")
            self.done = True
            self.at = "done"

        self._work = work
        self._run = run
        self.again: Callable[[], None] | None = None
        self.body: Any = None

    def renew(self, work: Callable[[], None]) -> None:
        """A task that is done has more to do, from the start."""
        self._work = work
        self.at = _START
        self.done = self.started = False

    def begin(self, plane: SteppedPlane) -> None:
        """A greenlet goes back to where it was made, so it is made by who steps it, not by the task
        that spawned it.
        """
        self.started = True
        self.body = _Body(self._run)
        self.body.plane = plane

    def __repr__(self) -> str:
        return self.name

    @property
    def steppable(self) -> bool:
        """It can make a step, as far as control tasks can tell."""
        if self.done or (self.lock is not None and not self.lock.free):
            return False
        return self.ready is None or self.ready()


class SteppedPlane(ControlPlane):
    """A control plane that does nothing of its own accord.

    :param nmis: a vCPU may be in an NMI while ``stop_machine`` runs its function.
    :ivar tasks: in the order in which they came to be.
    :ivar held: how many locks each task holds, by its index.
    :ivar stopped: ``stop_machine`` runs its function.
    :ivar lock_listeners: called with the name of each lock that a task has taken; it is the
        ``current`` one.
    """

    def __init__(self, hardware: Hardware, *, nmis: bool = False) -> None:
        super().__init__(hardware)
        self._nmis = nmis
        self.tasks: list[ControlTask] = []
        self.held: dict[int, int] = {}
        self._running: ControlTask | None = None
        self._closing = False
        self.stopped = False
        self.lock_listeners: list[Callable[[str], None]] = []

    def spawn(self, name: str, work: Callable[[], None], *, delayed: bool = False) -> ControlTask:
        """A task more; it has not started."""
        task = ControlTask(len(self.tasks), name, work, delayed=delayed)
        self.tasks.append(task)
        return task

    def step(self, index: int) -> ControlTask:
        """Let task ``index`` go on to its next point."""
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
        """The task that makes a step; the scenario itself while it is set up."""
        return self._caller if self._running is None else self._running

    def close(self) -> None:
        """End what has not ended, so that nothing is left to be unwound at some later time."""
        self._closing = True
        for task in self.tasks:
            if task.started and not task.done:
                self._running = task
                task.body.throw(GreenletExit)
        self._running = None

    def _pause(self, at: str) -> None:
        task = self._running
        # set-up code makes no steps, nor does what is cut off
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
        scheduler.switch()
        self._running = task

    def point(self, at: str) -> None:
        """A named preemption point."""
        self._pause(at)

    def wait_for_lock(self, lock: Mutex, why: str) -> None:
        """A point in front of the first lock that a task takes, and of each that somebody owns."""
        task = self._running
        if task is None:
            if lock.owner is not None:
                raise EngineBug(f"set-up code waits: {lock.name} ({why})")
            return
        if lock.owner is not None or not (self.held.get(task.index) or self._alone(task)):
            task.lock = LockWait(lock)
            self._pause(f"takes {lock.name} ({why})")

    def lock_taken(self, name: str) -> None:
        """A lock was taken. The point was in front of it."""
        self._count(+1)
        for listener in self.lock_listeners:
            listener(name)

    def lock_dropped(self, name: str) -> None:
        """A lock was dropped: a point, if it was the task's last one and another task is there."""
        self._count(-1)
        task = self._running
        if task is not None and not self.held[task.index] and not self._alone(task):
            task.dropped = True
            self._pause(f"{name} dropped")

    def _alone(self, task: ControlTask) -> bool:
        """No other task is left that could come in between. One that is done comes back only when a
        task asks for it.
        """
        return all(other is task or other.done for other in self.tasks)

    def _count(self, change: int) -> None:
        task = self._running
        if task is not None:
            self.held[task.index] = self.held.get(task.index, 0) + change

    # Waits ----------------------------------------------------------------------------------------

    def wait_until(self, ready: Callable[[], bool], why: str) -> None:
        """Until ``ready()``, which other control tasks bring about."""
        while not ready():
            task = self._running
            if task is None:
                raise EngineBug(f"set-up code waits: {why}")
            task.ready = ready
            self._pause(why)

    def _wait(self, kind: WaitKind, why: str) -> None:
        task = self._running
        if task is None:
            return  # nobody runs yet
        task.wait = MachineWait(kind, why, task.index)
        self._pause(f"{kind.value} ({why})")

    def sleep(self, jiffies: int) -> None:
        """Time is who runs how long, which is a choice anyway: a point."""
        self._pause(f"sleep {jiffies}")

    def schedule_delayed_work(self, work: Callable[[], None], delay: int, name: str) -> None:
        """A task, which may start at once: how long a delay is against the vCPUs' instructions is a
        choice, too.

        Work of one name is one task, which never runs beside itself (as a workqueue has it); asked
        for while it runs, it runs again.
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
        """Until every vCPU has passed a quiescent point that began after now."""
        self.stats.grace_periods += 1
        self._wait(WaitKind.SCHED, why)

    def synchronize_rcu_tasks(self, why: str) -> None:
        """Until every task has passed a voluntary ``schedule()`` or ended its call."""
        self.stats.grace_periods += 1
        self._wait(WaitKind.TASKS, why)

    def text_poke_sync(self, why: str) -> None:
        """Until every vCPU has taken an interrupt."""
        self.stats.syncs += 1
        self._wait(WaitKind.SYNC, why)

    def traps_over(self, why: str) -> None:
        """Until no trap is being handled that began before now (the last reference to a poke's
        descriptor is dropped).
        """
        self._wait(WaitKind.TRAPS, why)

    def stop_machine(self, fn: Callable[[], None], why: str) -> None:
        """Run ``fn`` in one step, with every vCPU parked."""
        self._wait(WaitKind.STOP, why)
        self.stats.stop_machine += 1
        self.stopped = True
        fn()
        if self._nmis:
            # every vCPU has to leave, and one in an NMI does not
            self._wait(WaitKind.STOP, f"the end of stop_machine ({why})")
        self.stopped = False
