"""Jumps, calls, and distances that don't fit."""

from __future__ import annotations

import errno

import pytest

from arch_x86.isa.decode import decode
from arch_x86.isa.encode import RelativeRangeError, call32, jmp32, rel32
from engine.errors import KprobeError

KERNEL = 0xFFFF_FFFF_8100_0000
TOP = (1 << 64) - 16


@pytest.mark.parametrize("source", [0x1000, KERNEL, TOP])
@pytest.mark.parametrize("distance", [0, 5, -16, 0x7FFF_FFFF + 5, -0x8000_0000 + 5])
def test_jumps_lead_where_they_should(source: int, distance: int) -> None:
    target = source + distance & (1 << 64) - 1
    if source == 0x1000 and distance < -0x1000:
        return
    for make in (jmp32, call32):
        insn = decode(make(source, target), source)
        assert insn is not None
        assert insn.target == target
        assert insn.length == 5


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (0x1000, 0x1005 + 0x8000_0000),
        (0x1_0000_0000, 0x1_0000_0004 - 0x8000_0000),
        (0xFFFF_FFFF_0000_0000, 0x1000),
        (0x1000, 0xFFFF_FFFF_0000_0000),
        (0x7FFF_FFFF_FFFF_FFF0, 0x8000_0000_0000_0010),
    ],
)
def test_distances_over_two_gib_are_refused(source: int, target: int) -> None:
    with pytest.raises(RelativeRangeError) as caught:
        jmp32(source, target)
    assert isinstance(caught.value, KprobeError)
    assert caught.value.errno == errno.ERANGE


def test_rel32_counts_from_the_end_of_the_instruction() -> None:
    assert rel32(0x1005, 0x1000) == -5
    assert rel32(TOP, 0x10) == 0x20
