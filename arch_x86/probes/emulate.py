"""This module emulates probed branches on pt_regs (arch/x86/kernel/kprobes/core.c, v6.1).

It answers to kprobe_emulate_*(). Linux emulates since v5.13 instead of running a copy. On entry
``regs.ip`` is behind the int3. The int3 stub leaves a gap under the interrupted stack pointer, so
that what is pushed here does not overwrite the trap's own frame.
"""

from __future__ import annotations

from typing import Final, Protocol, assert_never

from arch_x86.isa.constants import (
    ADDRESS_MASK,
    ADDRESS_SIZE_PREFIX,
    FLAG_CF,
    FLAG_IF,
    FLAG_OF,
    FLAG_PF,
    FLAG_SF,
    FLAG_ZF,
)
from arch_x86.isa.insn import Insn
from arch_x86.isa.onward import Onward
from arch_x86.probes.prepare_emulation import Emulation
from arch_x86.probes.ptregs import PtRegs

__all__ = ("StackMemory", "condition_holds", "emulate", "go_on", "push")

_MASK32: Final = (1 << 32) - 1
_GPR: Final = (
    "ax",
    "cx",
    "dx",
    "bx",
    "sp",
    "bp",
    "si",
    "di",
    "r8",
    "r9",
    "r10",
    "r11",
    "r12",
    "r13",
    "r14",
    "r15",
)
_REX_W: Final = 8
_LOOPE, _LOOP, _JRCXZ = 0xE1, 0xE2, 0xE3
_RET_IMM, _RETF_IMM = 0xC2, 0xCA


class StackMemory(Protocol):
    """This protocol is the guest's memory, in which its stacks lie."""

    def read_u64(self, addr: int) -> int | None:
        """Return the quad word at ``addr``, or None where no memory is mapped."""
        ...

    def write(self, addr: int, data: bytes) -> bool:
        """Write ``data`` at ``addr``, or return False where no memory is mapped."""
        ...


def push(regs: PtRegs, memory: StackMemory, value: int) -> None:
    """Push the quad word ``value`` on the interrupted stack, which changes ``regs.sp``."""
    regs.sp = (regs.sp - 8) & ADDRESS_MASK
    memory.write(regs.sp, (value & ADDRESS_MASK).to_bytes(8, "little"))


def _pop(regs: PtRegs, memory: StackMemory) -> int:
    """Pop a quad word from the interrupted stack; it is 0 where no memory is mapped."""
    value = memory.read_u64(regs.sp) or 0
    regs.sp = (regs.sp + 8) & ADDRESS_MASK
    return value


def condition_holds(code: int, flags: int) -> bool:
    """Return whether condition ``code`` holds under ``flags`` (SDM vol. 1, appendix B).

    :param code: 0 to 15, the low nibble of a Jcc's opcode.
    :param flags: RFLAGS.
    """
    carry, zero, less = (
        bool(flags & FLAG_CF),
        bool(flags & FLAG_ZF),
        bool(flags & FLAG_SF) != bool(flags & FLAG_OF),
    )
    match code >> 1:
        case 0:
            holds = bool(flags & FLAG_OF)
        case 1:
            holds = carry
        case 2:
            holds = zero
        case 3:
            holds = carry or zero
        case 4:
            holds = bool(flags & FLAG_SF)
        case 5:
            holds = bool(flags & FLAG_PF)
        case 6:
            holds = less
        case _:
            holds = zero or less
    return holds != bool(code & 1)


def _loop_taken(insn: Insn, regs: PtRegs, *, warts: bool) -> bool:
    """Count RCX down, and return whether LOOPcc or JRCXZ jumps.

    With a 67 prefix these instructions count in ECX.

    :param warts: count as Linux 6.1 does, which compares RCX before it is decremented.
    """
    narrow = ADDRESS_SIZE_PREFIX in insn.prefixes
    mask = _MASK32 if narrow else ADDRESS_MASK
    kind = insn.opcode[0]
    count = regs.cx & mask
    if kind == _JRCXZ:
        return count == 0
    left = (count - 1) & mask
    # 6.1 decrements the low half in place. Hardware clears the upper half, as every write of ECX
    # does.
    if warts and narrow:
        regs.cx = (regs.cx & ~_MASK32) | left
    else:
        regs.cx = left
    more = count != 0 if warts else left != 0
    if kind == _LOOP:
        return more
    return more and bool(regs.flags & FLAG_ZF) == (kind == _LOOPE)


