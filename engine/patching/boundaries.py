"""What can happen to a vCPU at the instruction boundary where it stands: interrupts, preemption, a
stop.
"""

from __future__ import annotations

from engine.patching.parked_task import Mode
from engine.patching.situation import Situation

__all__ = ("Boundaries",)


class Boundaries:
    """Questions about the present state; nothing here changes it."""

    def __init__(self, now: Situation) -> None:
        self._experiment = now.experiment
        self._vcpus = now.vcpus
        self._cpus = now.port.cpus

    def takes_interrupt(self, cpu: int) -> bool:
        """The vCPU would take one where it stands; the handlers behind a jump run with interrupts
        as the code has them that they interrupt.
        """
        vcpu = self._vcpus[cpu]
        if vcpu.nmi:
            return False
        return vcpu.mode is not Mode.CALL or self._cpus.takes_interrupt(cpu)

    def preempts(self, cpu: int) -> bool:
        """The return of an interrupt may give it to another task: not in a hit, whose handlers run
        with preemption off.
        """
        return (
            self._experiment.preempt and self._vcpus[cpu].hit is None and self.takes_interrupt(cpu)
        )

    def stops(self, cpu: int) -> bool:
        """``stop_machine`` can park it: at a quiescent point; where tasks can be preempted,
        wherever one can be.
        """
        return self._vcpus[cpu].quiescent or self.preempts(cpu)

    def tasks_of(self, cpu: int) -> frozenset[int]:
        """The tasks of the vCPU that are in the middle of a call, for
        ``synchronize_rcu_tasks()``.
        """
        vcpu = self._vcpus[cpu]
        # else it is synchronize_sched()
        away = (*vcpu.parked, *vcpu.asleep) if self._experiment.preempt else vcpu.parked
        inside = {one.task for one in away if one.in_call}
        return frozenset(inside if vcpu.off_call else inside | {vcpu.task})
