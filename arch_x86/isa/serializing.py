"""This module says which instructions synchronize a CPU's instruction fetch (sync_core in
arch/x86/include/asm/sync_core.h).

After such an instruction a CPU fetches the text as it is then. The list is that of the serializing
instructions in Intel's SDM vol. 3, "Serializing Instructions" (8.3, in later editions 9.3), and in
AMD's APM vol. 2, 7.6.4. What only one of the two vendors calls serializing is left out, but for
SERIALIZE, which AMD's manual does not have; so are INVEPT and INVVPID (Intel alone), MFENCE and MOV
to CR8 (AMD alone), and WBNOINVD. Leaving an instruction out is the safe direction: the CPU may
execute old text for longer, so that no tear is overlooked. docs/fetch-models.md has the sections
that name each instruction, and what each vendor says otherwise.
"""

from __future__ import annotations

from typing import Final

from arch_x86.isa.constants import MAX_INSN_SIZE
from arch_x86.isa.decode import decode
from arch_x86.isa.insn import NO_QUIRKS, Insn
from arch_x86.isa.opcode_map import LEGACY_PREFIXES

__all__ = ("is_serializing",)

_LOCK: Final = 0xF0
_MANDATORY: Final = frozenset((0x66, 0xF2, 0xF3))
_REP: Final = 0xF3
_REX_R: Final = 4

_IRET: Final = b"\xcf"
_GROUP_6: Final = b"\x0f\x00"
_GROUP_7: Final = b"\x0f\x01"
_WBINVD: Final = b"\x0f\x09"
_MOV_TO_CR: Final = b"\x0f\x22"
_MOV_TO_DR: Final = b"\x0f\x23"
_WHOLE_OPCODES: Final = frozenset(
    (_IRET, b"\x0f\x08", b"\x0f\x30", b"\x0f\xa2", b"\x0f\xaa")  # INVD, WRMSR, CPUID, RSM
)
"""These opcodes are serializing instructions whatever prefixes and operands they have."""

_SERIALIZE_MODRM: Final = 0xE8
_GROUP_6_DIGITS: Final = frozenset((2, 3))  # LLDT, LTR
_GROUP_7_DIGITS: Final = frozenset((2, 3, 7))  # LGDT, LIDT, INVLPG: with a memory operand
_CONTROL_REGISTERS: Final = frozenset((0, 2, 3, 4))
"""These control registers exist, but for CR8; MOV to any other raises #UD (SDM vol. 2, MOV)."""


def is_serializing(insn: bytes) -> bool:
    """Return whether the 64-bit instruction that ``insn`` starts with synchronizes the fetch of
    the CPU that executes it; False where ``insn`` starts with no whole instruction.

    An encoding that always raises #UD is not serializing: one with LOCK, or MOV to a register that
    does not exist. The answer depends on the encoding alone: WRMSR counts as serializing whichever
    register ECX names, though the manuals except a few registers.

    :param insn: any bytes; more than those of the instruction may be given. REX counts only
        directly in front of the opcode, as on a processor.
    """
    insn = insn[:MAX_INSN_SIZE]
    opcode_at, rex = _skip_prefixes(insn)
    prefixes = insn[:opcode_at]
    if _LOCK in prefixes:
        return False
    # No prefix changes the length of these instructions, hence the rest is decoded by itself.
    rest = decode(insn[opcode_at:], 0, NO_QUIRKS)
    if rest is None or rest.vex or rest.forced_emulation:
        return False
    return _is_listed(rest, prefixes, rex)


def _skip_prefixes(insn: bytes) -> tuple[int, int]:
    """Return where the opcode starts and the REX prefix in front of it, 0 without one."""
    rex = 0
    for at, byte in enumerate(insn):
        if byte & 0xF0 == 0x40:
            rex = byte
        elif byte in LEGACY_PREFIXES:
            rex = 0
        else:
            return at, rex
    return len(insn), 0


def _is_listed(rest: Insn, prefixes: bytes, rex: int) -> bool:
    """Return whether ``rest``, an instruction without its prefixes, is one of the list."""
    opcode, digit = rest.opcode, rest.reg
    if opcode == _GROUP_7:
        if rest.modrm == _SERIALIZE_MODRM:
            return _MANDATORY.isdisjoint(prefixes)
        return rest.mod != 3 and digit in _GROUP_7_DIGITS
    if opcode == _GROUP_6:
        return digit in _GROUP_6_DIGITS
    if opcode == _MOV_TO_CR:
        return not rex & _REX_R and digit in _CONTROL_REGISTERS
    if opcode == _MOV_TO_DR:
        return not rex & _REX_R
    if opcode == _WBINVD:
        # F3 makes it WBNOINVD. Decoders differ where F2 comes as well; then the answer is False.
        return _REP not in prefixes
    return opcode in _WHOLE_OPCODES
