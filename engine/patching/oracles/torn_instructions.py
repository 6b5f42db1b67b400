"""The oracle of torn instructions: each one is whole, and is decoded from one text version.

An instruction must begin where the code that is valid there has an instruction.
"""

from __future__ import annotations

from engine.patching.oracles.oracle import Oracle
from engine.patching.vcpu import VcpuState
from engine.search.explorable import Violation, ViolationKind

__all__ = ("TornInstructions",)


class TornInstructions(Oracle):
    """Near a site, a vCPU executes an original instruction, whole, or what was patched in whole.

    At a site it may also be a breakpoint, or a whole jump or call of a probe there.
    """

    def instruction(self, vcpu: VcpuState, ip: int) -> Violation | None:
        """Compare what the vCPU fetches at ``ip`` with what may stand there."""
        if ip in self.now.patched_bytes:
            return None  # A patch protocol replaces the code here, so PatchedText looks at it.
        text = self.now.port.text
        facts, original = text.facts, self.now.insns.get(ip)
        if original is None:
            return self._torn(vcpu, ip, "which is inside of an original instruction")
        fetched = text.fetched(vcpu.index, ip, max(len(original), facts.insn_size_max))
        if fetched.startswith(original):
            return None
        site = self.now.sites.get(ip)
        if site is not None:
            patched = (
                fetched.startswith(facts.breakpoint) or fetched[: facts.jump_size] in site.jumps
            )
            if patched or site.calls_ftrace(fetched):
                return None
        shown = fetched[: max(len(original), text.insn_size(fetched, ip))]
        return self._torn(vcpu, ip, f"where {shown.hex(' ')} stands for {original.hex(' ')}")

    def _torn(self, vcpu: VcpuState, ip: int, why: str) -> Violation:
        text = f"CPU {vcpu.index} executes {self.now.port.text.where(ip)}, {why}"
        return Violation(ViolationKind.TORN, vcpu.index, ip, text)
