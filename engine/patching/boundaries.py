"""What can happen to a vCPU at its instruction boundary: an interrupt, a preemption, a stop."""

from __future__ import annotations

from engine.patching.parked_task import Mode
from engine.patching.situation import Situation
from engine.patching.vcpu import VcpuState

__all__ = ("Boundaries",)


class Boundaries:
    """This object answers questions about the present state, and never changes it."""

    def __init__(self, now: Situation) -> None:
        self._now = now
        self._experiment = now.experiment
        self._vcpus = now.vcpus
        self._cpus = now.port.cpus
        self._text = now.port.text
        self._lock = now.experiment.lock
        self._user = now.experiment.user
        self._guards = {site.addr: site.guards for site in now.patches if site.guards}

    def takes_interrupt(self, cpu: int) -> bool:
        """Return whether the vCPU would take an interrupt where it stands.

        The handlers behind a jump run with interrupts on or off as the code that they
        interrupt has them.
        """
        vcpu = self._vcpus[cpu]
        if vcpu.nmi:
            return False
        return vcpu.mode is not Mode.CALL or self._cpus.takes_interrupt(cpu)

    def preempts(self, cpu: int) -> bool:
        """Return whether the return of an interrupt may give the vCPU to another task.

        It may not in a hit, whose handlers run with preemption off.
        """
        return (
            self._experiment.preempt and self._vcpus[cpu].hit is None and self.takes_interrupt(cpu)
        )

    def stops(self, cpu: int) -> bool:
        """Return whether ``stop_machine`` can park the vCPU where it stands.

        It can at a quiescent point and, where tasks can be preempted, wherever one can be.
        """
        return self._vcpus[cpu].quiescent or self.preempts(cpu)

    @property
    def holds(self) -> bool:
        """Return whether a vCPU may have to wait in the present state (:meth:`waits_to_run`)."""
        node = self._now.node
        return node.frozen is not None or node.hidden is not None or bool(self._guards)

    def waits_to_run(self, vcpu: VcpuState) -> bool:
        """Return whether the vCPU is suspended, faults at hidden code, or jumps to itself."""
        return vcpu.frozen or (vcpu.shut_out and self._faults(vcpu)) or self.spins(vcpu)

    def spins(self, vcpu: VcpuState) -> bool:
        """Return whether the vCPU executes a jump to itself until the protocol stores others."""
        if not self._guards or vcpu.mode is not Mode.CALL or vcpu.nmi or vcpu.hit is not None:
            return False
        ip = self._cpus.ip(vcpu.index)
        guards = self._guards.get(ip)
        if guards is None:
            return False
        fetched = self._text.fetched(vcpu.index, ip, max(map(len, guards)))
        guard = next((one for one in guards if fetched.startswith(one)), None)
        # While there is a store to these bytes that it has not seen, it may fetch others.
        return guard is not None and not any(
            store.addr < ip + len(guard) and ip < store.addr + len(store.old)
            for _, stores in vcpu.view
            for store in stores
        )

    def _faults(self, vcpu: VcpuState) -> bool:
        hidden = self._now.node.hidden
        return vcpu.live and hidden is not None and self._cpus.ip(vcpu.index) in hidden

    def freezes(self, cpu: int) -> bool:
        """Return whether the vCPU's task can be suspended where it stands, in code of its own."""
        vcpu = self._vcpus[cpu]
        if not vcpu.live:
            return True
        ip = self._cpus.ip(cpu)
        own = ip not in self._text.stubs and ip not in self._text.buffers
        return own and vcpu.hit is None and self.takes_interrupt(cpu)

    def allocates(self) -> bool:
        """Return whether a task stands where it holds the allocator's lock."""
        lock = self._lock
        if lock is None:
            return False
        for vcpu in self._vcpus:
            if vcpu.mode is Mode.CALL and self._cpus.ip(vcpu.index) in lock:
                return True
            if any(one.mode is Mode.CALL and one.resume in lock for one in vcpu.parked):
                return True
        return False

    def in_user_mode(self, cpu: int) -> bool:
        """Return whether the vCPU is in user mode, as far as control tasks can see.

        A vCPU whose tasks are all between calls is. In a call the vCPU is so at the places of the
        experiment's ``user``, where the program has not said yet that it has left user mode.
        """
        vcpu = self._vcpus[cpu]
        if vcpu.nmi or any(one.mode is Mode.CALL for one in vcpu.parked):
            return False
        if vcpu.mode is not Mode.CALL:
            return True
        return self._user is not None and self._cpus.ip(cpu) in self._user

    def tasks_of(self, cpu: int) -> frozenset[int]:
        """Return the vCPU's tasks in the middle of a call, for ``synchronize_rcu_tasks()``."""
        vcpu = self._vcpus[cpu]
        # Where tasks can't be preempted the kernel waits by synchronize_sched(), for which a task
        # that is asleep does not count.
        away = (*vcpu.parked, *vcpu.asleep) if self._experiment.preempt else vcpu.parked
        inside = {one.task for one in away if one.in_call}
        return frozenset(inside if vcpu.off_call else inside | {vcpu.task})
