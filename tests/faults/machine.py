"""Faults of the machine that traps and interrupts go through: ``arch_x86/emu/``."""

from __future__ import annotations

from typing import Final

from tests.faults.fault import Fault, Kind

__all__ = ("MACHINE",)

_EXECUTE, _TRAPS, _FRAMES = (
    "arch_x86/emu/execute.py",
    "arch_x86/emu/traps.py",
    "arch_x86/emu/frames.py",
)
_CPU, _STUBS, _NESTED = "arch_x86/emu/cpu.py", "arch_x86/emu/stubs.py", "arch_x86/emu/nested.py"

MACHINE: Final = (
    Fault(
        "an interrupt comes right behind STI",
        _EXECUTE,
        "if not vcpu.uc.gpr[RFLAGS] & FLAG_IF or vcpu.in_shadow:",
        "if not vcpu.uc.gpr[RFLAGS] & FLAG_IF:",
        Kind.MACHINE,
    ),
    Fault(
        "an interrupt comes while IF is clear",
        _EXECUTE,
        "if not vcpu.uc.gpr[RFLAGS] & FLAG_IF or vcpu.in_shadow:",
        "if vcpu.in_shadow:",
        Kind.MACHINE,
    ),
    Fault(
        "an NMI comes right behind MOV SS",
        _TRAPS,
        "        return vcpu.in_shadow and not self._is_behind_sti(vcpu)",
        "        return False",
        Kind.MACHINE,
    ),
    Fault(
        "an NMI comes within an NMI",
        _TRAPS,
        "        if vcpu.nmi is NmiPhase.ENTERED or (",
        "        if False and (",
        Kind.MACHINE,
    ),
    Fault(
        "a return handler sees the stack pointer of the trampoline",
        _TRAPS,
        "        regs.sp = at + PT_REGS_SIZE + return_skip(red_zone=vcpu.red_zone)\n",
        "",
        Kind.RETURNS,
    ),
    Fault(
        "what a handler behind a jump changes in pt_regs has no effect",
        _TRAPS,
        "            answered.result()\n        self._machine.ram.write(at, regs.pack())",
        "            answered.result()",
        Kind.MACHINE,
    ),
    Fault(
        "a trap frame writes over the red zone",
        _CPU,
        "((rsp - RED_ZONE_SIZE if self.red_zone else rsp) & ~15) & ADDRESS_MASK",
        "(rsp & ~15) & ADDRESS_MASK",
        Kind.MACHINE,
    ),
    Fault(
        "a trap's handler runs with interrupts allowed",
        _CPU,
        "rflags & ~(FLAG_IF | FLAG_TF | FLAG_NT | FLAG_RF)",
        "rflags & ~(FLAG_TF | FLAG_NT | FLAG_RF)",
        Kind.MACHINE,
    ),
    Fault(
        "a trap's handler is single-stepped",
        _CPU,
        "rflags & ~(FLAG_IF | FLAG_TF | FLAG_NT | FLAG_RF)",
        "rflags & ~(FLAG_IF | FLAG_NT | FLAG_RF)",
        Kind.MACHINE,
    ),
    Fault(
        "a guest function that a handler calls runs with DF set",
        _NESTED,
        "uc.gpr[RFLAGS] & ~(FLAG_DF | FLAG_TF)",
        "uc.gpr[RFLAGS] & ~FLAG_TF",
        Kind.MACHINE,
    ),
    Fault(
        "a guest function that a handler calls leaves its registers",
        _NESTED,
        "        vcpu.uc.restore(self._context)\n",
        "",
        Kind.MACHINE,
    ),
    Fault(
        "a guest function that a handler calls has its stack not aligned",
        _NESTED,
        "top = (below & ~15) - 8 & ADDRESS_MASK",
        "top = (below & ~15) - 16 & ADDRESS_MASK",
        Kind.MACHINE,
    ),
    Fault(
        "a handler leaves two registers swapped",
        _STUBS,
        '        "r11",\n        "r10",',
        '        "r10",\n        "r11",',
        Kind.MACHINE,
    ),
    Fault(
        "6.1: an emulated push overwrites the frame of the breakpoint",
        _STUBS,
        "            elif int3_gap:",
        "            elif False:",
        Kind.MACHINE,
    ),
    Fault(
        "a return probe's trampoline loses the flags",
        _STUBS,
        "add rsp, 24\npopfq\nlea",
        "add rsp, 32\nlea",
        Kind.RETURNS,
    ),
    Fault(
        "the copy of an instruction that has to trap does not",
        _FRAMES,
        "for addr, raw in (*guards, *copies):",
        "for addr, raw in guards:",
        Kind.MACHINE,
    ),
)
