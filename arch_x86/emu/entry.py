"""Checks of the CPU's state where a handler, or a function that it calls, is entered."""

from __future__ import annotations

from typing import Final

from arch_x86.emu.cpu import Cpu
from arch_x86.emu.machine import Machine
from arch_x86.emu.uc import RFLAGS, RSI, RSP
from arch_x86.isa.constants import FLAG_DF, FLAG_IF

__all__ = ("wrong_call", "wrong_entry", "wrong_step")

_FLAGS: Final = 18 * 8
"""Offset of the flags in pt_regs."""
_CALLBACK: Final = "optimized_callback"
_WHO: Final = {
    _CALLBACK: "a detour buffer calls",
    "trampoline": "a return probe's handlers run",
    "ftrace_caller": "handlers that ftrace calls run",
}


def wrong_entry(machine: Machine, cpu: Cpu) -> str | None:
    """Return what handlers may expect and do not find where ``cpu`` stands, or None.

    ``cpu`` is behind the ``hlt`` by which a stub asks for handlers, with its registers loaded.
    Behind a breakpoint IF is clear. In a detour buffer, in ftrace's trampoline, and on a return, DF
    is clear, and IF is as in the interrupted code, as pt_regs has it; a detour buffer calls with
    the stack aligned as the System V convention has it. The stub of a breakpoint leaves DF as it
    was.
    """
    name, gpr = machine.stubs.hypercalls.get(cpu.rip), cpu.uc.gpr
    flags = gpr[RFLAGS]
    if name == "exception:3":
        return "a breakpoint's handlers run with interrupts allowed" if flags & FLAG_IF else None
    who = _WHO.get(name or "")
    if who is None:
        return None
    if name == _CALLBACK and gpr[RSP] % 16 != 8:  # The call has pushed 8 bytes.
        return f"{who} with RSP = {gpr[RSP] + 8:#x}, which is not aligned"
    if flags & FLAG_DF:
        return f"{who} with DF set"
    before = machine.ram.read_u64((gpr[RSI] if name == _CALLBACK else gpr[RSP]) + _FLAGS)
    if before is not None and (flags ^ before) & FLAG_IF:
        return (
            f"{who} with IF {'set' if flags & FLAG_IF else 'clear'}, which is not as in the code"
            " that was interrupted"
        )
    return None


def wrong_call(cpu: Cpu) -> str | None:
    """Return how the state at a function's entry breaks the System V convention, or None.

    ``cpu`` stands at the function's first instruction, with its registers loaded. DF has to be
    clear, and the stack aligned before the return address is pushed.
    """
    gpr = cpu.uc.gpr
    if gpr[RFLAGS] & FLAG_DF:
        return "a function that a handler calls begins with DF set"
    if gpr[RSP] % 16 != 8:
        return (
            f"a function that a handler calls begins with RSP = {gpr[RSP]:#x}, so its caller's"
            " stack was not aligned"
        )
    return None


def wrong_step(flags: int) -> str | None:
    """Return what is wrong with ``flags`` where a single step begins, or None.

    No interrupt may come in the step.
    """
    return "a single step begins with interrupts allowed" if flags & FLAG_IF else None
