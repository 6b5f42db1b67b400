"""The x86 side of the core's contract: arch_prepare_kprobe() and its siblings. Answers to arch/x86/kernel/kprobes.c (2.6.38).

Effects only: what to write is planned by the pure modules beside this one, and written through a poke protocol.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from arch_x86.isa.constants import INT3, JMP32_SIZE, MAX_INSN_SIZE, MAX_OPTIMIZED_LENGTH, PAGE_SIZE
from arch_x86.isa.decode import decode
from arch_x86.isa.encode import jmp32
from arch_x86.probes.boost import is_boostable
from arch_x86.probes.breakpoint import GuestMemory
from arch_x86.probes.code import CodeCache
from arch_x86.probes.detour import Detour, build_detour
from arch_x86.probes.eligibility import Verdict, can_probe_address, can_probe_instruction, entry_offset, is_ftrace_site
from arch_x86.probes.emulate import push
from arch_x86.probes.ftrace import FtraceHandler
from arch_x86.probes.ftrace_site import FtraceInsn, ftrace_insn
from arch_x86.probes.jprobe import JprobeStub, longjmp, setjmp
from arch_x86.probes.kretprobe import hook_return, return_from_trampoline
from arch_x86.probes.optimize import OptimizePlan, can_optimize
from arch_x86.probes.ptregs import PtRegs
from arch_x86.probes.records import Ainsn, OptInsn
from arch_x86.probes.recover import recover
from arch_x86.probes.slot import build_slot
from arch_x86.probes.stepping import stepping_for
from arch_x86.text.poke import PokeProtocol, TextPokeParam
from arch_x86.text.space import TextSpace
from engine.arch import ArchCallbacks
from engine.core.insn_slots import SlotCache
from engine.core.profiles import LINUX_2010, Profile
from engine.core.safety_steps import SafetyStep
from engine.errors import EngineBug, KprobeError
from engine.image import Image
from engine.kprobe import AggrKprobe, Kprobe, Method
from engine.kretprobe import KretprobeInstance

__all__ = ("X86Arch", "X86Areas")

_COPY_SIZE: Final = 16
_DETOUR_SIZE: Final = 192


@dataclass(frozen=True, slots=True)
class X86Areas:
    """Where slots and detour buffers go (address, size in bytes), what a detour buffer calls, where probed functions return to, what ftrace
    calls, and how jumper probes return. ``slots_max``: most slots and detour buffers a page, fewer than fit."""

    slots: tuple[int, int]
    detours: tuple[int, int]
    callback: int
    trampoline: int
    ftrace_caller: int
    jprobe: JprobeStub
    slots_max: int | None = None


def _nobody_asks(_addr: int, _raw: bytes) -> None:
    """A copy that needs no announcement."""


class X86Arch(FtraceHandler):
    """Prepares, arms, optimizes and undoes probes in one machine's text, and takes its traps."""

    def __init__(
        self,
        image: Image,
        text: TextSpace,
        poke: PokeProtocol,
        areas: X86Areas,
        memory: GuestMemory,
        cpus: int,
        profile: Profile = LINUX_2010,
        copied: Callable[[int, bytes], None] | None = None,
        grace: Callable[[str], None] | None = None,
    ) -> None:
        """:param copied: told the address and bytes of each copied instruction before it is written to a slot or detour buffer.
        :param grace: waits for a grace period, before dirty slots are used again.
        """

        def text_byte(addr: int) -> int | None:
            data = text.read(addr, 1)
            return data[0] if data else None

        super().__init__(cpus, stepping_for(profile, memory), text_byte, profile)
        self.image = image
        self.code = CodeCache(image, self.recovered)
        self._copied = copied or _nobody_asks
        self.poke = poke
        self._text = text
        self._memory = memory
        self._lookup: Callable[[int], Kprobe | None] = lambda _addr: None
        self._areas = areas
        self._grace = grace
        self.slot_size = 2 * _COPY_SIZE if profile.slot_has_both else _COPY_SIZE
        self.slots = self._new_cache(areas.slots, self.slot_size, areas.slots_max)
        self.detours = self._new_cache(areas.detours, _DETOUR_SIZE, areas.slots_max)
        self._copies: dict[int, Kprobe] = {}
        text.listeners.append(lambda write: self.code.text_changed(write.addr, len(write.data)))

    def _new_cache(self, area: tuple[int, int], slot_size: int, slots_max: int | None) -> SlotCache:
        grace = self._grace if self.profile.has(SafetyStep.SLOT_REUSE_WAIT) else None
        return SlotCache(*area, slot_size, PAGE_SIZE, self._add_page, self._drop_page, grace, slots_max)

    def _drop_page(self, addr: int) -> None:
        self._text.remove_page(addr // PAGE_SIZE)

    def _add_page(self, addr: int) -> None:
        self._text.add_page(addr // PAGE_SIZE, INT3 * PAGE_SIZE)

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
        super().attach(core)
        self._lookup = core.get_kprobe

    # Plain probes -----------------------------------------------------------------------------------------------------

    def arch_check_text(self, addr: int) -> None:
        """Refuse an address that 6.1 refuses without a look at the text there. Raises KprobeError with EINVAL or ENOENT."""
        if self._text.is_unloaded(addr):
            code = errno.ENOENT if self.profile.lookup_is_enoent else errno.EINVAL
            raise KprobeError(code, f"no probe can go to {addr:#x}: the code there was unloaded")
        self._refuse(addr, can_probe_address(self.code, addr))

    def _refuse(self, addr: int, verdict: Verdict) -> None:
        if verdict.errno:
            # 6.1 looks the symbol up first and answers ENOENT where there is none; 2.6.38 asks whether it is text: EINVAL.
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
        """Copy the instruction to a slot: with a jump back behind it where it can be boosted. On an ftrace location nothing is copied.

        Raises KprobeError with EILSEQ, EINVAL, EOPNOTSUPP, ENODEV or ENOSPC where 6.1 refuses what stands there.
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
        boostable = self.stepping.wants_jump_back(p) and not self.profile.preemption and is_boostable(self.code, p.at)
        slot = self.slots.get()
        places = [(slot, boostable)]
        if self.profile.slot_has_both and boostable:
            places = [(slot, False), (slot + _COPY_SIZE, True)]
        try:
            copies = [(at, build_slot(insn, at, jumps_back)) for at, jumps_back in places]
        except KprobeError:
            self.slots.free(slot, dirty=False)
            raise
        for at, copy in copies:
            self._copied(at, copy[: insn.length])
            self.poke.text_poke(at, copy, f"slot of {p.at:#x}")
        p.ainsn = Ainsn(insn, slot, places[-1][0] if boostable else None)
        self._copies[slot] = p

    def arch_remove_kprobe(self, p: Kprobe) -> None:
        """Poison and free the slot, if there still is one. One that ends in a jump back is dirty: no trap tells that a CPU has left it."""
        ainsn: Ainsn | FtraceInsn | None = p.ainsn
        if ainsn is None or isinstance(ainsn, FtraceInsn):
            p.ainsn = None
            return
        self.poke.text_poke(ainsn.slot, INT3 * self.slot_size, f"freed slot of {p.at:#x}")
        del self._copies[ainsn.slot]
        p.ainsn = None
        self.slots.free(ainsn.slot, dirty=ainsn.boostable)

    def arch_arm_kprobes(self, ps: Sequence[Kprobe]) -> None:
        """The breakpoints go in, and ftrace's calls."""
        self.poke.text_poke_bytes([TextPokeParam(p.at, INT3, f"arm {p.at:#x}") for p in ps if not p.ftrace])
        self.poke.text_poke_jumps([p.ainsn.arming() for p in ps if p.ftrace])

    def arch_disarm_kprobes(self, ps: Sequence[Kprobe]) -> None:
        """The first bytes come back, and what ftrace's calls replaced."""
        self.poke.text_poke_bytes([TextPokeParam(p.at, p.ainsn.opcode, f"disarm {p.at:#x}") for p in ps if not p.ftrace])
        self.poke.text_poke_jumps([p.ainsn.disarming(self._read_u64) for p in ps if p.ftrace])

    def _read_u64(self, addr: int) -> int | None:
        """The word at ``addr`` in data, writable or not."""
        word = self._memory.read_u64(addr)
        if word is not None:
            return word
        data = self.image.read(addr, 8)
        return int.from_bytes(data, "little") if len(data) == 8 else None

    # Optimized probes -------------------------------------------------------------------------------------------------

    def arch_prepare_optimized_kprobe(self, op: AggrKprobe) -> None:
        """Build the detour buffer, where the site can be optimized."""
        plan = can_optimize(self.code, op.at, jumps_in=not self.profile.has(SafetyStep.JUMP_RANGE_CHECK))
        if not isinstance(plan, OptimizePlan):
            return
        try:
            at = self.detours.get()
        except KprobeError:  # full: stays a breakpoint, as in the kernel
            return
        try:
            detour = build_detour(plan, at, op_id=op.op_id, callback=self._areas.callback, red_zone=self.image.red_zone)
            jump = jmp32(op.at, at)
        except KprobeError:  # out of the reach of a rel32: stays a breakpoint, as in the kernel
            self.detours.free(at, dirty=False)
            return
        if len(detour.code) > _DETOUR_SIZE:
            raise EngineBug(f"a detour buffer of {len(detour.code)} bytes; {_DETOUR_SIZE} are reserved")
        self._announce_copies(plan, detour)
        self.poke.text_poke(at, detour.code, f"detour buffer of {op.at:#x}")
        original = b"".join(insn.raw for insn in plan.insns)[:JMP32_SIZE]
        op.optinsn = OptInsn(detour, plan.size, original, jump)
        self._copies[at] = op

    def _announce_copies(self, plan: OptimizePlan, detour: Detour) -> None:
        offset = detour.copied_start
        for insn in plan.insns:
            self._copied(detour.addr + offset, detour.code[offset : offset + insn.length])
            offset += insn.length

    def arch_remove_optimized_kprobe(self, op: AggrKprobe) -> None:
        """Poison and free the detour buffer."""
        if op.optinsn is None:
            return
        optinsn: OptInsn = op.optinsn
        at = optinsn.detour.addr
        self.poke.text_poke(at, INT3 * _DETOUR_SIZE, f"freed detour buffer of {op.at:#x}")
        del self._copies[at]
        op.optinsn = None
        self.detours.free(at, dirty=True)

    def arch_check_optimized_kprobe(self, op: AggrKprobe) -> bool:
        """False while another probe has its breakpoint or jump inside the replaced bytes; where the kernel thinks of it, also a disabled
        one whose jump waits to be undone.
        """
        optinsn: OptInsn = op.optinsn
        if not self.profile.has(SafetyStep.NEIGHBOUR_CHECK):
            return True
        for offset in range(1, optinsn.size):
            other = self.core.get_kprobe(op.at + offset)
            if other is None:
                continue
            waits = self.profile.dying_blocks and isinstance(other, AggrKprobe) and other.queued
            if waits or not other.disabled:
                return False
        return True

    def arch_within_optimized_kprobe(self, op: AggrKprobe, addr: int) -> bool:
        """True when ``addr`` lies behind the first and before the end of the replaced instructions."""
        optinsn: OptInsn = op.optinsn
        return op.at <= addr < op.at + optinsn.size

    def arch_optimize_kprobes(self, ops: Sequence[AggrKprobe]) -> None:
        """Jumps go in."""
        self.poke.text_poke_jumps([TextPokeParam(op.at, op.optinsn.jump, f"optimize {op.at:#x}", op.optinsn.detour.addr) for op in ops])

    def arch_unoptimize_kprobes(self, ops: Sequence[AggrKprobe]) -> None:
        """Breakpoints and the original tails come back."""
        self.poke.text_poke_breakpoints([self._undo(op, "unoptimize") for op in ops])

    def arch_unoptimize_kprobe(self, op: AggrKprobe) -> None:
        """The same for one, at once."""
        self.poke.text_poke_breakpoints([self._undo(op, "force unoptimize")])

    def _undo(self, op: AggrKprobe, verb: str) -> TextPokeParam:
        return TextPokeParam(op.at, INT3 + op.optinsn.original[1:], f"{verb} {op.at:#x}")

    def int3(self, cpu: int, regs: PtRegs) -> bool:
        """#BP: the poke protocol is asked first, whose breakpoint it may be."""
        if self.poke.bp_holds(regs.ip - 1):
            self.bp_resume(regs)
            return True
        return super().int3(cpu, regs)

    def bp_resume(self, regs: PtRegs) -> None:
        """Go on where the poke protocol says."""
        poke = self.poke.bp_poke(regs.ip - 1)
        assert poke is not None
        assert poke.target is not None
        if poke.returns is not None:
            push(regs, self._memory, poke.returns)
        regs.ip = poke.target

    # Return probes ----------------------------------------------------------------------------------------------------

    @property
    def trampoline(self) -> int:
        """Where probed functions return to."""
        return self._areas.trampoline

    def arch_prepare_kretprobe(self, ri: KretprobeInstance, regs: PtRegs) -> bool:
        """The trampoline takes the place of the return address. False: there is no stack."""
        return hook_return(ri, regs, self._memory, self.trampoline)

    def return_trampoline(self, cpu: int, regs: PtRegs) -> bool:
        """The trampoline asks. False: no call is open there."""
        self.cpu = cpu
        self._returning[cpu] = True
        try:
            return return_from_trampoline(self.core.kretprobes, regs, self._memory, self.trampoline)
        finally:
            self._returning[cpu] = False

    def pending_return(self, cpu: int) -> int | None:
        """Where the innermost probed call on ``cpu`` will return to."""
        return self.core.kretprobes.pending_return(self.tasks[cpu])

    def arch_setjmp(self, entry: int, regs: PtRegs) -> None:
        """To the guest code of a jumper probe."""
        setjmp(self.ctlblk[self.cpu], entry, regs, self._memory, self._areas.jprobe.saved_sp[self.cpu])

    def arch_longjmp(self, regs: PtRegs) -> bool:
        """Back from it. False: this breakpoint is not that of ``jprobe_return``."""
        stub = self._areas.jprobe
        return stub.start <= regs.ip - 1 < stub.end and longjmp(self.ctlblk[self.cpu], regs, self._memory)

    def call_ended(self, cpu: int) -> None:
        """The call on ``cpu`` is over: what is still open there never returns, and no hit is in progress."""
        if self.profile.has(SafetyStep.HANDLED_HIT_ENDS):
            self.call_died(cpu)
        self.core.kretprobes.flush_task(self.tasks[cpu])

    def save_state(self) -> Any:
        """For a snapshot."""
        return super().save_state(), self.core.kretprobes.save_state()

    def restore_state(self, state: Any) -> None:
        """From a snapshot."""
        hits, returns = state
        super().restore_state(hits)
        self.core.kretprobes.restore_state(returns)

    # Reports ----------------------------------------------------------------------------------------------------------

    def method_of(self, p: Kprobe) -> Method:
        """How a hit on table entry ``p`` would run the probed instruction now."""
        if isinstance(p, AggrKprobe) and p.optinsn is not None and self._text.read(p.at, JMP32_SIZE) == p.optinsn.jump:
            return Method.OPTIMIZED
        if p.ftrace:
            return Method.FTRACE
        if self.stepping.boosts(p):
            return Method.BOOSTED
        return Method.EMULATED if self.stepping.emulates(p.ainsn) is not None else Method.INT3

    def in_use(self, addr: int) -> bool:
        """``addr`` lies in a slot or detour buffer that is in use."""
        base, size = self._areas.detours
        step, start = (_DETOUR_SIZE, base) if base <= addr < base + size else (self.slot_size, self._areas.slots[0])
        page, offset = divmod(addr - start, PAGE_SIZE)
        return start + page * PAGE_SIZE + offset - offset % step in self._copies

    def watch_ranges(self) -> Iterator[tuple[int, int]]:
        """Where in slots, detour buffers in use, and ftrace's trampoline it matters what others do meanwhile: each slot, the entry of each
        detour buffer, and all behind its epilogue, the entry of the trampoline. What lies between runs on the stack and on registers alone.
        """
        if self.profile.on_ftrace and self.code.ftrace_sites:
            yield self._areas.ftrace_caller, self._areas.ftrace_caller + 1
        for start, p in self._copies.items():
            if isinstance(p, AggrKprobe) and p.optinsn is not None and start == p.optinsn.detour.addr:
                yield start, start + 1
                yield p.optinsn.copied, start + len(p.optinsn.detour.code)
            else:
                yield start, start + self.slot_size

    def originals(self, image: Image, addr: int, size: int) -> dict[int, bytes]:
        """The instructions of ``image`` in the ``size`` bytes from ``addr``, at least one, by address."""
        insns: dict[int, bytes] = {}
        at = addr
        while at < addr + max(size, 1):
            insn = decode(image.read(at, MAX_INSN_SIZE), at)
            if insn is None:
                break
            insns[at] = insn.raw
            at += insn.length
        return insns

    def original_ip(self, ip: int) -> int:
        """The probed instruction whose slot or detour buffer holds ``ip``, or in a detour the later one whose copy does; ``ip`` itself
        outside of both."""
        for start, p in self._copies.items():
            if isinstance(p, AggrKprobe) and p.optinsn is not None and start == p.optinsn.detour.addr:
                if start <= ip < start + _DETOUR_SIZE:
                    offset = ip - p.optinsn.copied
                    return p.at + offset if 0 <= offset < p.optinsn.detour.copied_len else p.at
            elif start <= ip < start + self.slot_size:
                return p.at
        return ip
