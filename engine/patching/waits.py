"""When the waits of control tasks are over: docs/explore.md, on the vCPUs of an exploration."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine.control.stepped_plane import MachineWait, WaitKind
from engine.hit_phases import HitPhase
from engine.patching.vcpu import VcpuState

__all__ = ("Waits",)


class Waits:
    """Whom each wait of a control task still waits for.

    :ivar left: by control task, the vCPUs (or tasks) that have yet to come by.
    :param takes_interrupt: whether a vCPU would take an interrupt at its present boundary.
    :param stops: whether ``stop_machine`` can park a vCPU where it stands.
    :param tasks: of a vCPU, the tasks that are in the middle of a call, running or preempted.
    """

    def __init__(
        self,
        vcpus: Sequence[VcpuState],
        takes_interrupt: Callable[[int], bool],
        tasks: Callable[[int], frozenset[int]],
        stops: Callable[[int], bool],
    ) -> None:
        self._vcpus = vcpus
        self._takes_interrupt = takes_interrupt
        self._tasks = tasks
        self._stops = stops
        self.left: dict[int, tuple[MachineWait, frozenset[int]]] = {}

    def entered(self, waits: dict[int, MachineWait], stepped: int) -> None:
        """Control task ``stepped`` has made a step: ``waits`` is what they all wait for now; what
        it waits for is new.
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
                return frozenset(
                    vcpu.index for vcpu in self._vcpus if not self._takes_interrupt(vcpu.index)
                )
            case WaitKind.STOP | WaitKind.TRAPS:
                return frozenset()

    def ran(self, vcpu: VcpuState) -> None:
        """A vCPU has gone on."""
        for task, (wait, left) in self.left.items():
            if (
                wait.kind is WaitKind.SYNC
                and vcpu.index in left
                and self._takes_interrupt(vcpu.index)
            ):
                self.left[task] = (wait, left - {vcpu.index})

    def quiescent(self, cpu: int) -> None:
        """A vCPU has come to a quiescent point."""
        self._drop(WaitKind.SCHED, cpu)

    def task_passed(self, task: int) -> None:
        """A task has called ``schedule()``, or ended its call."""
        self._drop(WaitKind.TASKS, task)

    def _drop(self, kind: WaitKind, who: int) -> None:
        for task, (wait, left) in self.left.items():
            if wait.kind is kind and who in left:
                self.left[task] = (wait, left - {who})

    def over(self, task: int) -> bool:
        """A control task may go on, as far as the machine is concerned."""
        entry = self.left.get(task)
        if entry is None:
            return True
        wait, left = entry
        if wait.kind is WaitKind.STOP:
            return all(self._stops(vcpu.index) for vcpu in self._vcpus)
        if wait.kind is WaitKind.TRAPS:
            return not any(
                vcpu.hit is not None and vcpu.hit.phase is HitPhase.POKE for vcpu in self._vcpus
            )
        return not left

    def syncs_with(self, cpu: int) -> bool:
        """A core sync waits for a vCPU to take an interrupt."""
        return any(wait.kind is WaitKind.SYNC and cpu in left for wait, left in self.left.values())

    @property
    def stopping(self) -> bool:
        """Somebody waits for all vCPUs to be parked: who is stays so."""
        return any(wait.kind is WaitKind.STOP for wait, _ in self.left.values())

    def key(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """For a state's hash: which waits there are, the control state says."""
        return tuple((task, tuple(sorted(left))) for task, (_, left) in self.left.items())
