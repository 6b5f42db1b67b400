"""Relocation arithmetic, at and beyond the edges of each field."""

from __future__ import annotations

import pytest

from arch_x86.images.relocs import compute, supported, type_name, width

P = 0x10000000
TOP = 1 << 64


@pytest.mark.parametrize(
    ("kind", "symbol", "addend", "stored"),
    [
        ("R_X86_64_64", 0x1122334455667788, 1, 0x1122334455667789),
        ("R_X86_64_64", 0, -1, TOP - 1),
        ("R_X86_64_PC32", P + 0x100, -4, 0xFC),
        ("R_X86_64_PC32", P, -4, 0xFFFFFFFC),
        ("R_X86_64_PC32", P + 0x7FFFFFFF, 0, 0x7FFFFFFF),
        ("R_X86_64_PC32", P + 0x80000000, 0, None),
        ("R_X86_64_PC32", P - 0x80000000, 0, 0x80000000),
        ("R_X86_64_PC32", P - 0x80000001, 0, None),
        ("R_X86_64_PLT32", P + 5, -4, 1),
        ("R_X86_64_32", 0xFFFFFFFF, 0, 0xFFFFFFFF),
        ("R_X86_64_32", 0xFFFFFFFF, 1, None),
        ("R_X86_64_32", 0, -1, None),
        ("R_X86_64_32S", 0x7FFFFFFF, 0, 0x7FFFFFFF),
        ("R_X86_64_32S", 0x80000000, 0, None),
        ("R_X86_64_32S", 0xFFFFFFFF80000000, 0, 0x80000000),
        ("R_X86_64_32S", 0xFFFFFFFF80000000, -1, None),
        ("R_X86_64_16", 0xFFFF, 0, 0xFFFF),
        ("R_X86_64_16", TOP - 1, 0, 0xFFFF),
        ("R_X86_64_16", 0x10000, 0, None),
        ("R_X86_64_8", 0x80, 0, 0x80),
        ("R_X86_64_PC8", P + 0x7F, 0, 0x7F),
        ("R_X86_64_PC8", P + 0x80, 0, None),
        ("R_X86_64_PC64", P - 8, 0, TOP - 8),
        ("R_X86_64_GLOB_DAT", 0x1234, 99, 0x1234),
        ("R_X86_64_JUMP_SLOT", 0x1234, 99, 0x1234),
        ("R_X86_64_RELATIVE", 0x1000, 0x234, 0x1234),
        ("R_X86_64_GOTPCREL", P + 0x1000, -4, 0xFFC),
        ("R_X86_64_REX_GOTPCRELX", P + 0x1000, -4, 0xFFC),
        ("R_X86_64_GOTPCRELX", P + 0x1000, -4, 0xFFC),
    ],
)
def test_value_or_overflow(kind, symbol, addend, stored):
    number = next(n for n in range(256) if type_name(n) == kind)
    expected = None if stored is None else stored.to_bytes(width(number), "little")
    assert supported(number)
    assert compute(number, symbol, addend, P) == expected


def test_an_unknown_type_is_said_by_number():
    assert not supported(200)
    assert type_name(200) == "R_X86_64 relocation type 200"
