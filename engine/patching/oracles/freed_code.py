"""Oracle 4: nothing executes in, or returns to, a slot or detour buffer that is not in use, and no
hit goes on with a freed probe.
"""

from __future__ import annotations

from engine.patching.oracles.oracle import Oracle
from engine.patching.port_records import Fault
from engine.patching.vcpu import VcpuState
from engine.search.explorable import Violation, ViolationKind

__all__ = ("FreedCode",)


class FreedCode(Oracle):
    """A vCPU, or a task off its CPU, that is in the room of slots and detour buffers is in one that
    is in use.
    """

    def in_buffer(self, cpu: int, ip: int) -> Violation | None:
        """See :class:`Oracle`."""
        if self.now.node.state.arch.in_use(ip):
            return None
        return Violation(
            ViolationKind.USE_AFTER_FREE,
            cpu,
            ip,
            f"CPU {cpu} is at {self.now.port.text.where(ip)}, which was freed",
        )

    def died(self, vcpu: VcpuState, fault: Fault) -> Violation | None:
        """See :class:`Oracle`."""
        return (
            self.in_buffer(vcpu.index, fault.rip)
            if fault.rip in self.now.port.text.buffers
            else None
        )

    def hit_goes_on(self, vcpu: VcpuState, name: int) -> Violation | None:
        """See :class:`Oracle`."""
        p = self.now.node.state.named(name)
        if p is None or p.ainsn is not None:
            return None
        text = (
            f"a hit on CPU {vcpu.index} goes on with the probe at {self.now.port.text.where(p.at)},"
            " which was freed"
        )
        return Violation(ViolationKind.USE_AFTER_FREE, vcpu.index, p.at, text)
