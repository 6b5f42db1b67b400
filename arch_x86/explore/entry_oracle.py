"""What a handler may rely on when it is called: the CPU's state where a stub asks the host to run it."""

from __future__ import annotations

from typing import Final

from arch_x86.emu.cpu import FLAG_DF, FLAG_IF, Cpu
from arch_x86.emu.machine import Machine
from arch_x86.emu.uc import RFLAGS, RSI, RSP
from engine.explore.system import Violation, ViolationKind

__all__ = ("EntryOracle",)

_FLAGS: Final = 18 * 8
"""Offset of the flags in pt_regs."""


class EntryOracle:
    """Behind a breakpoint IF is clear. In a detour buffer, and on a return, DF is clear and IF is as in the interrupted code, as pt_regs
    has it; a detour buffer calls with the stack aligned as the System V convention has it. The stub of a breakpoint leaves DF as it was.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def breakpoint(self, cpu: Cpu) -> Violation | None:
        """The breakpoint's stub asks; the registers are loaded."""
        if cpu.uc.gpr[RFLAGS] & FLAG_IF:
            return self._wrong(cpu, "a breakpoint's handlers run with interrupts allowed")
        return None

    def detour(self, cpu: Cpu) -> Violation | None:
        """A detour buffer has called; the registers are loaded."""
        gpr = cpu.uc.gpr
        if gpr[RSP] % 16 != 8:  # the call has pushed 8 bytes
            return self._wrong(cpu, f"a detour buffer calls with RSP = {gpr[RSP] + 8:#x}, which is not aligned")
        return self._flags(cpu, gpr[RSI], "a detour buffer calls")

    def trampoline(self, cpu: Cpu) -> Violation | None:
        """The return probes' trampoline asks; the registers are loaded."""
        return self._flags(cpu, cpu.uc.gpr[RSP], "a return probe's handlers run")

    def _flags(self, cpu: Cpu, regs: int, who: str) -> Violation | None:
        flags = cpu.uc.gpr[RFLAGS]
        if flags & FLAG_DF:
            return self._wrong(cpu, f"{who} with DF set")
        before = self._machine.ram.read_u64(regs + _FLAGS)
        if before is not None and (flags ^ before) & FLAG_IF:
            state = "set" if flags & FLAG_IF else "clear"
            return self._wrong(cpu, f"{who} with IF {state}, which is not as in the code that was interrupted")
        return None

    def _wrong(self, cpu: Cpu, text: str) -> Violation:
        return Violation(ViolationKind.INVARIANT, cpu.index, cpu.rip, f"CPU {cpu.index}: {text}")
