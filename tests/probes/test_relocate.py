"""Copies: verbatim but for RIP-relative displacements."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from arch_x86.isa.constants import ADDRESS_MASK
from arch_x86.isa.decode import decode
from arch_x86.isa.encode import RelativeRangeError
from arch_x86.isa.insn import NO_QUIRKS
from arch_x86.probes.relocate import CopyRefusal, copy_instruction, copy_instructions, copy_refusal
from tests.probes.images import BASE


@pytest.mark.parametrize(
    ("code", "distance", "copy"),
    [
        ("4889e5", 0x1000, "4889e5"),  # mov rbp, rsp: as it is
        ("e800000000", 0x1000, "e800000000"),  # call: emulated, so the copy does not matter
        ("8b0544332211", 0x1000, "8b0544232211"),  # mov eax, [rip+..]
        ("488d0d00000000", -0x10, "488d0d10000000"),  # lea rcx, [rip]
        # mov dword ptr [rip], imm32: the displacement is not last
        ("c7050000000088776655", 1, "c705ffffffff88776655"),
        ("62f17c08100d00000000", 1, "62f17c08100dffffffff"),  # vmovups xmm1, [rip]
        # add rax, gs:[rip]: segment bases count on top
        ("6548030500000000", 2, "65480305feffffff"),
        ("8b042544332211", 0x1000, "8b042544332211"),  # mov eax, [disp32]: absolute
        ("488b05ffffff7f", -0x10, None),  # too far
        ("488b0500000080", 1, None),
    ],
)
def test_copy_instruction(code: str, distance: int, copy: str | None) -> None:
    insn = decode(bytes.fromhex(code), BASE)
    assert insn is not None
    if copy is None:
        with pytest.raises(RelativeRangeError):
            copy_instruction(insn, BASE + distance)
    else:
        assert copy_instruction(insn, BASE + distance).hex() == copy


@given(st.binary(min_size=1, max_size=15), st.integers(-(1 << 33), 1 << 33))
def test_a_copy_means_the_same_operand(data: bytes, distance: int) -> None:
    insn = decode(data, BASE)
    assume(insn is not None)
    assert insn is not None
    to = BASE + distance
    try:
        copy = copy_instruction(insn, to)
    except RelativeRangeError:
        assert insn.rip_relative
        assert not -(1 << 31) <= insn.displacement - distance < 1 << 31
        return
    again = decode(copy, to)
    assert again is not None
    assert again.length == insn.length
    assert again.memory_address == insn.memory_address
    differing = [at for at in range(insn.length) if copy[at] != insn.raw[at]]
    assert all(insn.disp_offset <= at < insn.disp_offset + 4 for at in differing)


def test_copies_one_behind_the_other() -> None:
    first, second = decode(b"\x90", BASE), decode(bytes.fromhex("8b0500000000"), BASE + 1)
    assert first is not None
    assert second is not None
    copies = copy_instructions((first, second), BASE + 0x100)
    assert copies.hex() == "908b0500ffffff"
    again = decode(copies[1:], BASE + 0x101)
    assert again is not None
    assert again.memory_address == (BASE + 7) & ADDRESS_MASK


@pytest.mark.parametrize(
    ("code", "refusal"),
    [
        ("cc", CopyRefusal.BREAKPOINT),
        ("f3cc", CopyRefusal.BREAKPOINT),
        ("cd03", None),  # int 3, two bytes
        ("8ed0", CopyRefusal.STACK_SEGMENT),  # mov ss, ax
        ("8e10", CopyRefusal.STACK_SEGMENT),  # mov ss, [rax]
        ("8ed8", None),  # mov ds, ax
        ("1f", CopyRefusal.STACK_SEGMENT),  # pop ds, which 6.1 takes for pop ss
        ("0f0b78656e90", CopyRefusal.FORCED_EMULATION),
        ("0f0b", None),
    ],
)
def test_copy_refusal(code: str, refusal: CopyRefusal | None) -> None:
    insn = decode(bytes.fromhex(code), BASE)
    assert insn is not None
    assert copy_refusal(insn) is refusal


def test_the_control_register_quirk_spoils_what_follows() -> None:
    """mov rbp, dr1 with mod 0 is 3 bytes to hardware; 6.1 corrects a displacement that isn't
    one.
    """
    code = bytes.fromhex("0f210d90909090")
    kernel, hardware = decode(code, BASE), decode(code, BASE, NO_QUIRKS)
    assert kernel is not None
    assert hardware is not None
    assert copy_instruction(kernel, BASE + 0x1000)[:3] == code[:3]
    assert copy_instruction(kernel, BASE + 0x1000) != code
    assert copy_instruction(hardware, BASE + 0x1000) == code[:3]
