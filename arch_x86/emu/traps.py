"""The answers to trap stubs and detour buffers: pt_regs go to the kprobes layer and back.

The module answers to do_int3(), do_debug() and do_trap() in arch/x86/kernel/traps.c.
"""

from __future__ import annotations

from typing import Final

from arch_x86.emu.cpu import Cpu, NmiPhase
from arch_x86.emu.diagnose import diagnose, instruction_with, make_fault, original_place
from arch_x86.emu.fault import FaultKind, GuestFault
from arch_x86.emu.machine import Machine
from arch_x86.emu.stubs import return_skip
from arch_x86.emu.uc import RDI, RSI, RSP
from arch_x86.isa.constants import FLAG_TF, MAX_INSN_SIZE
from arch_x86.isa.decode import decode
from arch_x86.probes.breakpoint import ReentryError
from arch_x86.probes.ptregs import PT_REGS_SIZE, PtRegs
from arch_x86.text.poke import KernelStopError
from arch_x86.text.text_version import TextVersion
from engine.errors import EngineBug

__all__ = ("Traps",)

_DEBUG, _BREAKPOINT = 1, 3
_NOP: Final = b"\x90"
_STI: Final = b"\xfb"
_REPE: Final = 0xF3
_REX_B: Final = 1


class Traps:
    """The traps of all vCPUs of ``machine``, which the host answers."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._stepped_text: TextVersion | None = None
        self._pauses: dict[int, int] = {}

    def trap(self, vcpu: Cpu, vector: int) -> GuestFault | None:
        """Answer a trap stub, which has pushed pt_regs.

        :returns: the fault that ends the call, where the trap is neither the kprobes layer's nor in
            the image's exception table; else None.
        """
        machine = self._machine
        vcpu.uc.load()
        at = vcpu.uc.gpr[RSP]
        answered, vcpu.answered = vcpu.answered, None
        regs = self.regs_at(at) if answered is None else answered.regs
        handler = machine.trap_handler
        if handler is not None:
            if vector == _BREAKPOINT:
                try:
                    mine = handler.int3(vcpu.index, regs) if answered is None else answered.result()
                except KernelStopError as error:
                    return self.stopped(vcpu, regs, error)
            elif answered is not None:
                mine = answered.result()
            elif vector == _DEBUG:
                mine = handler.debug(vcpu.index, regs)
            else:
                mine = handler.fault(vcpu.index, regs, vector)
            if mine:
                self.resume(vcpu, at, regs)
                return None
        return self.refuse(vcpu, vector, at, regs)

    def resume(self, vcpu: Cpu, at: int, regs: PtRegs) -> None:
        """Let the handled trap whose pt_regs lie at ``at`` return to ``regs``."""
        if regs.flags & FLAG_TF:
            self._step_pause(vcpu, regs)
        self._machine.ram.write(at, regs.pack())

    def stopped(self, vcpu: Cpu, regs: PtRegs, error: KernelStopError) -> GuestFault:
        """Return the fault that ends a call in which the kernel stops for good.

        The call on ``vcpu`` has hit the breakpoint in front of ``regs.ip``.
        """
        again = isinstance(error, ReentryError)
        kind = FaultKind.KPROBE_REENTRY if again else FaultKind.HANDLER_CRASH
        return make_fault(self._machine, vcpu.index, regs.ip - 1, kind, str(error))

    def refuse(self, vcpu: Cpu, vector: int, at: int, regs: PtRegs) -> GuestFault | None:
        """Answer a trap that is not the kprobes layer's.

        :returns: the fault that ends the call; None where the image's exception table says where to
            go on.
        """
        machine = self._machine
        fixup = next((e.fixup for e in machine.image.exception_table if e.insn == regs.ip), None)
        if fixup is not None and vector not in (_BREAKPOINT, _DEBUG):
            regs.ip = fixup
            machine.ram.write(at, regs.pack())
            return None
        rip = regs.ip - 1 if vector == _BREAKPOINT else regs.ip
        return diagnose(machine, vcpu, rip, None, vector=vector, rsp=regs.sp)

    # NMIs -----------------------------------------------------------------------------------------

    def nmi(self, vcpu: Cpu) -> None:
        """Answer the NMI's stub, which has pushed pt_regs."""
        vcpu.uc.load()
        at = vcpu.uc.gpr[RSP]
        if self._machine.nmi_handler is not None:
            regs = self.regs_at(at)
            self._machine.nmi_handler(vcpu.index, regs)
            self._machine.ram.write(at, regs.pack())
        vcpu.nmi = NmiPhase.RETURNING

    def nmi_is_blocked(self, vcpu: Cpu) -> bool:
        """Return whether an NMI can't come now.

        It can't if the last one has not returned yet, or if MOV SS was just executed, whose user is
        about to load RSP, too.
        """
        stubs = self._machine.stubs
        if vcpu.nmi is NmiPhase.ENTERED or (
            vcpu.nmi is NmiPhase.RETURNING and vcpu.rip in stubs.frames and vcpu.rip > stubs.nmi
        ):
            return True
        return vcpu.in_shadow and not self._is_behind_sti(vcpu)

    def _is_behind_sti(self, vcpu: Cpu) -> bool:
        machine = self._machine
        rip = instruction_with(machine, original_place(machine, vcpu, vcpu.rip - 1))
        insn = decode(machine.image.read(rip, MAX_INSN_SIZE), rip)
        return insn is not None and insn.opcode == _STI

    # Traps ----------------------------------------------------------------------------------------

    def regs_at(self, addr: int) -> PtRegs:
        """Return the pt_regs at guest address ``addr``."""
        data = self._machine.ram.read(addr, PT_REGS_SIZE)
        if data is None:
            raise EngineBug(f"pt_regs at {addr:#x} are not in guest memory")
        return PtRegs.unpack(data)

    def pause_length(self, addr: int) -> int:
        """Return the length of the ``pause`` at ``addr`` in the text; 0 for another instruction."""
        text = self._machine.text.current
        if text is not self._stepped_text:
            self._stepped_text = text
            self._pauses.clear()
        length = self._pauses.get(addr)
        if length is None:
            length = self._pauses[addr] = self._pause_at(addr)
        return length

    def _step_pause(self, vcpu: Cpu, regs: PtRegs) -> None:
        """Take a single step over ``pause``, and the trap behind it.

        Unicorn leaves its loop at ``pause`` and forgets the trap.
        """
        length = self.pause_length(regs.ip)
        if not length:
            return
        assert self._machine.trap_handler is not None
        regs.ip += length
        vcpu.retired += 1
        self._machine.clock += 1
        self._machine.trap_handler.debug(vcpu.index, regs)

    def _pause_at(self, addr: int) -> int:
        """Return the length of the ``pause`` at ``addr``; 0 for another instruction."""
        code = self._machine.text.read(addr, MAX_INSN_SIZE)
        insn = decode(code, addr) if _REPE in code else None
        if insn is None or insn.opcode != _NOP or _REPE not in insn.prefixes or insn.rex & _REX_B:
            return 0
        return insn.length

    def trampoline(self, vcpu: Cpu) -> bool:
        """Answer the return probes' trampoline, which asks where to go on.

        :returns: False where no call is open that could be returned from.
        """
        machine = self._machine
        vcpu.uc.load()
        at = vcpu.uc.gpr[RSP]
        regs = self.regs_at(at)
        regs.sp = at + PT_REGS_SIZE + return_skip(red_zone=vcpu.red_zone)
        handler = machine.trap_handler
        if handler is None or not handler.return_trampoline(vcpu.index, regs):
            return False
        machine.ram.write(at, regs.pack())
        return True

    def ftrace_caller(self, vcpu: Cpu) -> None:
        """Answer ftrace's trampoline, with the handlers of the probe on the ftrace location."""
        vcpu.uc.load()
        at = vcpu.uc.gpr[RSP]
        handler = self._machine.trap_handler
        if handler is None:
            raise EngineBug("ftrace's trampoline ran on a machine without probes")
        regs = self.regs_at(at)
        handler.ftrace_caller(vcpu.index, regs)
        self._machine.ram.write(at, regs.pack())

    def optimized_callback(self, vcpu: Cpu) -> None:
        """Answer a detour buffer, whose number is in rdi and the address of its pt_regs in rsi."""
        vcpu.uc.load()
        op_id, at = vcpu.uc.gpr[RDI], vcpu.uc.gpr[RSI]
        handler = self._machine.trap_handler
        if handler is None:
            raise EngineBug("a detour buffer ran on a machine without probes")
        answered, vcpu.answered = vcpu.answered, None
        if answered is None:
            regs = self.regs_at(at)
            handler.optimized_callback(vcpu.index, op_id, regs)
        else:
            regs = answered.regs
            answered.result()
        self._machine.ram.write(at, regs.pack())
