"""Memory operands of SSE that have to be aligned, which the emulator does not check.

SDM vol. 1, 10.4.1.1, and vol. 2, 2.4, exception classes 1, 2 and 4, say which they are. All 16-byte
operands of instructions without VEX have to be, but for those of a few instructions that load or
store unaligned data on purpose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from arch_x86.emu.uc import UcInstance
from arch_x86.isa.constants import ADDRESS_MASK
from arch_x86.isa.insn import Insn

__all__ = ("GENERAL_PROTECTION", "check_alignment", "must_be_aligned", "operand_address")

GENERAL_PROTECTION: Final = 13
"""The vector of #GP."""
_ALIGNMENT: Final = 16
_ANY_ADDRESS: Final = (
    *("movups", "movupd", "movdqu", "lddqu", "pcmpestr", "pcmpistr"),
    "comisd",  # Its operand has 8 bytes, whatever the disassembler says.
    "bndmov",  # It belongs to MPX, without which it does nothing.
    "sha",  # Whether it needs alignment depends on the model, and the emulator lacks it.
)
_ESCAPE: Final = 0x0F
_ADDRESS_SIZE, _FS, _GS = 0x67, 0x64, 0x65
_REX_X, _REX_B = 2, 1
_SIB, _NO_INDEX, _NO_BASE = 4, 4, 5
_LOW: Final = (1 << 32) - 1


def must_be_aligned(insn: Insn) -> bool:
    """Return whether ``insn`` has a memory operand that must lie at a multiple of 16 bytes."""
    if insn.vex or insn.opcode[0] != _ESCAPE or insn.modrm is None or insn.mod == 3:
        return False
    text = insn.text
    return "xmmword ptr" in text and not text.startswith(_ANY_ADDRESS)


def check_alignment(uc: UcInstance, insn: Insn, run: Callable[[], bool]) -> int | None:
    """Execute ``insn`` by ``run``, unless its memory operand is not aligned as it has to be.

    This is an :data:`arch_x86.emu.assist.Assist`.

    :returns: None, or the vector of the exception to raise instead.
    """
    if operand_address(uc, insn) % _ALIGNMENT:
        return GENERAL_PROTECTION
    run()
    return None


def operand_address(uc: UcInstance, insn: Insn) -> int:
    """Return the linear address of the memory operand of ``insn``, which is executed next.

    SDM vol. 2, 2.1.5, says how it is made.
    """
    narrow = _ADDRESS_SIZE in insn.prefixes
    if insn.rip_relative:
        address = insn.end + insn.displacement
    else:
        uc.load()
        address = insn.displacement + _base_and_index(uc, insn)
    segment = next((prefix for prefix in insn.prefixes if prefix in (_FS, _GS)), None)
    start = 0 if segment is None else uc.segment_base(gs=segment == _GS)
    return start + (address & (_LOW if narrow else ADDRESS_MASK)) & ADDRESS_MASK


def _base_and_index(uc: UcInstance, insn: Insn) -> int:
    extension = insn.rex & _REX_B
    if insn.rm != _SIB:
        return uc.gpr[insn.rm | extension << 3]
    sib = insn.raw[len(insn.prefixes) + bool(insn.rex) + len(insn.opcode) + 1]
    scale, index, base = sib >> 6, sib >> 3 & 7 | (insn.rex & _REX_X) << 2, sib & 7
    total = 0 if index == _NO_INDEX else uc.gpr[index] << scale
    return total if base == _NO_BASE and insn.mod == 0 else total + uc.gpr[base | extension << 3]
