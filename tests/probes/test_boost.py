"""Which instructions may run without a trap behind their copy."""

from __future__ import annotations

import iced_x86
import pytest
from iced_x86 import CpuidFeature, EncodingKind, OpCodeTableKind

from arch_x86.isa.decode import decode
from arch_x86.probes.boost import can_boost, fits_jump_back, is_boostable
from engine.image import ExceptionEntry
from tests.probes.images import BASE, cache_of


@pytest.mark.parametrize(
    ("code", "boostable"),
    [
        ("90", True),  # nop
        ("4889e5", True),  # mov rbp, rsp
        ("e8fbffffff", False),  # call rel32
        ("ebfe", False),  # jmp rel8
        ("7410", False),  # je
        ("e2fe", False),  # loop
        ("c3", True),  # ret: leaves by itself
        ("cf", True),  # iret: the same
        ("cc", False),
        ("cd80", False),
        ("f4", False),  # hlt
        ("d3e0", False),  # shl eax, cl: a group
        ("f7d8", False),  # neg eax: a group
        ("fec0", False),  # inc al
        ("ffc0", False),  # inc eax
        ("ffd0", False),  # call rax
        ("ffe0", True),  # jmp rax
        ("ff20", True),  # jmp [rax]
        ("ff28", False),  # jmp far [rax]
        ("83c001", True),  # add eax, 1: a group, too, but in
        ("c6000f", True),  # mov byte ptr [rax], 15
        ("d8c0", False),  # x87
        ("f3a4", True),  # rep movsb
        ("f00108", True),  # lock add
        ("2e90", False),  # CS override
        ("6790", False),  # address size
        ("660f1f440000", True),  # two-byte opcodes don't look at prefixes
        ("2e0f1f4000", True),
        ("0fa2", False),  # cpuid
        ("0f31", True),  # rdtsc
        ("0f0b", False),  # ud2
        ("0f10c8", False),  # movups
        ("0ffec1", True),  # paddd mm0, mm1
        ("0fd4c1", False),  # paddq came with SSE2
        ("0f38f0c8", False),  # three-byte opcodes are out
        ("660f3a0fc104", False),
        ("c5fc58c1", True),  # vaddps, taken for 58
        ("c5f877", False),  # vzeroupper, taken for 77
        ("62f17c4810c8", True),
    ],
)
def test_can_boost(code: str, boostable: bool) -> None:
    insn = decode(bytes.fromhex(code), BASE)
    assert insn is not None
    assert can_boost(insn) is boostable
    assert not can_boost(insn, in_exception_table=True)


def test_the_slot_must_have_room_for_the_jump() -> None:
    ten = bytes.fromhex("662e0f1f840000000000")
    eleven = bytes.fromhex("66662e0f1f840000000000")
    for code, fits in ((ten, True), (eleven, False)):
        insn = decode(code, BASE)
        assert insn is not None
        assert can_boost(insn)
        assert fits_jump_back(insn) is fits
        assert is_boostable(cache_of(code), BASE) is fits


def test_never_with_preemption_nor_where_a_fault_is_expected() -> None:
    assert is_boostable(cache_of(b"\x90"), BASE)
    assert not is_boostable(cache_of(b"\x90", preemption=True), BASE)
    assert not is_boostable(cache_of(b"\x8b\x00", exception_table=(ExceptionEntry(BASE),)), BASE)


def test_all_of_mmx_and_none_of_sse() -> None:
    """By iced's feature lists: two-byte opcodes outside of groups that came with MMX are in, those
    of SSE and later are out.
    """
    opcodes: dict[int, set[int]] = {}
    for code in (value for value in vars(iced_x86.Code).values() if isinstance(value, int)):
        info = iced_x86.OpCodeInfo(code)
        if (
            info.table == OpCodeTableKind.T0F
            and info.encoding == EncodingKind.LEGACY
            and not info.is_group
            and info.op_code_len == 1
        ):
            instruction = iced_x86.Instruction()
            instruction.code = code
            opcodes.setdefault(info.op_code, set()).update(instruction.cpuid_features())
    late = {CpuidFeature.SSE, CpuidFeature.SSE2, CpuidFeature.SSE3}
    for opcode, features in opcodes.items():
        insn = decode(bytes([0x0F, opcode]) + bytes(13), BASE)
        assert insn is not None
        if opcode == 0xD4:  # PADDQ mm came with SSE2 (SDM); iced counts it as MMX
            continue
        if CpuidFeature.MMX in features and not features & late:
            assert can_boost(insn), f"0f {opcode:02x}"
        elif features <= late:
            assert not can_boost(insn), f"0f {opcode:02x}"
