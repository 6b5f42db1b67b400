"""The oracle of freed code: no CPU executes, or returns to, a slot or detour buffer that is freed.

Nor does a hit go on with a probe that is freed.
"""

from __future__ import annotations

from engine.patching.oracles.oracle import Oracle
from engine.patching.port_records import Fault
from engine.patching.vcpu import VcpuState
from engine.search.explorable import Violation, ViolationKind

__all__ = ("FreedCode",)


class FreedCode(Oracle):
    """A vCPU or task that stands in the memory of slots and detour buffers stands in one in use."""

    def in_buffer(self, cpu: int, ip: int) -> Violation | None:
        """Report a vCPU or task at ``ip``, if the slot or detour buffer there is not in use."""
        if self.now.node.in_use(ip):
            return None
        return Violation(
            ViolationKind.USE_AFTER_FREE,
            cpu,
            ip,
            f"CPU {cpu} is at {self.now.port.text.where(ip)}, which was freed",
        )

    def died(self, vcpu: VcpuState, fault: Fault) -> Violation | None:
        """Report a call that died in a slot or detour buffer which is not in use."""
        return (
            self.in_buffer(vcpu.index, fault.rip)
            if fault.rip in self.now.port.text.buffers
            else None
        )

    def hit_goes_on(self, vcpu: VcpuState, name: int) -> Violation | None:
        """Report a hit that goes on with a probe whose slot is freed."""
        p = self.now.node.state.named(name)
        if p is None or p.ainsn is not None:
            return None
        text = (
            f"a hit on CPU {vcpu.index} goes on with the probe at {self.now.port.text.where(p.at)},"
            " which was freed"
        )
        return Violation(ViolationKind.USE_AFTER_FREE, vcpu.index, p.at, text)
