"""The presence tables, derived again from iced-x86's own list of instructions."""

from __future__ import annotations

from collections import defaultdict

import iced_x86
import pytest
from iced_x86 import CpuidFeature, EncodingKind, MandatoryPrefix, OpCodeTableKind

from arch_x86.isa.opcode_map import (
    EVEX_PRESENCE,
    GROUP_VEX,
    LEGACY_FORMS,
    LEGACY_PRESENCE,
    MAP_0F,
    MAP_0F3A,
    MAP_0F38,
    MAP_ONE_BYTE,
    VEX_PRESENCE,
    Form,
)

# Extensions that iced knows and Linux 6.1's opcode map doesn't.
UNKNOWN = {
    *(
        "AESKLE",
        "WIDE_KL",
        "KL",
        "AVX_IFMA",
        "AVX_NE_CONVERT",
        "AVX_VNNI_INT8",
        "AVX_VNNI_INT16",
        "AMX_COMPLEX",
        "AMX_FP16",
    ),
    *("CMPCCXADD", "RAO_INT", "SHA512", "SM3", "SM4", "SSE4A", "XOP", "TBM", "FMA4", "KNC"),
}
MAPS = {
    OpCodeTableKind.T0F: MAP_0F,
    OpCodeTableKind.T0F38: MAP_0F38,
    OpCodeTableKind.T0F3A: MAP_0F3A,
    OpCodeTableKind.MAP5: 5,
    OpCodeTableKind.MAP6: 6,
}
BITS = {
    MandatoryPrefix.PNP: 1,
    MandatoryPrefix.P66: 2,
    MandatoryPrefix.PF3: 4,
    MandatoryPrefix.PF2: 8,
}
GROUPS = set(GROUP_VEX)
# The kernel's map does not mark these as VEX-only, so its decoder takes them without.
UNMARKED = {
    **{
        (MAP_0F, opcode): 3
        for opcode in (0x41, 0x42, 0x44, 0x45, 0x46, 0x47, 0x4A, 0x4B, 0x90, 0x91, 0x98, 0x99)
    },
    **{(MAP_0F, opcode): 0b1011 for opcode in (0x92, 0x93)},
    **{(MAP_0F38, opcode): 2 for opcode in (0x50, 0x51, 0x52, 0x53)},
    (MAP_0F38, 0x49): 0b1011,
    (MAP_0F38, 0x4B): 0b1010,
    (MAP_0F38, 0x5C): 4,
    (MAP_0F38, 0x5E): 0b1111,
    (MAP_0F3A, 0x4C): 2,
    (MAP_0F3A, 0x08): 3,
    (MAP_0F3A, 0x0A): 3,
}


def _derive() -> dict[str, dict[tuple[int, int], int]]:
    features = {value: name for name, value in vars(CpuidFeature).items() if isinstance(value, int)}
    presence: dict[str, dict[tuple[int, int], int]] = {
        kind: defaultdict(int) for kind in ("legacy", "vex", "evex")
    }
    kinds = {EncodingKind.LEGACY: "legacy", EncodingKind.VEX: "vex", EncodingKind.EVEX: "evex"}
    for code in (value for value in vars(iced_x86.Code).values() if isinstance(value, int)):
        info = iced_x86.OpCodeInfo(code)
        kind = kinds.get(info.encoding)
        if info.table not in MAPS or not info.mode64 or kind is None:
            continue
        instruction = iced_x86.Instruction()
        instruction.code = code
        if UNKNOWN & {features[feature] for feature in instruction.cpuid_features()}:
            continue
        opcode = info.op_code & 0xFF if info.op_code_len == 1 else info.op_code >> 8
        key = MAPS[info.table], opcode
        # An instruction without a mandatory prefix takes 66 as an operand size, and ignores the
        # others.
        presence[kind][key] |= BITS.get(info.mandatory_prefix, 1)
    return presence


@pytest.fixture(scope="module")
def derived() -> dict[str, dict[tuple[int, int], int]]:
    return _derive()


@pytest.mark.parametrize(("kind", "table"), [("vex", VEX_PRESENCE), ("evex", EVEX_PRESENCE)])
def test_vex_presence(
    kind: str, table: dict[int, tuple[int, ...]], derived: dict[str, dict[tuple[int, int], int]]
) -> None:
    for number in MAPS.values():
        for opcode in range(256):
            key = number, opcode
            expected = 0 if key in GROUPS else derived[kind].get(key, 0)
            assert table[number][opcode] == expected, f"map {number} opcode {opcode:02x}"


def test_legacy_presence_of_the_three_byte_maps(
    derived: dict[str, dict[tuple[int, int], int]],
) -> None:
    special = {0xF0: 0b1011, 0xF1: 0b1011}  # MOVBE takes 66 as an operand size
    for number in (MAP_0F38, MAP_0F3A):
        for opcode in range(256):
            key = number, opcode
            expected = derived["legacy"].get(key, 0) | UNMARKED.get(key, 0)
            variants = (expected | derived["vex"].get(key, 0) | derived["evex"].get(key, 0)) & ~1
            if key in GROUPS or (expected == 1 and not variants):
                expected = 15
            if number == MAP_0F38 and opcode in special:
                expected = special[opcode]
            assert LEGACY_PRESENCE[number][opcode] == expected, f"map {number} opcode {opcode:02x}"


def test_legacy_presence_of_the_two_byte_map(
    derived: dict[str, dict[tuple[int, int], int]],
) -> None:
    """SSE and MMX rows by derivation; elsewhere prefixes don't select anything, but for POPCNT and
    the mask-register opcodes.
    """
    sse = [
        *range(0x10, 0x18),
        *range(0x28, 0x30),
        *range(0x50, 0x71),
        *range(0x74, 0x80),
        0xC2,
        0xC4,
        0xC5,
        0xC6,
        *range(0xD0, 0xFF),
    ]
    for opcode in sse:
        key = MAP_0F, opcode
        expected = derived["legacy"].get(key, 0)
        if expected == 1 and not (derived["vex"].get(key, 0) | derived["evex"].get(key, 0)) & ~1:
            expected = 15
        assert LEGACY_PRESENCE[MAP_0F][opcode] == expected, f"{opcode:02x}"
    assert LEGACY_PRESENCE[MAP_0F][0xB8] == 4
    for opcode in range(256):
        if opcode in sse or opcode == 0xB8:
            continue
        assert LEGACY_PRESENCE[MAP_0F][opcode] in (
            0,
            UNMARKED.get((MAP_0F, opcode), 15),
        ), f"{opcode:02x}"


def test_vex_groups(derived: dict[str, dict[tuple[int, int], int]]) -> None:
    for key in GROUPS:
        masks = derived["vex"].get(key, 0) | derived["evex"].get(key, 0)
        union = 0
        for mask in GROUP_VEX[key].values():
            union |= mask
        assert union & masks == masks


def test_one_byte_forms_agree_with_iced() -> None:
    """A ModRM byte or none: wherever iced knows the opcode in 64-bit mode."""
    for opcode in range(256):
        data = bytes([opcode]) + bytes(14)
        instruction = iced_x86.Decoder(64, data).decode()
        if (
            instruction.code == iced_x86.Code.INVALID
            or opcode in (0x0F, 0x62, 0xC4, 0xC5)
            or instruction.len != 1
        ):
            continue
        assert LEGACY_FORMS[MAP_ONE_BYTE][opcode] in (Form.NONE, Form.MODRM)
