"""Oracle 6, of the CPUs: behind a hit the CPU's record of it is what it was before."""

from __future__ import annotations

from engine.patching.hit_in_progress import NO_HIT
from engine.patching.oracles.oracle import Oracle
from engine.patching.sites import Site
from engine.patching.vcpu import VcpuState
from engine.search.explorable import Violation, ViolationKind

__all__ = ("HitRecord",)


class HitRecord(Oracle):
    """When a pass over a site or a call has ended, the CPU does not say that it is still in a
    hit.
    """

    def pass_over(self, vcpu: VcpuState, site: Site) -> Violation | None:
        """See :class:`Oracle`."""
        return self.call_ending(vcpu)

    def call_ending(self, vcpu: VcpuState) -> Violation | None:
        """See :class:`Oracle`."""
        before = NO_HIT if vcpu.interrupted is None else vcpu.interrupted.block
        if vcpu.block == before:
            return None
        ip = self.now.port.cpus.ip(vcpu.index)
        text = (
            f"CPU {vcpu.index} goes on at {self.now.port.text.where(ip)}, and its record says that"
            " it is still in the last hit"
        )
        return Violation(ViolationKind.INVARIANT, vcpu.index, ip, text)
