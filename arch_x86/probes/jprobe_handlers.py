"""This module does jumper probes: setjmp_pre_handler() (arch/x86/kernel/kprobes.c, 6274de4984a6).

It answers also to longjmp_break_handler().
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from arch_x86.isa.constants import FLAG_IF
from arch_x86.probes.emulate import StackMemory
from arch_x86.probes.ptregs import PtRegs
from arch_x86.probes.stepping import KprobeCtlblk

__all__ = ("JprobeStub", "longjmp", "setjmp")

# MAX_STACK_SIZE, 64 bytes. Arguments on the stack belong to the callee, so the jumper probe's
# function may change them, and they are kept for the probed function.
_STACK_WORDS: Final = 8


@dataclass(frozen=True, slots=True)
class JprobeStub:
    """This record is the stub ``jprobe_return``, by which the function of a jumper probe returns.

    :ivar start: its address.
    :ivar end: the address behind it; its breakpoint lies in front of there.
    :ivar saved_sp: for each CPU, the address of the word from which the stub loads RSP.
    """

    start: int
    end: int
    saved_sp: tuple[int, ...]


def setjmp(
    block: KprobeCtlblk, entry: int, regs: PtRegs, memory: StackMemory, saved_sp: int
) -> None:
    """Keep the registers and the top of the stack, and go to ``entry`` with interrupts off.

    :param block: the hit in progress, which keeps them.
    :param entry: the address of the jumper probe's function.
    :param saved_sp: the address of the word from which ``jprobe_return`` loads RSP.
    """
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
    """Put back the registers and the stack that :func:`setjmp` kept, if it kept any.

    :returns: True if it did.
    """
    if block.jprobe is None:
        return False
    registers, words = block.jprobe
    block.jprobe = None
    saved = PtRegs.unpack(registers)
    for name in PtRegs.__slots__:
        setattr(regs, name, getattr(saved, name))
    memory.write(regs.sp, b"".join(word.to_bytes(8, "little") for word in words))
    return True
