"""Control tasks and their waits. Answers to kernel/locking and kernel/workqueue.c.

There are mutexes with an owner and an order, delayed work, grace periods, and ``stop_machine``
(kernel/stop_machine.c). All that patches text is ordinary-looking Python. The caller's own code
runs as it is; delayed work runs on a greenlet, since it may block in the middle, as in a kworker.
While code waits, the machine goes on: work that is due starts, blocked tasks whose condition holds
continue, each vCPU runs a turn, and when all of them are idle the clock jumps to the next timer.
This order is fixed, so the same program runs alike each time.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from greenlet import getcurrent, greenlet

from engine.errors import Deadlock, EngineBug, InputError

__all__ = ("ControlPlane", "ControlStats", "Freeze", "Hardware", "LockOrder", "Mutex", "OpenMutex")


class Hardware(Protocol):
    """What the control plane needs of the machine."""

    @property
    def jiffies(self) -> int:
        """The virtual time, in jiffies."""
        ...

    def run_turn(self) -> bool:
        """Let each vCPU that is in a call run for a while.

        :returns: False when all vCPUs are idle.
        """
        ...

    def advance_to(self, jiffy: int) -> None:
        """Let time pass until ``jiffy``, since nothing is left to do before."""
        ...

    def quiescent(self) -> tuple[tuple[bool, int], ...]:
        """For each vCPU: whether it is at a quiescent point now, and how many it has passed."""
        ...

    @property
    def in_handler(self) -> bool:
        """Whether a trap is being handled, so that preemption is off and code must not sleep."""
        ...

    def sync_core(self, cpu: int) -> bool:
        """Interrupt ``cpu``, so that it fetches the text as it is now.

        :returns: False, with nothing done, where the vCPU has interrupts off.
        """
        ...


@dataclass(slots=True)
class ControlStats:
    """How often control tasks have stopped or synchronized the machine since it was built."""

    stop_machine: int = 0
    grace_periods: int = 0
    syncs: int = 0


@dataclass(order=True, slots=True)
class _Timer:
    """Delayed work of the jiffy ``due``; ``sequence`` orders what is due at once."""

    due: int
    sequence: int
    work: Callable[[], None] = field(compare=False)
    name: str = field(compare=False)


class _Task:
    """A control task on a greenlet of its own.

    :ivar ready: tells whether its wait is over; None where it waits for nothing.
    :ivar why: the reason of the wait, for messages.
    """

    __slots__ = ("body", "done", "name", "ready", "why")

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self.name = name
        self.done = False
        self.ready: Callable[[], bool] | None = None
        self.why = ""

        def run() -> None:
            work()
            self.done = True

        self.body: Any = greenlet(run)

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Freeze:
    """Every task is suspended, as a debugger or a hooking library suspends threads.

    :ivar moves: pairs of addresses: a task that stands at the first one goes on at the second.
    :ivar new_tasks: no task begins a call meanwhile, either.
    """

    moves: tuple[tuple[int, int], ...]
    new_tasks: bool


class LockOrder:
    """The locks that each task holds, to report a wrong order at once.

    A wrong order deadlocks only if two tasks meet in it; here the first task that takes locks so
    raises EngineBug. Answers to kernel/locking/lockdep.c.
    """

    def __init__(self) -> None:
        self._held: dict[object, list[Mutex]] = {}

    def entering(self, task: object, lock: Mutex) -> None:
        """Note that ``task`` is about to take ``lock``.

        :raises EngineBug: it holds this lock already, or one of the same or a higher rank.
        """
        held = self._held.setdefault(task, [])
        if lock in held:
            raise EngineBug(f"{task} takes {lock.name} twice")
        if held and held[-1].rank >= lock.rank:
            raise EngineBug(
                f"{task} takes {lock.name} while holding {held[-1].name}: the wrong order"
            )
        held.append(lock)

    def leaving(self, task: object, lock: Mutex) -> None:
        """Note that ``task`` drops ``lock``.

        :raises EngineBug: this is not the last lock that the task has taken.
        """
        held = self._held.get(task, [])
        if not held or held[-1] is not lock:
            raise EngineBug(f"{task} drops {lock.name}, which is not the last lock it took")
        self._drop(task, lock)

    def given_up(self, task: object, lock: Mutex) -> None:
        """Note that ``task`` could not take ``lock`` after all."""
        self._drop(task, lock)

    def held_by(self, task: object) -> tuple[str, ...]:
        """The names of the locks that ``task`` holds, and of one that it is about to take."""
        return tuple(lock.name for lock in self._held.get(task, ()))

    def ended(self, task: object) -> None:
        """Note that ``task`` is over.

        :raises EngineBug: it still holds a lock.
        """
        if task in self._held:
            raise EngineBug(
                f"{task} ends with {', '.join(lock.name for lock in self._held[task])} held"
            )

    def _drop(self, task: object, lock: Mutex) -> None:
        """Forget that ``task`` holds ``lock``."""
        held = self._held[task]
        held.remove(lock)
        if not held:
            del self._held[task]


class Mutex:
    """A sleeping lock (struct mutex). Each task takes locks in ascending ``rank`` only.

    :ivar owner: the task that holds it, or None.
    """

    __slots__ = ("_plane", "name", "owner", "rank")

    def __init__(self, name: str, rank: int, plane: ControlPlane) -> None:
        self.name = name
        self.rank = rank
        self.owner: object | None = None
        self._plane = plane

    def acquire(self, why: str) -> None:
        """Take the lock, and wait for its owner if there is one.

        :param why: the reason, for messages and points.
        :raises EngineBug: this is a wrong order, or code that must not sleep.
        :raises Deadlock: nothing is left to run that could drop it.
        """
        plane = self._plane
        plane.might_sleep(f"{self.name} ({why})")
        task = plane.current
        plane.lock_order.entering(task, self)
        try:
            plane.wait_for_lock(self, why)
        except BaseException:
            plane.lock_order.given_up(task, self)
            raise
        self.owner = task
        plane.lock_taken(self.name)

    def release(self) -> None:
        """Drop the lock.

        :raises EngineBug: the current task does not own it.
        """
        task = self._plane.current
        if self.owner is not task:
            raise EngineBug(f"{task} drops {self.name}, which {self.owner} holds")
        self._plane.lock_order.leaving(task, self)
        self.owner = None
        self._plane.lock_dropped(self.name)

    def __enter__(self) -> Self:
        self.acquire("with")
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def assert_held(self) -> None:
        """Raise EngineBug unless the current task holds the lock."""
        if self.owner is not self._plane.current:
            raise EngineBug(f"{self.name} is not held here")


class OpenMutex(Mutex):
    """A lock that keeps nobody out: it stands where a lock is left out, to see what that is for."""

    __slots__ = ()

    def acquire(self, why: str) -> None:
        """Go on at once, whoever else is inside."""
        del why

    def release(self) -> None:
        """Do nothing."""

    def assert_held(self) -> None:
        """Do nothing, since nobody holds the lock."""


class ControlPlane:
    """Runs control tasks, and the machine while they wait."""

    def __init__(self, hardware: Hardware) -> None:
        self._hardware = hardware
        self._timers: list[_Timer] = []
        self._sequence = 0
        self._tasks: list[_Task] = []
        self._current: _Task | None = None
        self._caller = "caller"
        self._stopped = False
        self.lock_order = LockOrder()
        self.stats = ControlStats()

    @property
    def current(self) -> object:
        """The control task that runs, or ``"caller"``."""
        return self._caller if self._current is None else self._current

    @property
    def jiffies(self) -> int:
        """The virtual time, in jiffies."""
        return self._hardware.jiffies

    def wait_for_lock(self, lock: Mutex, why: str) -> None:
        """Return once no task owns ``lock``, which the current task is about to take.

        :raises Deadlock: nothing is left to run that could drop it.
        """
        if lock.owner is not None:
            self.wait_until(lambda: lock.owner is None, f"{lock.name} ({why})")

    # At the points below, an exploration may go on elsewhere (engine.control.stepped_plane). Here
    # they do nothing.

    def point(self, at: str) -> None:
        """Pass a named point of the current task, such as one in front of a text write."""

    def lock_taken(self, name: str) -> None:
        """Note that the current task has taken the lock ``name``."""

    def lock_dropped(self, name: str) -> None:
        """Note that the current task has dropped the lock ``name``."""

    def traps_over(self, why: str) -> None:
        """Wait until no trap is being handled that began before now.

        Control code runs between two turns of the vCPUs, where no trap is being handled.
        """

    def might_sleep(self, why: str) -> None:
        """Check that the current code may wait (might_sleep).

        :raises EngineBug: it is a handler, or runs under ``stop_machine``.
        """
        if self._hardware.in_handler:
            raise EngineBug(f"a handler sleeps, with preemption off: {why}")
        if self._stopped:
            raise EngineBug(f"what runs under stop_machine sleeps: {why}")

    # Waiting --------------------------------------------------------------------------------------

    def wait_until(self, ready: Callable[[], bool], why: str) -> None:
        """Return once ``ready()`` is true.

        :raises Deadlock: nothing is left to run that could make it true.
        :raises EngineBug: the caller is a handler, or runs under ``stop_machine``.
        """
        self.might_sleep(why)
        task = self._current
        if task is None:
            while not ready():
                if not self._progress():
                    raise Deadlock(f"{self._caller} waits for ever: {why}{self._blocked()}")
            return
        while not ready():
            task.ready, task.why = ready, why
            self._current = None
            scheduler = getcurrent().parent
            assert scheduler is not None
            scheduler.switch()
            self._current = task
        task.ready = None

    def _blocked(self) -> str:
        """What all tasks that are blocked wait for, for a message."""
        return "".join(f"; {task.name} waits: {task.why}" for task in self._tasks)

    def _progress(self) -> bool:
        """Let one thing happen in the machine, and say whether one could."""
        if self._timers and self._timers[0].due <= self._hardware.jiffies:
            timer = heapq.heappop(self._timers)
            task = _Task(timer.name, timer.work)
            self._tasks.append(task)
            self._resume(task)
            return True
        for task in self._tasks:
            if task.ready is not None and task.ready():
                self._resume(task)
                return True
        if self._hardware.run_turn():
            return True
        if self._timers:
            self._hardware.advance_to(self._timers[0].due)
            return True
        return False

    def _resume(self, task: _Task) -> None:
        """Let ``task`` run until it waits or ends."""
        self._current = task
        try:
            task.body.switch()
        except BaseException:
            self._tasks.remove(task)
            raise
        finally:
            self._current = None
        if task.done:
            self._tasks.remove(task)
            self.lock_order.ended(task)

    def sleep(self, jiffies: int) -> None:
        """Let ``jiffies`` pass; work that is due by then has begun."""
        over: list[bool] = []
        self.schedule_delayed_work(lambda: over.append(True), jiffies, "sleep")
        self.wait_until(lambda: bool(over), f"sleep {jiffies}")

    # Work and grace periods -----------------------------------------------------------------------

    def schedule_delayed_work(self, work: Callable[[], None], delay: int, name: str) -> None:
        """Start ``work`` as a control task called ``name``, ``delay`` jiffies from now."""
        self._sequence += 1
        heapq.heappush(
            self._timers, _Timer(self._hardware.jiffies + delay, self._sequence, work, name)
        )

    def synchronize_sched(self, why: str) -> None:
        """Wait until every vCPU has passed a quiescent point that began after now."""
        self.stats.grace_periods += 1
        before = self._hardware.quiescent()

        def passed() -> bool:
            now = self._hardware.quiescent()
            return all(
                idle or count > old for (idle, count), (_, old) in zip(now, before, strict=True)
            )

        self.wait_until(passed, f"synchronize_sched ({why})")

    def synchronize_rcu_tasks(self, why: str) -> None:
        """Wait until every task has passed a voluntary ``schedule()`` or ended its call.

        Here no task can be preempted, so a task off its CPU has done so, and only vCPUs are left to
        wait for.
        """
        self.synchronize_sched(why)

    def text_poke_sync(self, why: str) -> None:
        """Interrupt every vCPU, each at a boundary where IF is set (text_poke_sync).

        Behind the interrupt a vCPU fetches the text as it is now.
        """
        self.stats.syncs += 1
        left = set(range(len(self._hardware.quiescent())))

        def synced() -> bool:
            left.difference_update([cpu for cpu in left if self._hardware.sync_core(cpu)])
            return not left

        self.wait_until(synced, f"text_poke_sync ({why})")

    def text_poke_sync_deferrable(self, why: str) -> None:
        """Interrupt every vCPU as :meth:`text_poke_sync` does: no vCPU is in user mode here."""
        self.text_poke_sync(why)

    def freeze_tasks(self, freeze: Freeze, why: str) -> None:
        """Suspend every task where it stands.

        :raises InputError: tasks can be suspended in an exploration only.
        """
        del freeze
        raise InputError(
            f"{why}: this protocol suspends tasks, which needs an exploration; use optprobe patch"
        )

    def thaw_tasks(self, why: str) -> None:
        """Let the tasks go on that were suspended."""

    def hide_code(self, code: range, why: str) -> None:
        """Let CPUs fault at ``code``, and wait there.

        Between two turns of the vCPUs nobody executes anything, so nothing has to be done.
        """

    def show_code(self, why: str) -> None:
        """Let CPUs execute the code again that :meth:`hide_code` has hidden."""

    def allocate(self, why: str) -> None:
        """Allocate memory: between two turns of the vCPUs no task holds the allocator's lock."""

    def stop_machine(self, fn: Callable[[], None], why: str) -> None:
        """Run ``fn`` while every vCPU is parked at a quiescent point."""
        self.wait_until(
            lambda: all(idle for idle, _ in self._hardware.quiescent()), f"stop_machine ({why})"
        )
        self.stats.stop_machine += 1
        self._stopped = True
        try:
            fn()
        finally:
            self._stopped = False
