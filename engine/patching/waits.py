"""The rules for when the waits of control tasks are over.

They are described in docs/explore.md, in the part on the vCPUs of an exploration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from engine.control.stepped_plane import MachineWait, WaitKind
from engine.hit_phases import HitPhase
from engine.patching.vcpu import VcpuState

__all__ = ("Waits",)

_SYNCS: Final = (WaitKind.SYNC, WaitKind.DEFERRABLE_SYNC)


class Waits:
    """This object knows for which vCPUs and tasks each wait of a control task still waits.

    :param vcpus: all vCPUs.
    :param takes_interrupt: says whether a vCPU would take an interrupt at its present boundary.
    :param tasks: returns the tasks of a vCPU in the middle of a call, running or preempted.
    :param stops: says whether ``stop_machine`` can park a vCPU where it stands.
    :param freezes: says whether a vCPU's task can be suspended where it stands.
    :param allocates: says whether some task holds the allocator's lock.
    :param hides: says whether some code is hidden from the vCPUs.
    :param in_user_mode: says whether a vCPU is in user mode, as far as control tasks can see.
    :ivar left: by control task, its wait, and the vCPUs or tasks for which it still waits.
    """

    def __init__(
        self,
        vcpus: Sequence[VcpuState],
        takes_interrupt: Callable[[int], bool],
        tasks: Callable[[int], frozenset[int]],
        stops: Callable[[int], bool],
        freezes: Callable[[int], bool],
        allocates: Callable[[], bool],
        hides: Callable[[], bool],
        in_user_mode: Callable[[int], bool],
    ) -> None:
        self._vcpus = vcpus
        self._takes_interrupt = takes_interrupt
        self._tasks = tasks
        self._stops = stops
        self._freezes = freezes
        self._allocates = allocates
        self._hides = hides
        self._in_user_mode = in_user_mode
        self.left: dict[int, tuple[MachineWait, frozenset[int]]] = {}

    def entered(self, waits: dict[int, MachineWait], stepped: int) -> None:
        """Note that control task ``stepped`` has made a step, so its wait begins anew.

        :param waits: the waits of all control tasks now, by task.
        """
        old = self.left
        self.left = {
            task: old[task] if task in old and task != stepped else (wait, self._begin(wait.kind))
            for task, wait in waits.items()
        }

    def _begin(self, kind: WaitKind) -> frozenset[int]:
        match kind:
            case WaitKind.SCHED:
                return frozenset(vcpu.index for vcpu in self._vcpus if not vcpu.quiescent)
            case WaitKind.TASKS:
                return frozenset(task for vcpu in self._vcpus for task in self._tasks(vcpu.index))
            case WaitKind.SYNC:
                return frozenset(vcpu.index for vcpu in self._vcpus if not self._takes_sync(vcpu))
            case WaitKind.DEFERRABLE_SYNC:
                inside = [one for one in self._vcpus if not self._in_user_mode(one.index)]
                return frozenset(vcpu.index for vcpu in inside if not self._takes_sync(vcpu))
            case WaitKind.STOP | WaitKind.TRAPS | WaitKind.FREEZE | WaitKind.ALLOCATOR:
                return frozenset()

    def _takes_sync(self, vcpu: VcpuState) -> bool:
        """Return whether the vCPU takes the interrupt of a core sync, which synchronizes it.

        A shootdown of translations is such an interrupt, too.
        """
        takes = self._takes_interrupt(vcpu.index)
        if takes:
            vcpu.synchronize()
            vcpu.shut_out = self._hides()
        return takes

    def ran(self, vcpu: VcpuState) -> None:
        """Note that a vCPU has gone on, so it may take an interrupt that a core sync waits for."""
        for task, (wait, left) in self.left.items():
            if wait.kind in _SYNCS and vcpu.index in left and self._takes_sync(vcpu):
                self.left[task] = (wait, left - {vcpu.index})

    def synced(self, cpu: int) -> None:
        """Note that a vCPU has taken the interrupt of each core sync that waits for it."""
        for kind in _SYNCS:
            self._drop(kind, cpu)

    def quiescent(self, cpu: int) -> None:
        """Note that a vCPU has come to a quiescent point."""
        self._drop(WaitKind.SCHED, cpu)

    def task_passed(self, task: int) -> None:
        """Note that a task has called ``schedule()``, or has ended its call."""
        self._drop(WaitKind.TASKS, task)

    def _drop(self, kind: WaitKind, who: int) -> None:
        for task, (wait, left) in self.left.items():
            if wait.kind is kind and who in left:
                self.left[task] = (wait, left - {who})

    def over(self, task: int) -> bool:
        """Return whether a control task may go on, as far as the vCPUs are concerned."""
        entry = self.left.get(task)
        if entry is None:
            return True
        wait, left = entry
        if wait.kind is WaitKind.STOP:
            return all(self._stops(vcpu.index) for vcpu in self._vcpus)
        if wait.kind is WaitKind.FREEZE:
            return all(self._freezes(vcpu.index) for vcpu in self._vcpus)
        if wait.kind is WaitKind.ALLOCATOR:
            return not self._allocates()
        if wait.kind is WaitKind.TRAPS:
            return not any(
                vcpu.hit is not None and vcpu.hit.phase is HitPhase.POKE for vcpu in self._vcpus
            )
        return not left

    def syncs_with(self, cpu: int) -> bool:
        """Return whether a core sync waits for this vCPU to take an interrupt."""
        return any(wait.kind in _SYNCS and cpu in left for wait, left in self.left.values())

    @property
    def stopping(self) -> bool:
        """Return whether a control task waits for all vCPUs to be parked.

        A vCPU that is parked stays parked while this is so.
        """
        return any(wait.kind is WaitKind.STOP for wait, _ in self.left.values())

    def key(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """Return for the hash of a state which vCPUs and tasks each wait still waits for.

        The name of the control state, which is also hashed, tells which waits there are.
        """
        return tuple((task, tuple(sorted(left))) for task, (_, left) in self.left.items())
