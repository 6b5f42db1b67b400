"""The x86 side of the core's contract: arch_prepare_kprobe() and its siblings. Answers to
arch/x86/kernel/kprobes.c (2.6.38).

Effects only: what to write is planned by the pure modules beside this one, and written through a
poke protocol.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from arch_x86.isa.constants import INT3, JMP32_SIZE, MAX_INSN_SIZE, MAX_OPTIMIZED_LENGTH
from arch_x86.isa.decode import decode
from arch_x86.probes.boost import is_boostable
from arch_x86.probes.code import CodeCache
from arch_x86.probes.copies import COPY_SIZE, Copies, X86Areas
from arch_x86.probes.cpu_state import CpuState
from arch_x86.probes.eligibility import (
    Verdict,
    can_probe_address,
    can_probe_instruction,
    entry_offset,
    is_ftrace_site,
)
from arch_x86.probes.ftrace_site import FtraceInsn, ftrace_insn
from arch_x86.probes.jprobe import longjmp, setjmp
from arch_x86.probes.kretprobe import hook_return
from arch_x86.probes.optimized_sites import OptimizedSites
from arch_x86.probes.records import Ainsn, OptInsn
from arch_x86.probes.recover import recover
from arch_x86.probes.slot import build_slot
from arch_x86.probes.stepping import stepping_for
from arch_x86.probes.trap_handler import ProbeTraps
from arch_x86.text.poke import PokeProtocol, TextPokeParam
from engine.core.profiles import LINUX_2010, Profile
from engine.core.safety_steps import SafetyStep
from engine.errors import EngineBug, KprobeError
from engine.kprobe import AggrKprobe, Kprobe, KprobeStatus, Method

if TYPE_CHECKING:
    from arch_x86.probes.emulate import StackMemory
    from arch_x86.probes.ptregs import PtRegs
    from arch_x86.text.space import TextSpace
    from engine.arch import ArchCallbacks
    from engine.image import Image
    from engine.kretprobe import KretprobeInstance

__all__ = ("X86Arch", "X86Areas")


def _nobody_asks(_addr: int, _raw: bytes) -> None:
    """A copy that needs no announcement."""


class X86Arch:
    """Prepares, arms, optimizes and undoes probes in one machine's text.

    :param copied: told the address and bytes of each copied instruction before it is written to a
        slot or detour buffer.
    :param grace: waits for a grace period, before dirty slots are used again.
    :ivar cpus: what is known of each CPU; ``ctlblk`` and ``tasks`` are two of its lists.
    :ivar traps: what the machine asks on a trap.
    :ivar copies: the slots and detour buffers; ``slots`` and ``detours`` are its two caches.
    """

    def __init__(
        self,
        image: Image,
        text: TextSpace,
        poke: PokeProtocol,
        areas: X86Areas,
        memory: StackMemory,
        cpus: int,
        profile: Profile = LINUX_2010,
        copied: Callable[[int, bytes], None] | None = None,
        grace: Callable[[str], None] | None = None,
    ) -> None:
        def text_byte(addr: int) -> int | None:
            data = text.read(addr, 1)
            return data[0] if data else None

        self.profile = profile
        self.image = image
        self.poke = poke
        self._text = text
        self._memory = memory
        self._areas = areas
        self._copied = copied or _nobody_asks
        self._lookup: Callable[[int], Kprobe | None] = lambda _addr: None
        self.code = CodeCache(image, self.recovered)
        self.stepping = stepping_for(profile, memory)
        self.cpus = CpuState(cpus, profile)
        self.ctlblk, self.tasks = self.cpus.ctlblk, self.cpus.tasks
        self.copies = Copies(text, areas, profile, grace)
        self.slots, self.detours = self.copies.slots, self.copies.detours
        self.traps = ProbeTraps(
            self.cpus, self.stepping, poke, memory, self.copies, areas.trampoline, text_byte
        )
        self._optimized = OptimizedSites(
            self.code,
            self.copies,
            poke,
            profile,
            areas.callback,
            self._copied,
            red_zone=image.red_zone,
        )
        text.listeners.append(lambda write: self.code.text_changed(write.addr, len(write.data)))

    def recovered(self, addr: int, size: int) -> bytes:
        """The text without probes; what is not text (data that the image brings) as loaded."""
        if not self._text.covers(addr, 1):
            return self.image.read(addr, size)
        has = self.profile.has
        jumps, queued = has(SafetyStep.COMMIT_86B4CE3156C0), has(SafetyStep.COMMIT_868A6FC0CA24)
        return recover(self._text, self._lookup, addr, size, jumps=jumps, queued=queued)

    @property
    def max_optimized_len(self) -> int:
        """MAX_OPTIMIZED_LENGTH."""
        return MAX_OPTIMIZED_LENGTH

    def attach(self, core: ArchCallbacks) -> None:
        """The core whose probes these are."""
        self.cpus.core = core
        self._lookup = core.get_kprobe

    # Plain probes ---------------------------------------------------------------------------------

    def arch_check_text(self, addr: int) -> None:
        """Refuse an address that 6.1 refuses without a look at the text there. Raises KprobeError
        with EINVAL or ENOENT.
        """
        if self._text.is_unloaded(addr):
            code = errno.ENOENT if self.profile.lookup_is_enoent else errno.EINVAL
            raise KprobeError(code, f"no probe can go to {addr:#x}: the code there was unloaded")
        self._refuse(addr, can_probe_address(self.code, addr))

    def _refuse(self, addr: int, verdict: Verdict) -> None:
        if verdict.errno:
            # 6.1 looks the symbol up first and answers ENOENT where there is none; 2.6.38 asks
            # whether it is text: EINVAL.
            outside = verdict.errno == errno.ENOENT and not self.profile.lookup_is_enoent
            code = errno.EINVAL if outside else verdict.errno
            raise KprobeError(code, f"no probe can go to {addr:#x}: {verdict.reason}")

    def arch_adjust_kprobe_addr(self, addr: int) -> int:
        """Behind the ENDBR at a function's first byte, in kernels that think of it."""
        return addr + entry_offset(self.code, addr) if self.profile.skips_endbr else addr

    def arch_ftrace_location(self, addr: int) -> bool:
        """The image's lists say so."""
        return is_ftrace_site(self.code, addr)

    def arch_prepare_kprobe(self, p: Kprobe) -> None:
        """Copy the instruction to a slot: with a jump back behind it where it can be boosted. On an
        ftrace location nothing is copied.

        Raises KprobeError with EILSEQ, EINVAL, EOPNOTSUPP, ENODEV or ENOSPC where 6.1 refuses what
        stands there.
        """
        self._refuse(p.at, can_probe_instruction(self.code, p.at))
        if p.ftrace:
            there = self.code.insn_at(p.at)
            assert there is not None
            p.ainsn = ftrace_insn(there, self._areas.ftrace_caller)
            return
        function = self.code.function_at(p.at)
        insn = function.insn_at(p.at) if function is not None else None
        if insn is None:
            raise EngineBug(f"no instruction at {p.at:#x}, though a probe may go there")
        boostable = (
            self.stepping.wants_jump_back(p)
            and not self.profile.preemption
            and is_boostable(self.code, p.at)
        )
        slot = self.slots.get()
        places = [(slot, boostable)]
        if self.profile.slot_has_both and boostable:
            places = [(slot, False), (slot + COPY_SIZE, True)]
        try:
            copies = [(at, build_slot(insn, at, jumps_back)) for at, jumps_back in places]
        except KprobeError:
            self.slots.free(slot, dirty=False)
            raise
        for at, copy in copies:
            self._copied(at, copy[: insn.length])
            self.poke.text_poke(at, copy, f"slot of {p.at:#x}")
        p.ainsn = Ainsn(insn, slot, places[-1][0] if boostable else None)
        self.copies.owner[slot] = p

    def arch_remove_kprobe(self, p: Kprobe) -> None:
        """Poison and free the slot, if there still is one. One that ends in a jump back is dirty:
        no trap tells that a CPU has left it.
        """
        ainsn: Ainsn | FtraceInsn | None = p.ainsn
        if ainsn is None or isinstance(ainsn, FtraceInsn):
            p.ainsn = None
            return
        self.poke.text_poke(ainsn.slot, INT3 * self.copies.slot_size, f"freed slot of {p.at:#x}")
        del self.copies.owner[ainsn.slot]
        p.ainsn = None
        self.slots.free(ainsn.slot, dirty=ainsn.boostable)

    def arch_arm_kprobes(self, ps: Sequence[Kprobe]) -> None:
        """The breakpoints go in, and ftrace's calls."""
        self.poke.text_poke_bytes(
            [TextPokeParam(p.at, INT3, f"arm {p.at:#x}") for p in ps if not p.ftrace]
        )
        self.poke.text_poke_jumps([p.ainsn.arming() for p in ps if p.ftrace])

    def arch_disarm_kprobes(self, ps: Sequence[Kprobe]) -> None:
        """The first bytes come back, and what ftrace's calls replaced."""
        self.poke.text_poke_bytes(
            [TextPokeParam(p.at, p.ainsn.opcode, f"disarm {p.at:#x}") for p in ps if not p.ftrace]
        )
        self.poke.text_poke_jumps([p.ainsn.disarming(self._read_u64) for p in ps if p.ftrace])

    def _read_u64(self, addr: int) -> int | None:
        """The word at ``addr`` in data, writable or not."""
        word = self._memory.read_u64(addr)
        if word is not None:
            return word
        data = self.image.read(addr, 8)
        return int.from_bytes(data, "little") if len(data) == 8 else None

    # Optimized probes -----------------------------------------------------------------------------

    def arch_prepare_optimized_kprobe(self, op: AggrKprobe) -> None:
        """Build the detour buffer, where the site can be optimized."""
        self._optimized.prepare(op)

    def arch_remove_optimized_kprobe(self, op: AggrKprobe) -> None:
        """Poison and free the detour buffer."""
        self._optimized.remove(op)

    def arch_check_optimized_kprobe(self, op: AggrKprobe) -> bool:
        """False while another probe has its breakpoint or jump inside the replaced bytes."""
        return self._optimized.check(op, self._lookup)

    def arch_within_optimized_kprobe(self, op: AggrKprobe, addr: int) -> bool:
        """True when ``addr`` lies behind the first and before the end of the replaced
        instructions.
        """
        optinsn: OptInsn = op.optinsn
        return op.at <= addr < op.at + optinsn.size

    def arch_optimize_kprobes(self, ops: Sequence[AggrKprobe]) -> None:
        """Jumps go in."""
        self._optimized.optimize(ops)

    def arch_unoptimize_kprobes(self, ops: Sequence[AggrKprobe]) -> None:
        """Breakpoints and the original tails come back."""
        self._optimized.unoptimize(ops, "unoptimize")

    def arch_unoptimize_kprobe(self, op: AggrKprobe) -> None:
        """The same for one, at once."""
        self._optimized.unoptimize([op], "force unoptimize")

    # Return probes --------------------------------------------------------------------------------

    @property
    def trampoline(self) -> int:
        """Where probed functions return to."""
        return self._areas.trampoline

    def arch_prepare_kretprobe(self, ri: KretprobeInstance, regs: PtRegs) -> bool:
        """The trampoline takes the place of the return address. False: there is no stack."""
        return hook_return(ri, regs, self._memory, self.trampoline)

    def arch_setjmp(self, entry: int, regs: PtRegs) -> None:
        """To the guest code of a jumper probe."""
        setjmp(
            self.cpus.current, entry, regs, self._memory, self._areas.jprobe.saved_sp[self.cpus.cpu]
        )

    def arch_longjmp(self, regs: PtRegs) -> bool:
        """Back from it. False: this breakpoint is not that of ``jprobe_return``."""
        stub = self._areas.jprobe
        return stub.start <= regs.ip - 1 < stub.end and longjmp(
            self.cpus.current, regs, self._memory
        )

    def call_ended(self, cpu: int) -> None:
        """The call on ``cpu`` is over: what is still open there never returns, and no hit is in
        progress.
        """
        self.traps.call_ended(cpu)

    # Handlers -------------------------------------------------------------------------------------

    def arch_set_current_kprobe(self, p: Kprobe | None) -> None:
        """A handler of ``p`` runs on this CPU, outside of a hit; None: no more."""
        block = self.cpus.current
        block.current = p
        block.status = KprobeStatus.HIT_ACTIVE

    @property
    def kprobe_instance(self) -> Kprobe | None:
        """On this CPU: of an aggregator's hit in progress, the child whose handler runs."""
        return self.cpus.current.instance

    @kprobe_instance.setter
    def kprobe_instance(self, p: Kprobe | None) -> None:
        cpus = self.cpus
        cpus.ctlblk[cpus.cpu].instance = p

    @property
    def current_task(self) -> int:
        """Whose trap is being handled."""
        return self.tasks[self.cpus.cpu]

    @property
    def possible_cpus(self) -> int:
        """How many there are."""
        return len(self.ctlblk)

    # Snapshots ------------------------------------------------------------------------------------

    def save_state(self) -> Any:
        """For a snapshot."""
        return self.cpus.save_state(), self.cpus.core.kretprobes.save_state()

    def restore_state(self, state: Any) -> None:
        """From a snapshot."""
        hits, returns = state
        self.cpus.restore_state(hits)
        self.cpus.core.kretprobes.restore_state(returns)

    # Reports --------------------------------------------------------------------------------------

    def method_of(self, p: Kprobe) -> Method:
        """How a hit on table entry ``p`` would run the probed instruction now."""
        if (
            isinstance(p, AggrKprobe)
            and p.optinsn is not None
            and self._text.read(p.at, JMP32_SIZE) == p.optinsn.jump
        ):
            return Method.OPTIMIZED
        if p.ftrace:
            return Method.FTRACE
        if self.stepping.boosts(p):
            return Method.BOOSTED
        return Method.EMULATED if self.stepping.emulates(p.ainsn) is not None else Method.INT3

    def in_use(self, addr: int) -> bool:
        """``addr`` lies in a slot or detour buffer that is in use."""
        return self.copies.in_use(addr)

    def watch_ranges(self) -> Iterator[tuple[int, int]]:
        """Where in slots, detour buffers in use, and ftrace's trampoline, at its entry, it matters
        what others do meanwhile.
        """
        if self.profile.on_ftrace and self.code.ftrace_sites:
            yield self._areas.ftrace_caller, self._areas.ftrace_caller + 1
        yield from self.copies.watch_ranges()

    def originals(self, image: Image, addr: int, size: int) -> dict[int, bytes]:
        """The instructions of ``image`` in the ``size`` bytes from ``addr``, at least one, by
        address.
        """
        insns: dict[int, bytes] = {}
        at = addr
        while at < addr + max(size, 1):
            insn = decode(image.read(at, MAX_INSN_SIZE), at)
            if insn is None:
                break
            insns[at] = insn.raw
            at += insn.length
        return insns
