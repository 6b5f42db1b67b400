"""The oracle of patched code: a vCPU executes the old code of a site or its new code, whole.

Once the protocol says that it is done, a vCPU executes the new code only.
"""

from __future__ import annotations

from typing import NamedTuple

from engine.patching.oracles.oracle import Oracle
from engine.patching.patched_sites import PatchedSite, TextIs
from engine.patching.port_records import Fault
from engine.patching.situation import Situation
from engine.patching.vcpu import VcpuState
from engine.search.explorable import Violation, ViolationKind

__all__ = ("PatchedText",)


class _CameBy(NamedTuple):
    """How a task has come into a site.

    :ivar site: the address of the site.
    :ivar first: what the task has fetched there.
    :ivar behind: where it went on in the site behind that; 0: it has not gone on in the site.
    """

    site: int
    first: bytes
    behind: int = 0


class PatchedText(Oracle):
    """In a site, a vCPU executes an instruction that is whole in the old code or in the new.

    At the first byte it may also be a breakpoint, or what else a protocol keeps vCPUs out with. A
    vCPU that begins to execute a site executes
    what the protocol has said that the code is by then.

    :ivar came: by task, how it came into the site that it was in last. A text of a violation says
        so, and no verdict depends on it, so it is no part of a state's name.
    """

    def __init__(self, now: Situation) -> None:
        super().__init__(now)
        self.came: dict[int, _CameBy] = {}

    def reset(self) -> None:
        """Forget how tasks came into sites."""
        self.came = {}

    def save(self) -> dict[int, _CameBy]:
        """Return how tasks came into sites."""
        return self.came

    def restore(self, saved: dict[int, _CameBy]) -> None:
        """Take ``saved`` as the way in which tasks came into sites."""
        self.came = saved

    def instruction(self, vcpu: VcpuState, ip: int) -> Violation | None:
        """Compare what the vCPU fetches at ``ip`` with what may stand there."""
        site = self.now.patched_bytes.get(ip)
        if site is None:
            return None
        text = self.now.port.text
        fetched = text.fetched(vcpu.index, ip, text.facts.insn_size_max)
        whole = [one for one in site.insns.get(ip, ()) if fetched.startswith(one)]
        self._note_way(vcpu.task, site, ip, fetched)
        if ip == site.addr:
            if whole:
                return self._wrong_time(vcpu, site, max(whole, key=len))
            if fetched.startswith(text.facts.traps):
                return None
        elif whole:
            return None
        return self._torn(vcpu, ip, site, fetched[: text.insn_size(fetched, ip)])

    def died(self, vcpu: VcpuState, fault: Fault) -> Violation | None:
        """Report that a CPU has died of the breakpoint at the first byte of a site.

        What the fault itself says is of the program's code, which the CPU did not execute.
        """
        came, text = self.came.get(vcpu.task), self.now.port.text
        if (
            came is None
            or came.site != fault.rip
            or came.behind
            or fault.kind not in text.facts.trap_faults
            or not came.first.startswith(text.facts.traps)
        ):
            return None
        trap = next(one for one in text.facts.traps if came.first.startswith(one))
        return Violation(
            ViolationKind.GUEST_FAULT,
            vcpu.index,
            came.site,
            f"CPU {vcpu.index} at {fault.place}: {fault.kind}: it executed the protocol's"
            f" breakpoint, {trap.hex(' ')}, and no handler takes that",
        )

    def _note_way(self, task: int, site: PatchedSite, ip: int, fetched: bytes) -> None:
        """Note how ``task`` has come to ``ip``, which is in ``site``."""
        if ip == site.addr:
            self.came = {**self.came, task: _CameBy(ip, fetched)}
            return
        came = self.came.get(task)
        if came is not None and came.site == site.addr and not came.behind:
            self.came = {**self.came, task: came._replace(behind=ip)}

    def _wrong_time(self, vcpu: VcpuState, site: PatchedSite, insn: bytes) -> Violation | None:
        """Report the code of ``site`` that is not there any more, or not yet."""
        now = self.now.node.state.control.text_is
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
            why = f"{place}: {self._how_inside(vcpu.task, site)}"
        else:
            why = f"{place}, which is neither in the old code nor in the new"
        return Violation(ViolationKind.TORN, vcpu.index, ip, why)

    def _how_inside(self, task: int, site: PatchedSite) -> str:
        """Return why ``task`` is inside of the changing bytes of ``site``, where no code is whole.

        A breakpoint's handler has sent it there, or the first new instruction has led there, or
        it had executed an old instruction when the bytes changed.
        """
        text, came = self.now.port.text, self.came.get(task)
        if came is not None and came.site == site.addr and came.behind:
            behind = text.where(came.behind)
            if came.first.startswith(text.facts.traps):
                return (
                    f"the handler of the breakpoint at {text.where(site.addr)} sent it on to"
                    f" {behind}, among the bytes that the protocol still changes"
                )
            new = site.first(site.new)
            if came.first.startswith(new) and not came.first.startswith(site.first(site.old)):
                return (
                    f"it executed the first new instruction, {new.hex(' ')}, and the bytes behind"
                    " that are not yet the new code"
                )
        return (
            "a task inside the bytes: it stood behind the first instruction of the site when the"
            " bytes changed"
        )
