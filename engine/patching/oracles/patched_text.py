"""The oracle of patched code: a vCPU executes the old code of a site or its new code, whole.

Once the protocol says that it is done, a vCPU executes the new code only.
"""

from __future__ import annotations

from engine.patching.oracles.oracle import Oracle
from engine.patching.patched_sites import PatchedSite, TextIs
from engine.patching.port_records import Fault
from engine.patching.vcpu import VcpuState
from engine.search.explorable import Violation, ViolationKind

__all__ = ("PatchedText",)


class PatchedText(Oracle):
    """In a site, a vCPU executes an instruction that is whole in the old code or in the new.

    At the first byte it may also be a breakpoint, a HLT, a jump to itself that the protocol has
    declared, or the whole jump of a probe there. A vCPU that begins to execute a site executes what
    the protocol has said that the code is by then.

    It remembers nothing: the texts of its violations are worked out from the present state.
    """

    def instruction(self, vcpu: VcpuState, ip: int) -> Violation | None:
        """Compare what the vCPU fetches at ``ip`` with what may stand there."""
        site = self.now.patched_bytes.get(ip)
        if site is None:
            return None
        text = self.now.port.text
        fetched = text.fetched(vcpu.index, ip, text.facts.insn_size_max)
        whole = [one for one in site.insns.get(ip, ()) if fetched.startswith(one)]
        if ip == site.addr:
            if whole:
                return self._wrong_time(vcpu, site, max(whole, key=len))
            kept_out = fetched.startswith((*text.facts.traps, *site.guards))
            if kept_out or self._probes_jump(ip, fetched):
                return None
        elif whole:
            return None
        return self._torn(vcpu, ip, site, fetched[: text.insn_size(fetched, ip)])

    def died(self, vcpu: VcpuState, fault: Fault) -> Violation | None:
        """Report that a CPU has died of the breakpoint at the first byte of a site.

        What the fault itself says is of the program's code, which the CPU did not execute.
        """
        facts = self.now.port.text.facts
        site = self.now.patched_bytes.get(fault.rip)
        trap = dict(zip(facts.trap_faults, facts.traps, strict=True)).get(fault.kind)
        if site is None or trap is None or site.addr != fault.rip or site.addr in self.now.sites:
            return None
        if any(one.startswith(trap) for one in site.insns[site.addr]):
            return None  # It may be the old code's, or the new code's.
        return Violation(
            ViolationKind.GUEST_FAULT,
            vcpu.index,
            site.addr,
            f"CPU {vcpu.index} at {fault.place}: {fault.kind}: it executed the protocol's"
            f" breakpoint, {trap.hex(' ')}, and no handler takes that",
        )

    def _probes_jump(self, ip: int, fetched: bytes) -> bool:
        """Return whether ``fetched`` is a whole jump that was prepared for a probe at ``ip``."""
        site = self.now.sites.get(ip)
        jump = fetched[: self.now.port.text.facts.jump_size]
        return site is not None and jump in site.jumps

    def _wrong_time(self, vcpu: VcpuState, site: PatchedSite, insn: bytes) -> Violation | None:
        """Report the code of ``site`` that is not there any more, or not yet."""
        now = self.now.node.text_is
        if now is TextIs.CHANGING:
            return None
        right = site.right(now)
        if insn in right:
            return None
        return Violation(
            ViolationKind.WRONG_RESULT,
            vcpu.index,
            site.addr,
            f"CPU {vcpu.index} executes {insn.hex(' ')} at {self.now.port.text.where(site.addr)},"
            f" though the protocol has said that {right[0].hex(' ')} stands there",
        )

    def _torn(self, vcpu: VcpuState, ip: int, site: PatchedSite, insn: bytes) -> Violation:
        text = self.now.port.text
        place = f"CPU {vcpu.index} executes {insn.hex(' ')} at {text.where(ip)}"
        present = text.read(self.now.node.version, ip, text.facts.insn_size_max)
        if ip != site.addr and not any(map(present.startswith, site.insns.get(ip, ()))):
            why = f"{place}: {self._how_inside(ip, site)}"
        else:
            why = f"{place}, which is neither in the old code nor in the new"
        return Violation(ViolationKind.TORN, vcpu.index, ip, why)

    def _how_inside(self, ip: int, site: PatchedSite) -> str:
        """Return how a task comes to ``ip``, among the changing bytes of ``site``.

        The handler of the breakpoint over the first byte sends CPUs there, or only the new code
        leads there, or else the task stood there when the bytes changed.
        """
        where = self.now.port.text.where
        old, new = site.starts(site.old), site.starts(site.new)
        behind = self.now.node.state.arch.handler_sends_to(site.addr)
        if behind is not None and behind <= ip and any({behind, ip} <= one for one in (old, new)):
            return (
                f"the handler of the breakpoint at {where(site.addr)} sends CPUs on to"
                f" {where(behind)}, among the bytes that the protocol still changes"
            )
        if ip in new and ip not in old:
            return (
                f"it is behind the first new instruction, {site.first(site.new).hex(' ')}, and the"
                " bytes there are not those of the new code"
            )
        return (
            "a task inside the bytes: it stood behind the first instruction of the site when the"
            " bytes changed"
        )
