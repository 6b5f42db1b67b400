"""Control tasks and what they wait for: mutexes with owner and order, delayed work, grace periods,
stop_machine.

Everything that patches text is ordinary-looking Python. The caller's own code runs as it is;
delayed work runs on a greenlet, since it may block in the middle (kernel: a kworker). A wait lets
the machine go on: due work starts, blocked tasks whose condition holds continue, the vCPUs run a
turn each, and when they are all idle the clock jumps to the next timer. The order is fixed, and so
is a run.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from greenlet import getcurrent, greenlet

from engine.errors import Deadlock, EngineBug

__all__ = ("ControlPlane", "ControlStats", "Hardware", "LockOrder", "Mutex")


class Hardware(Protocol):
    """What the control plane needs of the machine."""

    @property
    def jiffies(self) -> int:
        """Virtual time."""
        ...

    def run_turn(self) -> bool:
        """Let each vCPU that is in a call run for a while; False when all are idle."""
        ...

    def advance_to(self, jiffy: int) -> None:
        """Nobody has anything to do until ``jiffy``: let time pass."""
        ...

    def quiescent(self) -> tuple[tuple[bool, int], ...]:
        """For each vCPU: is it at a quiescent point now, and how many has it passed."""
        ...

    @property
    def in_handler(self) -> bool:
        """A trap is being handled just now: preemption is off, and nobody may sleep."""
        ...

    def sync_core(self, cpu: int) -> bool:
        """Synchronize what ``cpu`` fetches with the text, if it takes an interrupt now; False where
        IF forbids it.
        """
        ...


@dataclass(slots=True)
class ControlStats:
    """Counts since the machine was built."""

    stop_machine: int = 0
    grace_periods: int = 0
    syncs: int = 0


@dataclass(order=True, slots=True)
class _Timer:
    due: int
    sequence: int
    work: Callable[[], None] = field(compare=False)
    name: str = field(compare=False)


class _Task:
    """A control task on a greenlet of its own."""

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


class LockOrder:
    """Which locks each task holds, to catch a wrong order the first time it happens rather than
    when it deadlocks.
    """

    def __init__(self) -> None:
        self._held: dict[object, list[Mutex]] = {}

    def entering(self, task: object, lock: Mutex) -> None:
        """``task`` is about to take ``lock``."""
        held = self._held.setdefault(task, [])
        if lock in held:
            raise EngineBug(f"{task} takes {lock.name} twice")
        if held and held[-1].rank >= lock.rank:
            raise EngineBug(
                f"{task} takes {lock.name} while holding {held[-1].name}: the wrong order"
            )
        held.append(lock)

    def leaving(self, task: object, lock: Mutex) -> None:
        """``task`` drops ``lock``."""
        held = self._held.get(task, [])
        if not held or held[-1] is not lock:
            raise EngineBug(f"{task} drops {lock.name}, which is not the last lock it took")
        self._drop(task, lock)

    def given_up(self, task: object, lock: Mutex) -> None:
        """``task`` could not take ``lock`` after all."""
        self._drop(task, lock)

    def held_by(self, task: object) -> tuple[str, ...]:
        """The names of the locks that ``task`` holds, and of one that it is about to take."""
        return tuple(lock.name for lock in self._held.get(task, ()))

    def ended(self, task: object) -> None:
        """``task`` is over, and may hold nothing."""
        if task in self._held:
            raise EngineBug(
                f"{task} ends with {', '.join(lock.name for lock in self._held[task])} held"
            )

    def _drop(self, task: object, lock: Mutex) -> None:
        held = self._held[task]
        held.remove(lock)
        if not held:
            del self._held[task]


class Mutex:
    """A sleeping lock. ``rank``: a task takes locks in ascending rank only."""

    __slots__ = ("_plane", "name", "owner", "rank")

    def __init__(self, name: str, rank: int, plane: ControlPlane) -> None:
        self.name = name
        self.rank = rank
        self.owner: object | None = None
        self._plane = plane

    def acquire(self, why: str) -> None:
        """Take it, waiting for its owner if there is one."""
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
        """Drop it; only the owner may."""
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
        """EngineBug unless the current task holds it."""
        if self.owner is not self._plane.current:
            raise EngineBug(f"{self.name} is not held here")


class ControlPlane:
    """Schedules control tasks against the machine's progress."""

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
        """Who runs: a control task, or ``"caller"``."""
        return self._caller if self._current is None else self._current

    @property
    def jiffies(self) -> int:
        """Virtual time."""
        return self._hardware.jiffies

    def wait_for_lock(self, lock: Mutex, why: str) -> None:
        """Return once nobody owns ``lock``, which the current task is about to take.

        :raises Deadlock: nothing is left to run that could drop it.
        """
        if lock.owner is not None:
            self.wait_until(lambda: lock.owner is None, f"{lock.name} ({why})")

    # Points: an exploration may go on elsewhere here (engine.control.stepped_plane); nothing happen

    def point(self, at: str) -> None:
        """A named preemption point."""

    def lock_taken(self, name: str) -> None:
        """The current task has taken a lock."""

    def lock_dropped(self, name: str) -> None:
        """The current task has dropped a lock."""

    def traps_over(self, why: str) -> None:
        """Until no trap is being handled that began before now: between two turns of the vCPUs none
        is.
        """

    def might_sleep(self, why: str) -> None:
        """EngineBug in a handler, and under stop_machine: who calls this may have to wait."""
        if self._hardware.in_handler:
            raise EngineBug(f"a handler sleeps, with preemption off: {why}")
        if self._stopped:
            raise EngineBug(f"what runs under stop_machine sleeps: {why}")

    # Waiting --------------------------------------------------------------------------------------

    def wait_until(self, ready: Callable[[], bool], why: str) -> None:
        """Return once ``ready()`` holds.

        :raises Deadlock: nothing is left to run that could bring it about.
        :raises EngineBug: a handler asks, or what runs under ``stop_machine``.
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
        return "".join(f"; {task.name} waits: {task.why}" for task in self._tasks)

    def _progress(self) -> bool:
        """One thing happens; False when nothing can."""
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
        """Start ``work`` as a control task ``delay`` jiffies from now."""
        self._sequence += 1
        heapq.heappush(
            self._timers, _Timer(self._hardware.jiffies + delay, self._sequence, work, name)
        )

    def synchronize_sched(self, why: str) -> None:
        """Until every vCPU has passed a quiescent point that began after now."""
        self.stats.grace_periods += 1
        before = self._hardware.quiescent()

        def passed() -> bool:
            now = self._hardware.quiescent()
            return all(
                idle or count > old for (idle, count), (_, old) in zip(now, before, strict=True)
            )

        self.wait_until(passed, f"synchronize_sched ({why})")

    def synchronize_rcu_tasks(self, why: str) -> None:
        """Until every task has passed a voluntary ``schedule()`` or ended its call. Where no task
        can be preempted, a task off its CPU has done so, and what is left to wait for are the
        vCPUs.
        """
        self.synchronize_sched(why)

    def text_poke_sync(self, why: str) -> None:
        """Interrupt every vCPU at a boundary with IF set, so that each fetches what the text is
        now.
        """
        self.stats.syncs += 1
        left = set(range(len(self._hardware.quiescent())))

        def synced() -> bool:
            left.difference_update([cpu for cpu in left if self._hardware.sync_core(cpu)])
            return not left

        self.wait_until(synced, f"text_poke_sync ({why})")

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
