"""This module has facts of x86-64 that several rooms need (SDM; arch/x86/include/asm).

They are flag bits, opcode bytes and sizes. The SDM's section is given with each group.
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
    "HLT",
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
"""This mask has the 64 bits of an address, and of a general register."""
PAGE_SIZE: Final = 4096
"""A page has this many bytes (SDM vol. 3, 4.5)."""

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
"""These FLAG_ constants are the bits of RFLAGS (SDM vol. 1, 3.4.3)."""

INT3_OPCODE: Final = 0xCC
INT3: Final = b"\xcc"
HLT: Final = b"\xf4"
"""This is the breakpoint instruction, which has one byte."""
INT3_SIZE: Final = 1
JMP32_OPCODE: Final = 0xE9
"""This byte and a 32-bit displacement behind it are a relative jump."""
JMP32_SIZE: Final = 5
"""A relative jump with a 32-bit displacement has this many bytes."""
CALL32_OPCODE: Final = 0xE8
"""This byte and a 32-bit displacement behind it are a relative call."""
ADDRESS_SIZE_PREFIX: Final = 0x67
HLT_OPCODE: Final = 0xF4

MAX_INSN_SIZE: Final = 15
"""An instruction has this many bytes at most (SDM vol. 2, 2.3.11).

The kernel's MAX_INSN_SIZE is 16.
"""
MAX_OPTIMIZED_LENGTH: Final = 20
"""A 5-byte jump replaces whole instructions of this many bytes at most, as Linux counts.

They are the last of 4 bytes and one instruction of 16 bytes, the kernel's MAX_INSN_SIZE.
"""
RED_ZONE_SIZE: Final = 128
"""User-mode code may keep data in this many bytes under the stack pointer (AMD64 psABI, 3.2.2)."""
