"""The oracle of CPUs: behind a hit, the CPU's record of the hit is what it was before.

The record answers to struct kprobe_ctlblk and current_kprobe in include/linux/kprobes.h.
"""

from __future__ import annotations

from engine.patching.hit_in_progress import NO_HIT
from engine.patching.oracles.oracle import Oracle
from engine.patching.sites import Site
from engine.patching.vcpu import VcpuState
from engine.search.explorable import Violation, ViolationKind

__all__ = ("HitRecord",)


class HitRecord(Oracle):
    """A CPU does not say that it is still in a hit, when a pass over a site or a call has ended.

    If it said so, its later hits would be misses. The status that a hit has left is not asked
    about, since it says nothing of that.
    """

    def pass_over(self, vcpu: VcpuState, site: Site) -> Violation | None:
        """Compare the CPU's record with the one before the hit."""
        return self.call_ending(vcpu)

    def call_ending(self, vcpu: VcpuState) -> Violation | None:
        """Compare the CPU's record with the one before the call."""
        before = NO_HIT if vcpu.interrupted is None else vcpu.interrupted.block
        if vcpu.block == before or (vcpu.leaves_status and not before[0]):
            return None
        ip = self.now.port.cpus.ip(vcpu.index)
        text = (
            f"CPU {vcpu.index} goes on at {self.now.port.text.where(ip)}, and its record says that"
            " it is still in the last hit"
        )
        return Violation(ViolationKind.INVARIANT, vcpu.index, ip, text)
