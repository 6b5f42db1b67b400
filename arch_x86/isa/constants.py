"""Facts of the x86-64 architecture that more than one room needs: flag bits, opcode bytes,
sizes.
"""

from __future__ import annotations

from typing import Final

__all__ = (
    "ADDRESS_MASK",
    "ADDRESS_SIZE_PREFIX",
    "CALL32_OPCODE",
    "FLAG_AF",
    "FLAG_CF",
    "FLAG_DF",
    "FLAG_IF",
    "FLAG_NT",
    "FLAG_OF",
    "FLAG_PF",
    "FLAG_RF",
    "FLAG_SF",
    "FLAG_TF",
    "FLAG_ZF",
    "HLT_OPCODE",
    "INT3",
    "INT3_OPCODE",
    "INT3_SIZE",
    "JMP32_OPCODE",
    "JMP32_SIZE",
    "MAX_INSN_SIZE",
    "MAX_OPTIMIZED_LENGTH",
    "PAGE_SIZE",
    "RED_ZONE_SIZE",
)

ADDRESS_MASK: Final = (1 << 64) - 1
"""The bits of an address, and of a general register."""
PAGE_SIZE: Final = 4096
"""Bytes of a page (SDM vol. 3, 4.5)."""

FLAG_CF: Final = 1 << 0
FLAG_PF: Final = 1 << 2
FLAG_AF: Final = 1 << 4
FLAG_ZF: Final = 1 << 6
FLAG_SF: Final = 1 << 7
FLAG_TF: Final = 1 << 8
FLAG_IF: Final = 1 << 9
FLAG_DF: Final = 1 << 10
FLAG_OF: Final = 1 << 11
FLAG_NT: Final = 1 << 14
FLAG_RF: Final = 1 << 16
"""Bits of RFLAGS (SDM vol. 1, 3.4.3)."""

INT3_OPCODE: Final = 0xCC
INT3: Final = b"\xcc"
"""The breakpoint instruction: one byte."""
INT3_SIZE: Final = 1
JMP32_OPCODE: Final = 0xE9
"""A jump with a displacement of 32 bits behind it."""
JMP32_SIZE: Final = 5
"""Bytes of such a jump."""
CALL32_OPCODE: Final = 0xE8
"""A call with a displacement of 32 bits behind it."""
ADDRESS_SIZE_PREFIX: Final = 0x67
HLT_OPCODE: Final = 0xF4

MAX_INSN_SIZE: Final = 15
"""Most bytes of an instruction (SDM vol. 2, 2.3.11); the kernel's MAX_INSN_SIZE is 16."""
MAX_OPTIMIZED_LENGTH: Final = 20
"""Most bytes of whole instructions that a 5-byte jump can replace: 4, and the 16 of the kernel's
longest instruction.
"""
RED_ZONE_SIZE: Final = 128
"""Bytes under the stack pointer where user-mode code may keep data (System V ABI, AMD64 supplement,
3.2.2).
"""