def _modify_if(insn: Insn, regs: PtRegs, memory: StackMemory, *, warts: bool) -> None:
    """Do CLI, STI, PUSHF or POPF.

    :param warts: take 16-bit PUSHF and POPF (66 prefix) for 64-bit ones, as Linux 6.1 does.
    """
    # 6.1 looks neither at the 66 prefix nor at REX.W.
    narrow = 0x66 in insn.prefixes and not insn.rex & _REX_W and not warts
    match insn.opcode[0]:
        case 0xFA:  # CLI
            regs.flags &= ~FLAG_IF
        case 0xFB:  # STI
            regs.flags |= FLAG_IF
        case 0x9C if narrow:
            regs.sp = (regs.sp - 2) & ADDRESS_MASK
            memory.write(regs.sp, (regs.flags & 0xFFFF).to_bytes(2, "little"))
        case 0x9C:  # PUSHF
            push(regs, memory, regs.flags)
        case _ if narrow:
            regs.flags = regs.flags & ~0xFFFF | (memory.read_u64(regs.sp) or 0) & 0xFFFF
            regs.sp = (regs.sp + 2) & ADDRESS_MASK
        case _:  # POPF
            regs.flags = _pop(regs, memory)


def emulate(kind: Emulation, insn: Insn, regs: PtRegs, memory: StackMemory, *, warts: bool) -> None:
    """Do ``insn`` on ``regs`` and on the stack in ``memory``.

    :param kind: how it is emulated (:func:`~arch_x86.probes.prepare_emulation.emulation_of`).
    :param warts: repeat what Linux 6.1 gets wrong: LOOP counts one too high, RET imm16 does not
        release its arguments.
    """
    target = insn.end
    match kind:
        case Emulation.IF_MODIFIERS:
            _modify_if(insn, regs, memory, warts=warts)
        case Emulation.RET:
            target = _pop(regs, memory)
            if insn.opcode[0] in (_RET_IMM, _RETF_IMM) and not warts:
                regs.sp = (regs.sp + (insn.immediate & 0xFFFF)) & ADDRESS_MASK
        case Emulation.CALL:
            push(regs, memory, insn.end)
            target = _target(insn)
        case Emulation.JMP:
            target = _target(insn)
        case Emulation.JCC:
            if condition_holds(insn.opcode[-1] & 15, regs.flags):
                target = _target(insn)
        case Emulation.LOOP:
            if _loop_taken(insn, regs, warts=warts):
                target = _target(insn)
        case Emulation.CALL_INDIRECT:
            target = _register(insn, regs)
            push(regs, memory, insn.end)
        case Emulation.JMP_INDIRECT:
            target = _register(insn, regs)
        case _:
            assert_never(kind)
    regs.ip = target & ADDRESS_MASK


def _target(insn: Insn) -> int:
    """Return the address that a relative branch leads to.

    Linux 6.1 takes some VEX instructions for branches by their opcode byte. Their target is the one
    that it reads.
    """
    return insn.end + insn.immediate if insn.target is None else insn.target


def go_on(onward: Onward, regs: PtRegs, memory: StackMemory) -> None:
    """Go on where ``onward`` says, which stands for an instruction that is being replaced.

    It answers to int3_emulate_jmp(), _call(), _ret() and _jcc() in asm/text-patching.h.
    """
    target, returns, condition, behind = onward
    if target is None:
        target = _pop(regs, memory)
    if returns is not None:
        push(regs, memory, returns)
    if condition is not None and behind is not None and not condition_holds(condition, regs.flags):
        target = behind
    regs.ip = target & ADDRESS_MASK


def _register(insn: Insn, regs: PtRegs) -> int:
    """Return the value of the register through which an indirect branch goes."""
    return int(getattr(regs, _GPR[insn.rm | (insn.rex & 1) << 3]))
