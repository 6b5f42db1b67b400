"""This module says what a single step leaves to put right: resume_execution() (2.6.38).

The kernel's file is arch/x86/kernel/kprobes.c. The copy ran at another address. So RIP, and a
return address and flags that the copy pushed, are those of the copy, which was stepped with TF on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from arch_x86.isa.insn import Branch, Insn

__all__ = ("Fixup", "changes_interrupt_flag", "fixup_after_step")

_PUSHF: Final = b"\x9c"
_IF_MODIFIERS: Final = frozenset({b"\xfa", b"\xfb", b"\x9d", b"\xcf"})  # cli, sti, popf, iret
_ABSOLUTE: Final = frozenset(
    {
        Branch.RET,
        Branch.RET_FAR,
        Branch.IRET,
        Branch.JMP_FAR,
        Branch.JMP_INDIRECT_REG,
        Branch.JMP_INDIRECT_MEM,
    }
)
_ABSOLUTE_CALLS: Final = frozenset(
    {Branch.CALL_INDIRECT_REG, Branch.CALL_INDIRECT_MEM, Branch.CALL_FAR}
)


@dataclass(frozen=True, slots=True)
class Fixup:
    """This record says what has to be put right behind a single step of a copy.

    :ivar relative_ip: RIP moves from the copy to the original.
    :ivar return_address: the quad word on top of the stack moves in the same way.
    :ivar pushed_flags: TF and IF of the flags on top of the stack become those of before the step.
    """

    relative_ip: bool
    return_address: bool
    pushed_flags: bool


_PLAIN: Final = Fixup(relative_ip=True, return_address=False, pushed_flags=False)
"""This is what has to be put right behind most instructions."""


def fixup_after_step(insn: Insn) -> Fixup:
    """Return what has to be put right when ``insn`` was stepped at another address."""
    return _PLAIN if insn.branch is Branch.NONE and insn.opcode != _PUSHF else _fixup(insn)


def _fixup(insn: Insn) -> Fixup:
    branch = insn.branch
    absolute = branch in _ABSOLUTE or branch in _ABSOLUTE_CALLS
    call = branch is Branch.CALL or branch in _ABSOLUTE_CALLS
    return Fixup(relative_ip=not absolute, return_address=call, pushed_flags=insn.opcode == _PUSHF)


def changes_interrupt_flag(insn: Insn) -> bool:
    """Return True where the instruction itself decides what IF is behind it."""
    return insn.opcode in _IF_MODIFIERS
