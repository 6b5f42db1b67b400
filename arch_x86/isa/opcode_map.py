"""This module has the opcode maps that give lengths (arch/x86/lib/x86-opcode-map.txt, v6.1).

SDM vol. 2, appendix A has the maps, too; here they are as Linux 6.1 knows them. The tables are pure
data. A *form* says which operand bytes follow the opcode. A *presence* digit says with which
mandatory prefix an opcode of the ``0F`` maps exists (bit 0 none, bit 1 ``66``, bit 2 ``F3``, bit 3
``F2``). There is one table of these digits for instructions without VEX, one with VEX, and one with
EVEX.

The digits were derived from iced-x86's instruction tables, restricted to the extensions that the
kernel knows in 6.1 (no XOP, SSE4A, AVX-IFMA, CMPccXADD, key locker, ...).
``tests/isa/test_opcode_map.py`` derives them again and compares.
"""

from __future__ import annotations

from enum import IntFlag
from typing import Final

__all__ = (
    "EVEX_PRESENCE",
    "GROUP_IMMEDIATES",
    "GROUP_VEX",
    "LEGACY_FORMS",
    "LEGACY_PREFIXES",
    "LEGACY_PRESENCE",
    "MAP_0F",
    "MAP_0F3A",
    "MAP_0F38",
    "MAP_ONE_BYTE",
    "VEX_PRESENCE",
    "Form",
)

MAP_ONE_BYTE: Final = 0
MAP_0F: Final = 1
MAP_0F38: Final = 2
MAP_0F3A: Final = 3
_MAP_EVEX5: Final = 5
_MAP_EVEX6: Final = 6

LEGACY_PREFIXES: Final = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")


class Form(IntFlag):
    """A form says which operand bytes follow an opcode."""

    NONE = 0
    MODRM = 1
    IMM8 = 2
    IMM16 = 4
    IMM_Z = 8  # 2 bytes with 66, else 4
    IMM_V = 16  # 2, 4 or 8 bytes by operand size
    REL32 = 32  # 4 bytes: Intel ignores 66 on near branches in 64-bit mode
    MOFFS = 64  # 8 bytes, 4 with 67
    FAR = 128  # ptr16:16 or ptr16:32; there is no ptr16:64
    TEST_IMM = 256  # group 3: an immediate only for /0 and /1 (TEST)
    MMX_SHIFT = 512  # groups 12 to 14: an immediate only where GROUP_IMMEDIATES says so


_LETTERS: Final = {
    ".": Form.NONE,
    "m": Form.MODRM,
    "b": Form.IMM8,
    "B": Form.MODRM | Form.IMM8,
    "w": Form.IMM16,
    "e": Form.IMM16 | Form.IMM8,  # ENTER
    "z": Form.IMM_Z,
    "Z": Form.MODRM | Form.IMM_Z,
    "v": Form.IMM_V,
    "r": Form.REL32,
    "o": Form.MOFFS,
    "f": Form.FAR,
    "t": Form.MODRM | Form.IMM8 | Form.TEST_IMM,
    "T": Form.MODRM | Form.IMM_Z | Form.TEST_IMM,
    "s": Form.MODRM | Form.IMM8 | Form.MMX_SHIFT,
}

# Each row has the opcodes of one high digit. Opcodes that are invalid in 64-bit mode (06, 27, 60,
# 82, 9a, ce, d4, ea ...) keep their 32-bit form, and /digits that no instruction uses keep the form
# of their group: the kernel's decoder does not tell them apart, and hardware faults either way.
_ONE_BYTE_FORMS: Final = (
    "mmmmbz..mmmmbz.."  # 0. ADD, OR
    "mmmmbz..mmmmbz.."  # 1. ADC, SBB
    "mmmmbz..mmmmbz.."  # 2. AND, SUB
    "mmmmbz..mmmmbz.."  # 3. XOR, CMP
    "................"  # 4. REX
    "................"  # 5. PUSH, POP
    "...m....zZbB...."  # 6. MOVSXD, PUSH imm, IMUL
    "bbbbbbbbbbbbbbbb"  # 7. Jcc rel8
    "BZBBmmmmmmmmmmmm"  # 8. group 1, TEST, XCHG, MOV, LEA, POP
    "..........f....."  # 9. XCHG, CALL far
    "oooo....bz......"  # a. MOV moffs, strings, TEST
    "bbbbbbbbvvvvvvvv"  # b. MOV imm
    "BBw...BZe.w..b.."  # c. group 2, RET, group 11, ENTER, INT
    "mmmmbb..mmmmmmmm"  # d. group 2, AAM, x87
    "bbbbbbbbrrfb...."  # e. LOOP, IN, OUT, CALL, JMP
    "......tT......mm"  # f. groups 3, 4, 5
)
_TWO_BYTE_FORMS: Final = (
    "mmmm.........m.B"  # 0. groups 6, 7, LAR, LSL, 3DNow!
    "mmmmmmmmm.mmm.mm"  # 1. SSE moves, hints
    "mmmm....mmmmmmmm"  # 2. MOV cr/dr, SSE
    "................"  # 3. RDTSC ..., escapes
    "mmmmmmmmmmmmmmmm"  # 4. CMOVcc
    "mmmmmmmmmmmmmmmm"  # 5. SSE
    "mmmmmmmmmmmmmmmm"  # 6. MMX
    "Bsssmmm.mmmmmmmm"  # 7. PSHUF, groups 12 to 14, EMMS
    "rrrrrrrrrrrrrrrr"  # 8. Jcc rel32
    "mmmmmmmmmmmmmmmm"  # 9. SETcc
    "...mBmmm...mBmmm"  # a. BT, SHLD, SHRD, group 15
    "mmmmmmmmmmBmmmmm"  # b. CMPXCHG, MOVZX, group 8
    "mmBmBBBm........"  # c. XADD, CMPPS, SHUFPS, BSWAP
    "mmmmmmmmmmmmmmmm"  # d. MMX
    "mmmmmmmmmmmmmmmm"  # e. MMX
    "mmmmmmmmmmmmmmm."  # f. MMX, UD0
)


