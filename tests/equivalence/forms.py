"""What counts as one instruction form, and the forms that were found in real code."""

from __future__ import annotations

import gzip
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from arch_x86.isa.decode import decode
from arch_x86.isa.insn import Insn

FORMS_FILE = Path(__file__).resolve().parents[1] / "data" / "forms" / "forms.txt.gz"

# Opcodes whose ModRM.reg (and, for x87 without a memory operand, sometimes all of ModRM) belongs to
# the opcode.
_GROUPS = frozenset(
    (
        *range(0x80, 0x84),
        0x8F,
        0xC0,
        0xC1,
        0xC6,
        0xC7,
        *range(0xD0, 0xD4),
        *range(0xD8, 0xE0),
        0xF6,
        0xF7,
        0xFE,
        0xFF,
    )
)
_GROUPS_0F = frozenset((0x00, 0x01, 0x0D, 0x18, 0x71, 0x72, 0x73, 0xAE, 0xBA, 0xC7))
_REGISTER_IN_OPCODE = frozenset((*range(0x50, 0x60), *range(0x90, 0x98), *range(0xB0, 0xC0)))
_NOP = 0x90


class Form(NamedTuple):
    """Two instructions with equal forms differ in register numbers and constants only.

    ``prefixes``: which legacy prefixes, in order of value. ``rex``: "" without REX, else "R" or
    "W". ``vex``: map, pp and L, or None. ``opcode``: with escapes, without the register that some
    hold in their low bits. ``digit``: ModRM.reg where it is part of the opcode. ``operand``: ""
    without ModRM, "reg", or the kind of address. ``stack``: which of ModRM's or the opcode's fields
    name register 4 (RSP, AH, XMM4, MM4), since RSP behaves differently. ``imm``: bytes of
    immediate.
    """

    prefixes: bytes
    rex: str
    vex: tuple[int, int, int] | None
    opcode: bytes
    digit: int | None
    operand: str
    stack: str
    imm: int


class Address(NamedTuple):
    """A memory operand by register numbers (None: no such register)."""

    base: int | None
    index: int | None
    scale: int


def rex_bits(insn: Insn) -> tuple[int, int, int, int]:
    """W, R, X, B from REX or VEX."""
    if insn.vex:
        at = len(insn.prefixes)
        if insn.raw[at] == 0xC5:
            return 0, ~insn.raw[at + 1] >> 7 & 1, 0, 0
        first, second = ~insn.raw[at + 1], insn.raw[at + 2]
        return second >> 7, first >> 7 & 1, first >> 6 & 1, first >> 5 & 1
    return insn.rex >> 3 & 1, insn.rex >> 2 & 1, insn.rex >> 1 & 1, insn.rex & 1


def address_of(insn: Insn) -> Address | None:
    """The memory operand of ``insn``, None where it has none or a RIP-relative one."""
    if insn.modrm is None or insn.mod == 3 or insn.rip_relative:
        return None
    _w, _r, x, b = rex_bits(insn)
    if insn.rm != 4:
        return Address(insn.rm | b << 3, None, 1)
    sib = insn.raw[insn.disp_offset - 1]
    index = sib >> 3 & 7 | x << 3
    base = None if sib & 7 == 5 and insn.mod == 0 else sib & 7 | b << 3
    return Address(base, None if index == 4 else index, 1 << (sib >> 6))


def form_of(insn: Insn) -> Form:
    """The form of ``insn``."""
    opcode, vex, digit, stack = insn.opcode, None, None, ""
    _w, r, _x, b = rex_bits(insn)
    if insn.vex:
        payload = insn.raw[len(insn.prefixes) + (1 if insn.raw[len(insn.prefixes)] == 0xC5 else 2)]
        vex = (insn.vex_map, payload & 3, payload >> 2 & 1)
        digit = insn.reg if insn.vex_map == 2 and opcode[0] == 0xF3 else None
    elif _register_in_opcode(opcode) and not (opcode[0] == _NOP and not b):
        stack = "o" if opcode[-1] & 7 == 4 and not b else ""
        opcode = opcode[:-1] + bytes([opcode[-1] & 0xF8])
    elif insn.modrm is not None and _is_group(opcode):
        digit = insn.modrm if _is_whole(opcode[0], insn.modrm) else insn.reg
    operand = _operand(insn)
    if insn.modrm is not None:
        if digit is None and insn.reg == 4 and not r:
            stack += "r"
        if insn.mod == 3 and insn.rm == 4 and not b:
            stack += "m"
    rex = "" if not insn.rex and not insn.vex else "W" if rex_bits(insn)[0] else "R"
    return Form(
        bytes(sorted(set(insn.prefixes))), rex, vex, opcode, digit, operand, stack, insn.imm_size
    )


def _register_in_opcode(opcode: bytes) -> bool:
    if len(opcode) == 1:
        return opcode[0] in _REGISTER_IN_OPCODE
    return len(opcode) == 2 and 0xC8 <= opcode[1] < 0xD0


def _is_group(opcode: bytes) -> bool:
    return (
        opcode[0] in _GROUPS if len(opcode) == 1 else len(opcode) == 2 and opcode[1] in _GROUPS_0F
    )


def _is_whole(opcode: int, modrm: int) -> bool:
    """x87 instructions without operands: ModRM is a second opcode byte."""
    return (
        (opcode == 0xD9 and modrm >= 0xD0)
        or (opcode == 0xDB and 0xE0 <= modrm < 0xE8)
        or (opcode, modrm) in ((0xDA, 0xE9), (0xDF, 0xE0))
    )


def _operand(insn: Insn) -> str:
    if insn.modrm is None:
        return ""
    if insn.mod == 3:
        return "reg"
    if insn.rip_relative:
        return "[rip]"
    address = address_of(insn)
    assert address is not None
    base = "" if address.base is None else "rsp" if address.base == 4 else "base"
    index = "" if address.index is None else f"index*{address.scale}"
    disp = f"disp{8 * insn.disp_size}" if insn.disp_size else ""
    return f"[{'+'.join(part for part in (base, index, disp) if part)}]"


@lru_cache(maxsize=1)
def load() -> tuple[Insn, ...]:
    """One instruction of each form, as decoded at address 0."""
    with gzip.open(FORMS_FILE, "rt", encoding="ascii") as file:
        insns = [decode(bytes.fromhex(line), 0) for line in file if not line.startswith("#")]
    assert all(insn is not None for insn in insns)
    return tuple(insn for insn in insns if insn is not None)
