"""This module computes what relocations store (AMD64 psABI 1.0, section 4.4.1).

It is pure: a type and the operands of its formula go in, and the bytes to store come out. Tables
4.9 and 4.10 have the formulas. The letters S, A, P, G, L, B and GOT in comments are those of the
psABI.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from arch_x86.images.elf_names import RELOCATION_TYPES

__all__ = (
    "COPY",
    "DTPMOD64",
    "DTPOFF64",
    "GLOB_DAT",
    "GOTTPOFF",
    "GOT_TYPES",
    "INDIRECT_TYPES",
    "IRELATIVE",
    "JUMP_SLOT",
    "LOADER_TYPES",
    "NONE",
    "PC32",
    "PLT32",
    "RELATIVE",
    "RELATIVE_TYPES",
    "THREAD_TYPES",
    "TLSDESC",
    "compute",
    "supported",
    "type_name",
    "width",
)

NONE: Final = 0
PC32: Final = 2
PLT32: Final = 4
COPY: Final = 5
GLOB_DAT: Final = 6
JUMP_SLOT: Final = 7
RELATIVE: Final = 8
DTPMOD64: Final = 16
DTPOFF64: Final = 17
GOTTPOFF: Final = 22
TLSDESC: Final = 36
IRELATIVE: Final = 37
RELATIVE_TYPES: Final = frozenset((8, 38))
GOT_TYPES: Final = frozenset((9, GOTTPOFF, 41, 42))
"""The operand of these types is the symbol's slot in the GOT.

They are GOTPCREL, GOTTPOFF, GOTPCRELX and REX_GOTPCRELX.
"""
INDIRECT_TYPES: Final = frozenset((1, GLOB_DAT, JUMP_SLOT))
"""ld.so fills these types with what an indirect function's resolver returns.

They are 64, GLOB_DAT and JUMP_SLOT.
"""
THREAD_TYPES: Final = frozenset((DTPMOD64, DTPOFF64, 18, GOTTPOFF, 23, TLSDESC))
"""These types are for thread-local data.

They are DTPMOD64, DTPOFF64, TPOFF64, GOTTPOFF, TPOFF32 and TLSDESC.
"""
LOADER_TYPES: Final = frozenset((COPY, TLSDESC, IRELATIVE))
"""For these types a loader does more than store the value of a formula."""


class _Fits(Enum):
    """This enumeration says how the CPU extends a stored value to 64 bits.

    The value must be the same after that. ANY stands for a value of 64 bits, which is not extended.
    """

    ANY = "any"
    ZERO_EXTENDED = "zero"
    SIGN_EXTENDED = "sign"
    EITHER = "either"


@dataclass(frozen=True, slots=True)
class _Form:
    size: int
    pc_relative: bool = False
    fits: _Fits = _Fits.SIGN_EXTENDED
    addend: bool = True


_ABSOLUTE: Final = _Form(8, fits=_Fits.ANY)
_SLOT: Final = _Form(8, fits=_Fits.ANY, addend=False)
_RELATIVE: Final = _Form(4, pc_relative=True)
_FORMS: Final = {
    1: _ABSOLUTE,  # R_X86_64_64: S + A
    PC32: _RELATIVE,  # S + A - P
    PLT32: _RELATIVE,  # L + A - P; L is S, as there is no need of a PLT
    GLOB_DAT: _SLOT,  # S
    JUMP_SLOT: _SLOT,  # S
    RELATIVE: _ABSOLUTE,  # B + A, with B given as S
    9: _RELATIVE,  # GOTPCREL: G + GOT + A - P, with the slot's address given as S
    10: _Form(4, fits=_Fits.ZERO_EXTENDED),  # R_X86_64_32
    11: _Form(4),  # R_X86_64_32S
    12: _Form(2, fits=_Fits.EITHER),  # R_X86_64_16
    13: _Form(2, pc_relative=True),  # R_X86_64_PC16
    14: _Form(1, fits=_Fits.EITHER),  # R_X86_64_8
    15: _Form(1, pc_relative=True),  # R_X86_64_PC8
    # The psABI stores the number of the module. Here the distance of the module's block from the
    # thread pointer is stored, which __tls_get_addr (arch_x86.images.routines) adds.
    DTPMOD64: (_SLOT),
    DTPOFF64: _ABSOLUTE,  # S + A, with S from the start of the module's block
    18: _ABSOLUTE,  # TPOFF64: S + A, with S from the thread pointer
    GOTTPOFF: _RELATIVE,  # G + GOT + A - P, with the slot's address given as S
    23: _Form(4),  # TPOFF32: S + A, with S from the thread pointer
    24: _Form(8, pc_relative=True, fits=_Fits.ANY),  # R_X86_64_PC64
    38: _ABSOLUTE,  # RELATIVE64
    41: _RELATIVE,  # GOTPCRELX
    42: _RELATIVE,  # REX_GOTPCRELX
}


def type_name(kind: int) -> str:
    """Return the name of a relocation type, ``"R_X86_64_PLT32"`` for 4.

    A type without a name is given as a number in words.
    """
    return RELOCATION_TYPES.get(kind, f"R_X86_64 relocation type {kind}")


def supported(kind: int) -> bool:
    """Return True when :func:`compute` knows the type ``kind``.

    It does not know ``NONE``, which has nothing to compute.
    """
    return kind in _FORMS


def width(kind: int) -> int:
    """Return how many bytes a relocation of the supported type ``kind`` stores."""
    return _FORMS[kind].size


def compute(kind: int, symbol: int, addend: int, place: int) -> bytes | None:
    """Return the bytes that a relocation of supported type ``kind`` stores at address ``place``.

    :param symbol: the S of the formula; for RELATIVE the load bias, for the GOT types the address
        of the symbol's slot.
    :param addend: the A of the formula.
    :returns: None when the value does not fit, which is an overflow.
    """
    form = _FORMS[kind]
    value = (symbol + (addend if form.addend else 0) - (place if form.pc_relative else 0)) % (
        1 << 64
    )
    bits = 8 * form.size
    signed = value - (1 << 64) if value >> 63 else value
    zero, sign = value >> bits == 0, -(1 << bits - 1) <= signed < 1 << bits - 1
    match form.fits:
        case _Fits.ANY:
            good = True
        case _Fits.ZERO_EXTENDED:
            good = zero
        case _Fits.SIGN_EXTENDED:
            good = sign
        case _Fits.EITHER:
            good = zero or sign
    return (value % (1 << bits)).to_bytes(form.size, "little") if good else None
