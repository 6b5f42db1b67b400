"""This module copies instructions to another address: __copy_instruction() (kprobes/core.c).

The kernel's file is arch/x86/kernel/kprobes/core.c. Bytes are copied as they are. Only a
RIP-relative displacement changes, so that it leads to the same address. Nothing is encoded anew,
and what cannot be copied so is refused.
"""

from __future__ import annotations

import struct
from enum import StrEnum
from typing import TYPE_CHECKING

from arch_x86.isa.constants import INT3_OPCODE
from arch_x86.isa.encode import rel32

if TYPE_CHECKING:
    from collections.abc import Iterable

    from arch_x86.isa.insn import Insn

__all__ = ("CopyRefusal", "copy_instruction", "copy_instructions", "copy_refusal")

_POP_DS = 0x1F  # 6.1 refuses it as a load of SS, though it does not exist in 64-bit mode.
_MOV_SREG = 0x8E
_SS = 2


class CopyRefusal(StrEnum):
    """A refusal says why no copy of an instruction may be executed."""

    FORCED_EMULATION = "forced-emulation prefix"
    BREAKPOINT = "breakpoint"
    STACK_SEGMENT = "loads the stack segment"


def copy_refusal(insn: Insn) -> CopyRefusal | None:
    """Return why Linux 6.1 does not copy ``insn``, or None when it does.

    A load of SS is not copied: the CPU holds interrupts off behind it, and with them the
    single-step trap.
    """
    if insn.forced_emulation:
        return CopyRefusal.FORCED_EMULATION
    opcode = insn.opcode[0]
    if opcode == INT3_OPCODE:
        return CopyRefusal.BREAKPOINT
    if opcode == _POP_DS or (opcode == _MOV_SREG and insn.reg == _SS):
        return CopyRefusal.STACK_SEGMENT
    return None


def copy_instruction(insn: Insn, to: int) -> bytes:
    """Return the bytes of ``insn`` for address ``to``.

    :raises RelativeRangeError: its RIP-relative operand is out of reach from there.
    """
    target = insn.memory_address
    if target is None:
        return insn.raw
    distance = rel32(to + insn.length, target)
    at = insn.disp_offset
    return insn.raw[:at] + struct.pack("<i", distance) + insn.raw[at + 4 :]


def copy_instructions(insns: Iterable[Insn], to: int) -> bytes:
    """Return copies of ``insns``, one behind the other, for address ``to``.

    :raises RelativeRangeError: a RIP-relative operand is out of reach from its copy.
    """
    copies: list[bytes] = []
    for insn in insns:
        copies.append(copy_instruction(insn, to))
        to += insn.length
    return b"".join(copies)
