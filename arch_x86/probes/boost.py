"""This module says which copies may end in a jump back (arch/x86/kernel/kprobes/core.c, can_boost).

A boosted copy runs without a single-step trap. So it must fall through into the jump behind it, or
leave to the right address by itself, and it must not fault at an address that the exception table
does not know. Linux 6.1 decides by opcode. It leaves out branches relative to the instruction
pointer, traps, opcode groups, whose members it does not tell apart, and every opcode that it has
never looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from arch_x86.isa.constants import ADDRESS_SIZE_PREFIX, JMP32_SIZE, MAX_INSN_SIZE
from arch_x86.probes.areas import lies_in_reach

if TYPE_CHECKING:
    from arch_x86.isa.insn import Insn
    from arch_x86.probes.code import CodeCache

__all__ = ("can_boost", "fits_jump_back", "is_boostable")

# This prefix is a hint on branches, but 6.1 boosts no instruction with it.
_CS_OVERRIDE: Final = 0x2E
_GROUP_5: Final = 0xFF
_GROUP_5_JMP: Final = 4

# These one-byte opcodes are never boosted.
_NOT_BOOSTABLE: Final = frozenset(
    (
        *(0x62, 0x9A, 0xD6),  # BOUND or EVEX; CALL far; undefined
        *range(0x70, 0x80),  # Jcc
        *(0xC0, 0xC1, *range(0xD0, 0xD4)),  # group 2: shifts
        *range(0xCC, 0xCF),  # INT3, INT n, INTO; but IRET (cf) leaves to the right address
        *range(0xD8, 0xE0),  # x87, whose opcodes are all groups
        *range(0xE0, 0xE4),  # LOOP, JRCXZ
        *(0xE8, 0xE9, 0xEB),  # CALL, JMP
        *range(0xF0, 0xF5),  # prefixes without an opcode, INT1, HLT
        *(0xF6, 0xF7, 0xFE),  # groups 3 and 4; of group 5 (ff) the indirect near jump is boosted
    )
)

# These two-byte opcodes are boosted: those of the Pentium with MMX, and CMOVcc of the Pentium Pro,
# without branches and groups.
_BOOSTABLE_0F: Final = frozenset(
    (
        *(0x02, 0x03, 0x06, 0x08, 0x09),  # LAR, LSL, CLTS, INVD, WBINVD
        # NOP; MOV to and from control and debug registers; RDTSC
        *(0x1F, *range(0x20, 0x24), 0x31),
        *range(0x40, 0x50),  # CMOVcc
        *(*range(0x60, 0x6C), 0x6E, 0x6F),  # MMX pack, unpack, compare, move
        *(*range(0x74, 0x78), 0x7E, 0x7F),  # MMX compare, EMMS, move
        *range(0x90, 0xA0),  # SETcc
        *(0xA0, 0xA1, 0xA8, 0xA9),  # PUSH, POP of FS and GS
        *(0xA3, 0xAB, 0xB3, 0xBB, 0xBC, 0xBD),  # BT, BTS, BTR, BTC; BSF, BSR
        *(0xA4, 0xA5, 0xAC, 0xAD, 0xAF),  # SHLD, SHRD, IMUL
        *(0xB0, 0xB1, 0xC0, 0xC1, *range(0xC8, 0xD0)),  # CMPXCHG, XADD, BSWAP
        *(0xB2, 0xB4, 0xB5),  # LSS, LFS, LGS
        *(0xB6, 0xB7, 0xBE, 0xBF),  # MOVZX, MOVSX
        *(0xD1, 0xD2, 0xD3, 0xE1, 0xE2, 0xF1, 0xF2, 0xF3),  # MMX shifts
        *(0xD5, 0xE5, 0xF5),  # PMULLW, PMULHW, PMADDWD
        *(0xD8, 0xD9, 0xDC, 0xDD, 0xE8, 0xE9, 0xEC, 0xED),  # MMX saturating add and subtract
        *(0xDB, 0xDF, 0xEB, 0xEF),  # PAND, PANDN, POR, PXOR
        *(0xF8, 0xF9, 0xFA, 0xFC, 0xFD, 0xFE),  # MMX add and subtract
    )
)


def can_boost(insn: Insn, *, in_exception_table: bool = False) -> bool:
    """Return True when a copy of ``insn`` may run without a trap behind it.

    Whether the slot has room for a jump behind it is another question (:func:`fits_jump_back`).

    :param in_exception_table: the instruction has a fixup. A fault in a boosted copy would come at
        the copy's address, which the exception table does not know, so it is not boosted.
    """
    if in_exception_table:
        return False
    opcode = insn.opcode
    if len(opcode) == 2:
        return opcode[1] in _BOOSTABLE_0F
    if len(opcode) != 1 or _CS_OVERRIDE in insn.prefixes or ADDRESS_SIZE_PREFIX in insn.prefixes:
        return False
    if opcode[0] == _GROUP_5:
        return insn.reg == _GROUP_5_JMP
    return opcode[0] not in _NOT_BOOSTABLE


def fits_jump_back(insn: Insn) -> bool:
    """Return True when a single-step slot has room for a jump behind ``insn``."""
    return insn.length + JMP32_SIZE <= MAX_INSN_SIZE


def is_boostable(cache: CodeCache, addr: int) -> bool:
    """Return True when a probe at ``addr`` may be boosted.

    In code of a preemptible kernel no probe is, for a task may be preempted in the copy, and a
    grace period would not wait for it to leave. Nor is a probe boosted where no jump leads back
    from a slot.
    """
    if cache.image.preemption:
        return False
    insn = cache.insn_at(addr)
    if insn is None or not fits_jump_back(insn) or not lies_in_reach(insn.end, cache.areas.slots):
        return False
    return can_boost(insn, in_exception_table=cache.in_exception_table(addr))
