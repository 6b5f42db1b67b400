"""Jumper probes on x86. Answers to setjmp_pre_handler() and longjmp_break_handler() in
arch/x86/kernel/kprobes.c (6274de4984a6).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from arch_x86.isa.constants import FLAG_IF
from arch_x86.probes.emulate import StackMemory
from arch_x86.probes.ptregs import PtRegs
from arch_x86.probes.stepping import KprobeCtlblk

__all__ = ("JprobeStub", "longjmp", "setjmp")

_STACK_WORDS: Final = 8  # MAX_STACK_SIZE, 64 bytes: arguments on the stack, which the callee owns


@dataclass(frozen=True, slots=True)
class JprobeStub:
    """``jprobe_return`` lies at ``start`` and has its breakpoint before ``end``; it loads RSP from
    its CPU's word in ``saved_sp``.
    """

    start: int
    end: int
    saved_sp: tuple[int, ...]


def setjmp(
    block: KprobeCtlblk, entry: int, regs: PtRegs, memory: StackMemory, saved_sp: int
) -> None:
    """Keep registers and the top of the stack, and go to ``entry`` with interrupts off."""
    words: list[int] = []
    while (
        len(words) < _STACK_WORDS
        and (word := memory.read_u64(regs.sp + 8 * len(words))) is not None
    ):
        words.append(word)
    block.jprobe = regs.pack(), tuple(words)
    memory.write(saved_sp, regs.sp.to_bytes(8, "little"))
    regs.flags &= ~FLAG_IF
    regs.ip = entry


def longjmp(block: KprobeCtlblk, regs: PtRegs, memory: StackMemory) -> bool:
    """Put both back. False: nobody is away."""
    if block.jprobe is None:
        return False
    registers, words = block.jprobe
    block.jprobe = None
    saved = PtRegs.unpack(registers)
    for name in PtRegs.__slots__:
        setattr(regs, name, getattr(saved, name))
    memory.write(regs.sp, b"".join(word.to_bytes(8, "little") for word in words))
    return True
