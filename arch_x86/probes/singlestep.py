"""What a single step of the copy leaves to be put right. Answers to resume_execution() in
arch/x86/kernel/kprobes.c (2.6.38).

The copy ran at another address: RIP, a return address that it pushed and flags that it pushed are
those of the copy, stepped with TF on.
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
    """``relative_ip``: move RIP from the copy back to the original. ``return_address``: the same
    for the quad word on top of the stack. ``pushed_flags``: TF and IF of the flags on top of the
    stack are those of before the step.
    """

    relative_ip: bool
    return_address: bool
    pushed_flags: bool


def fixup_after_step(insn: Insn) -> Fixup:
    """What stepping ``insn`` at another address needs afterwards."""
    branch = insn.branch
    absolute = branch in _ABSOLUTE or branch in _ABSOLUTE_CALLS
    call = branch is Branch.CALL or branch in _ABSOLUTE_CALLS
    return Fixup(relative_ip=not absolute, return_address=call, pushed_flags=insn.opcode == _PUSHF)


def changes_interrupt_flag(insn: Insn) -> bool:
    """True where IF after the instruction is the instruction's own doing."""
    return insn.opcode in _IF_MODIFIERS
