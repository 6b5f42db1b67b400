"""This module builds slots: prepare_singlestep() (arch/x86/kernel/kprobes/core.c).

A slot has the copy of an instruction, and behind it what brings the CPU back: a jump, or a
breakpoint.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from arch_x86.isa.constants import INT3, INT3_SIZE, MAX_INSN_SIZE
from arch_x86.isa.encode import jmp32
from arch_x86.probes.boost import fits_jump_back
from arch_x86.probes.relocate import copy_instruction
from engine.errors import KprobeError

if TYPE_CHECKING:
    from arch_x86.isa.insn import Insn

__all__ = ("SLOT_SIZE", "build_slot", "fits_slot")

SLOT_SIZE: Final = MAX_INSN_SIZE


def fits_slot(insn: Insn) -> bool:
    """Return True when a slot has room for ``insn`` and an INT3; 15 bytes are too long."""
    return insn.length + INT3_SIZE <= SLOT_SIZE


def build_slot(insn: Insn, slot_addr: int, boostable: bool) -> bytes:
    """Return the bytes for a slot at ``slot_addr``: a copy of ``insn``, then a jump or an INT3.

    The jump leads to the instruction behind the probe.

    :param boostable: end in the jump, where there is room for it.
    :raises RelativeRangeError: ``slot_addr`` is too far from the instruction, or from what its
        operand refers to.
    :raises KprobeError: there is no room for an INT3 either (ENOSPC).
    """
    if not fits_slot(insn):
        raise KprobeError(
            errno.ENOSPC,
            f"{insn.length}-byte instruction at {insn.addr:#x} leaves no room in a {SLOT_SIZE}-byte"
            " slot",
        )
    copy = copy_instruction(insn, slot_addr)
    if boostable and fits_jump_back(insn):
        return copy + jmp32(slot_addr + len(copy), insn.end)
    return copy + INT3