def _forms(rows: str) -> tuple[int, ...]:
    return tuple(int(_LETTERS[letter]) for letter in rows)


LEGACY_FORMS: Final[dict[int, tuple[int, ...]]] = {
    MAP_ONE_BYTE: _forms(_ONE_BYTE_FORMS),
    MAP_0F: _forms(_TWO_BYTE_FORMS),
    MAP_0F38: (int(Form.MODRM),) * 256,
    MAP_0F3A: (int(Form.MODRM | Form.IMM8),) * 256,
    _MAP_EVEX5: (int(Form.MODRM),) * 256,
    _MAP_EVEX6: (int(Form.MODRM),) * 256,
}

# These rows are for instructions without VEX. The digit "f" says that the opcode means the same
# with every prefix. Some forms that need VEX count as legal without VEX, too, since the kernel's
# map does not say that they need it: the mask-register forms of 0f 41-4b and 90-99, AMX tiles,
# AVX-VNNI, VPBLENDVB.
_LEGACY_ROWS: Final = {
    MAP_0F: (
        "ffff0fffff0f0fff"
        "fff33373f0fff0ff"
        "ffff000033f3ff33"
        "ffffff0f00000000"
        "f33f3333ff33ffff"
        "3f553333fff7ffff"
        "3333333333332237"
        "ffff333f1100aa77"
        "ffffffffffffffff"
        "33bbffff33ffffff"
        "ffffffffffffffff"
        "ffffffff4fffffff"
        "ffff333fffffffff"
        "a33333e333333333"
        "333333e333333333"
        "8333333333333330"
    ),
    MAP_0F38: (
        "3333333333330000"
        "2000220200003330"
        "2222220022220000"
        "2222220222222222"
        "220000000b0a0000"
        "22220000000040f0"
        "0000000000000000"
        "0000000000000000"
        "2220000000000000"
        "0000000000000000"
        "0000000000000000"
        "0000000000000000"
        "000000ff1f111102"
        "0000000000022222"
        "0000000000000000"
        "bb0f0270ef000000"
    ),
    MAP_0F3A: (
        "0000000032322223"
        "0000222200000000"
        "2220000000000000"
        "0000000000000000"
        "2220200000002000"
        "0000000000000000"
        "2222000000000000"
        "0000000000000000"
        "0000000000000000"
        "0000000000000000"
        "0000000000000000"
        "0000000000000000"
        "000000000000f022"
        "0000000000000002"
        "0000000000000000"
        "4000000000000000"
    ),
}

# These rows are for instructions with VEX. The opcodes of groups (0f 71 to 73 and ae, 0f38 c6, c7
# and f3) stand in GROUP_VEX instead.
_VEX_ROWS: Final = {
    MAP_0F: (
        "0000000000000000"
        "fff3337300000000"
        "0000000033c3cc33"
        "0000000000000000"
        "0330333300330000"
        "3f553333fff7ffff"
        "2222222222222226"
        "e00022210000aa66"
        "0000000000000000"
        "33bb000033000000"
        "0000000000000000"
        "0000000000000000"
        "00f0223000000000"
        "a222222222222222"
        "222222e222222222"
        "8222222222222220"
    ),
    MAP_0F38: (
        "2222222222222222"
        "0002002222202220"
        "2222220022222222"
        "2222222222222222"
        "220002220b0e0000"
        "22220000222040f0"
        "0000000000000000"
        "0000000022000000"
        "0000000000002020"
        "2222002222222222"
        "0000002222222222"
        "0000002222222222"
        "0000000000000002"
        "0000000000022222"
        "0000000000000000"
        "00100d8f00000000"
    ),
    MAP_0F3A: (
        "2220222022222222"
        "0000222222000200"
        "2220000000000000"
        "2222000022000000"
        "2220202000222000"
        "0000000000000000"
        "2222000000000000"
        "0000000000000000"
        "0000000000000000"
        "0000000000000000"
        "0000000000000000"
        "0000000000000000"
        "0000000000000022"
        "0000000000000002"
        "0000000000000000"
        "8000000000000000"
    ),
}

