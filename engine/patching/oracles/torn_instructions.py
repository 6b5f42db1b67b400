"""Oracle 1: every instruction starts on a boundary of the code that is valid there, and is decoded
from one version of the text.
"""

from __future__ import annotations

from engine.patching.oracles.oracle import Oracle
from engine.patching.vcpu import VcpuState
from engine.search.explorable import Violation, ViolationKind

__all__ = ("TornInstructions",)


class TornInstructions(Oracle):
    """Near a site that is: an original instruction, whole; at a site also a breakpoint, or a whole
    jump or call of a probe there.
    """

    def instruction(self, vcpu: VcpuState, ip: int) -> Violation | None:
        """See :class:`Oracle`."""
        text = self.now.port.text
        facts, original = text.facts, self.now.insns.get(ip)
        if original is None:
            return self._torn(vcpu, ip, "which is inside of an original instruction")
        fetched = text.fetched(vcpu.index, ip, max(len(original), facts.jump_size))
        if fetched.startswith(original):
            return None
        site = self.now.sites.get(ip)
        if site is not None:
            patched = (
                fetched.startswith(facts.breakpoint) or fetched[: facts.jump_size] in site.jumps
            )
            if patched or site.calls_ftrace(fetched):
                return None
        return self._torn(
            vcpu, ip, f"where {fetched[: len(original)].hex(' ')} stands for {original.hex(' ')}"
        )

    def _torn(self, vcpu: VcpuState, ip: int, why: str) -> Violation:
        text = f"CPU {vcpu.index} executes {self.now.port.text.where(ip)}, {why}"
        return Violation(ViolationKind.TORN, vcpu.index, ip, text)
