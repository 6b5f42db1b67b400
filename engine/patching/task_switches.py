"""Interrupts, and what takes a task off its vCPU: preemption, ``schedule()`` and sleep."""

from __future__ import annotations

from engine.patching.parked_task import Mode, ParkedTask
from engine.patching.situation import Situation
from engine.patching.vcpu import VcpuState
from engine.patching.waits import Waits

__all__ = ("TaskSwitches",)


class TaskSwitches:
    """This object changes which task has a vCPU.

    It tells the waits of control tasks of the quiescent points on the way.
    """

    def __init__(self, now: Situation, waits: Waits) -> None:
        self._cpus = now.port.cpus
        self._memory = now.port.memory
        self._waits = waits

    def interrupt(self, vcpu: VcpuState) -> None:
        """Let an external interrupt come.

        In the middle of a hit its handler runs to its end at once, since it runs neither
        probed code nor a probe's handler.
        """
        whole = vcpu.hit is not None
        self._cpus.interrupt(vcpu.index, whole=whole)
        if whole:
            vcpu.synchronize()  # The handler has ended in its IRET.

    def preempt(self, vcpu: VcpuState) -> None:
        """Let an interrupt come that gives the CPU to the other task on its return."""
        ip = self._cpus.ip(vcpu.index)
        self._cpus.interrupt_up_to_return(vcpu.index)
        self.switch(vcpu, ip)

    def switch(self, vcpu: VcpuState, resume: int) -> None:
        """Give the CPU to the other task.

        :param resume: the address of the instruction at which the present task was
            interrupted.
        """
        self._memory.clear_dead(vcpu.index, live=vcpu.live)
        gone, following = self._park(vcpu, resume), vcpu.parked[0]
        self._resume(vcpu, following)
        vcpu.parked = (*vcpu.parked[1:], gone) if gone.mode is not Mode.DONE else vcpu.parked[1:]
        self._waits.quiescent(vcpu.index)
        if self._waits.left:
            self._waits.ran(vcpu)

    def schedules(self, vcpu: VcpuState) -> None:
        """Note that the task calls ``schedule()``: it is at a quiescent point until it goes on."""
        vcpu.quiet = True
        self._waits.quiescent(vcpu.index)
        self._waits.task_passed(vcpu.task)

    def falls_asleep(self, vcpu: VcpuState) -> None:
        """Take the task off the CPU where it stands, for ever.

        It makes no call of ``schedule()`` that would count for the wait of a control task.
        """
        vcpu.asleep = (*vcpu.asleep, self._park(vcpu, self._cpus.ip(vcpu.index)))
        vcpu.mode, vcpu.passing = Mode.DONE, None
        if vcpu.parked:
            self._resume(vcpu, vcpu.parked[0])
            vcpu.parked = vcpu.parked[1:]
        self._waits.quiescent(vcpu.index)

    def _park(self, vcpu: VcpuState, resume: int) -> ParkedTask:
        """Return a record of the task that has the CPU, as it stands."""
        ip, registers, vectors, stack_top, context = self._cpus.park(
            vcpu.index, in_call=vcpu.mode is Mode.CALL
        )
        return ParkedTask(
            task=vcpu.task,
            mode=vcpu.mode,
            calls=vcpu.calls,
            passing=vcpu.passing,
            quiet=vcpu.quiet,
            rip=ip,
            resume=resume,
            registers=registers,
            vectors=vectors,
            stack_top=stack_top,
            context=context,
        )

    def _resume(self, vcpu: VcpuState, parked: ParkedTask) -> None:
        self._cpus.resume(vcpu.index, parked)
        vcpu.task, vcpu.mode, vcpu.calls = parked.task, parked.mode, parked.calls
        vcpu.passing, vcpu.quiet = parked.passing, parked.quiet
