"""This module does return probes: trampoline_handler() (arch/x86/kernel/kprobes.c, 6274de4984a6).

It answers also to arch_prepare_kretprobe(), and to arch/x86/kernel/rethook.c (v6.1).
"""

from __future__ import annotations

from arch_x86.isa.constants import ADDRESS_MASK
from arch_x86.probes.emulate import StackMemory
from arch_x86.probes.ptregs import PtRegs
from engine.arch import ReturnCalls
from engine.kretprobe import KretprobeInstance

__all__ = ("hook_return", "return_from_trampoline")


def hook_return(ri: KretprobeInstance, regs: PtRegs, memory: StackMemory, trampoline: int) -> bool:
    """Put ``trampoline`` in the place of the return address, at a function's entry.

    The return address lies on top of the stack there; ``ri`` takes it and where it lay.

    :returns: False, with nothing done, when the stack cannot be read or written there.
    """
    found = memory.read_u64(regs.sp)
    if found is None or not memory.write(regs.sp, trampoline.to_bytes(8, "little")):
        return False
    ri.ret_addr = found
    ri.frame = regs.sp
    return True


def return_from_trampoline(
    probes: ReturnCalls, regs: PtRegs, memory: StackMemory, trampoline: int
) -> bool:
    """Call the return handlers for the trampoline stub, and tell it where to go on.

    The address is put under ``regs.sp``, where the stub's RET finds it.

    :returns: False when no call is open there.
    """
    frame = regs.sp - 8 & ADDRESS_MASK
    regs.ip = trampoline
    regs.orig_ax = ADDRESS_MASK
    ret_addr = probes.trampoline_handler(regs, frame)
    if ret_addr is None:
        return False
    memory.write(frame, ret_addr.to_bytes(8, "little"))
    return True
