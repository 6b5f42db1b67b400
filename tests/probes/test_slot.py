"""Single-step slots."""

from __future__ import annotations

import errno

import pytest

from arch_x86.isa.decode import decode
from arch_x86.isa.encode import RelativeRangeError
from arch_x86.probes.slot import SLOT_SIZE, build_slot, fits_slot
from engine.errors import KprobeError
from tests.probes.images import BASE

SLOT = BASE + 0x10_0000


@pytest.mark.parametrize(
    ("code", "boostable", "slot"),
    [
        ("90", True, "90e9fbffefff"),  # nop; jmp back
        ("90", False, "90cc"),
        ("8b0500000000", True, "8b050000f0ffe9fbffefff"),  # mov eax, [rip]
        # 10 bytes: the jump just fits
        ("662e0f1f840000000000", True, "662e0f1f840000000000e9fbffefff"),
        ("66662e0f1f840000000000", True, "66662e0f1f840000000000cc"),  # 11: it does not
        ("6666666666662e0f1f840000000000", True, None),  # 15: not even INT3
    ],
)
def test_build_slot(code: str, boostable: bool, slot: str | None) -> None:
    insn = decode(bytes.fromhex(code), BASE)
    assert insn is not None
    assert fits_slot(insn) is (slot is not None)
    if slot is None:
        with pytest.raises(KprobeError) as caught:
            build_slot(insn, SLOT, boostable)
        assert caught.value.errno == errno.ENOSPC
        return
    built = build_slot(insn, SLOT, boostable)
    assert built.hex() == slot
    assert len(built) <= SLOT_SIZE
    jump = decode(built[insn.length :], SLOT + insn.length)
    assert jump is not None
    assert jump.raw == b"\xcc" or jump.target == insn.end


def test_slots_out_of_reach_are_refused() -> None:
    nop, load = decode(b"\x90", BASE), decode(bytes.fromhex("8b0500000000"), BASE)
    assert nop is not None
    assert load is not None
    far = BASE - (1 << 32)
    assert build_slot(nop, far, False) == b"\x90\xcc"
    for insn, boostable in ((nop, True), (load, False)):
        with pytest.raises(RelativeRangeError):
            build_slot(insn, far, boostable)