# These rows are for instructions with EVEX.
_EVEX_ROWS: Final = {
    MAP_0F: (
        "0000000000000000"
        "fff3337300000000"
        "0000000033c3cc33"
        "0000000000000000"
        "0000000000000000"
        "0f003333fff7ffff"
        "222222222222222e"
        "e0002220ffee006e"
        "0000000000000000"
        "0000000000000000"
        "0000000000000000"
        "0000000000000000"
        "00f0223000000000"
        "0222222022222222"
        "222222e222222222"
        "0222222022222220"
    ),
    MAP_0F38: (
        "2000200000022200"
        "6666662022222222"
        "6666666666622200"
        "6666662266622222"
        "2022222200002222"
        "22ea220022220000"
        "0022222080000000"
        "22e2022222222222"
        "0002000022220202"
        "2222002222aa2222"
        "2222002222aa2222"
        "0000222222222222"
        "0000200020222202"
        "0000000000002222"
        "0000000000000000"
        "0000000000000000"
    ),
    MAP_0F3A: (
        "2202220032320002"
        "0000222222220222"
        "2222023300000000"
        "0000000022220022"
        "0022200000000000"
        "2200223300000000"
        "0000003300000000"
        "2222000000000000"
        "0000000000000000"
        "0000000000000000"
        "0000000000000000"
        "0000000000000000"
        "0050000000000022"
        "0000000000000000"
        "0000000000000000"
        "0000000000000000"
    ),
    _MAP_EVEX5: (
        "0000000000000000"
        "4400000000000300"
        "0000000000404411"
        "0000000000000000"
        "0000000000000000"
        "0500000055f75555"
        "0000000000000020"
        "0000000077a63f20"
        "0000000000000000"
        "0000000000000000"
        "0000000000000000"
        "0000000000000000"
        "0000000000000000"
        "0000000000000000"
        "0000000000000000"
        "0000000000000000"
    ),
    _MAP_EVEX6: (
        "0000000000000000"
        "0003000000000000"
        "0000000000002200"
        "0000000000000000"
        "0022000000002222"
        "000000cc00000000"
        "0000000000000000"
        "0000000000000000"
        "0000000000000000"
        "0000002222222222"
        "0000002222222222"
        "0000002222222222"
        "0000000000000000"
        "000000cc00000000"
        "0000000000000000"
        "0000000000000000"
    ),
}


def _presence(rows: dict[int, str]) -> dict[int, tuple[int, ...]]:
    absent = (0,) * 256
    maps = (MAP_0F, MAP_0F38, MAP_0F3A, _MAP_EVEX5, _MAP_EVEX6)
    return {
        number: tuple(int(digit, 16) for digit in rows[number]) if number in rows else absent
        for number in maps
    }


LEGACY_PRESENCE: Final = _presence(_LEGACY_ROWS)
VEX_PRESENCE: Final = _presence(_VEX_ROWS)
EVEX_PRESENCE: Final = _presence(_EVEX_ROWS)

# In groups 12 to 14 (0f 71, 72, 73) each /digit has an immediate with these prefixes, and none
# where the instruction does not exist.
GROUP_IMMEDIATES: Final[dict[int, dict[int, int]]] = {
    0x71: {2: 3, 4: 3, 6: 3},
    0x72: {0: 2, 1: 2, 2: 3, 4: 3, 6: 3},
    0x73: {2: 3, 3: 2, 6: 3, 7: 2},
}

# These are the opcodes of groups that exist with VEX or EVEX: the prefixes by map and opcode, and
# then by /digit. The kernel does not tell VEX from EVEX in groups.
GROUP_VEX: Final[dict[tuple[int, int], dict[int, int]]] = {
    (MAP_0F, 0x71): dict.fromkeys((2, 4, 6), 2),
    (MAP_0F, 0x72): dict.fromkeys((0, 1, 2, 4, 6), 2),
    (MAP_0F, 0x73): dict.fromkeys((2, 3, 6, 7), 2),
    (MAP_0F, 0xAE): dict.fromkeys((2, 3), 1),
    (MAP_0F38, 0xC6): dict.fromkeys((1, 2, 5, 6), 2),
    (MAP_0F38, 0xC7): dict.fromkeys((1, 2, 5, 6), 2),
    # BMI1 has one form, so it exists with every prefix.
    (MAP_0F38, 0xF3): dict.fromkeys((1, 2, 3), 15),
}
