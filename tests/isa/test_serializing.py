"""Serializing instructions, against the mnemonics of capstone and of iced-x86."""

from __future__ import annotations

from itertools import product

import iced_x86
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arch_x86.isa.disasm import disassemble
from arch_x86.isa.opcode_map import LEGACY_PREFIXES
from arch_x86.isa.serializing import is_serializing

NAMED = {
    *("iret", "iretd", "iretq", "cpuid", "serialize", "wrmsr", "rsm"),
    *("lgdt", "lidt", "ltr", "lldt", "invlpg", "wbinvd", "invd"),
    *(f"mov cr{number}" for number in (0, 2, 3, 4)),
    *(f"mov dr{number}" for number in range(8)),
}
EACH = {
    "iretq": "48cf",
    "iretd": "cf",
    "iret, 16 bits": "66cf",
    "cpuid": "0fa2",
    "serialize": "0f01e8",
    "mov cr0, rax": "0f22c0",
    "mov cr2, rax": "0f22d0",
    "mov cr3, r15": "410f22df",
    "mov cr4, rax": "0f22e0",
    "mov cr0, rsp, without the mod bits, which a processor ignores": "0f2204",
    "mov cr0, rax, for 66 cancels the REX prefix": "44660f22c0",
    "mov cr0, rax, for the second REX prefix cancels the first": "44400f22c0",
    "mov dr0, rax": "0f23c0",
    "mov dr7, r9": "410f23f9",
    "wrmsr": "0f30",
    "lgdt [rip+disp32]": "0f011578563412",
    "lidt [rax+rcx*4+8]": "0f015c8808",
    "ltr ax": "0f00d8",
    "ltr word ptr [rax]": "0f0018",
    "lldt ax": "0f00d0",
    "lldt word ptr [rsp]": "0f001424",
    "invlpg [r8]": "410f0138",
    "wbinvd": "0f09",
    "invd": "0f08",
    "rsm": "0faa",
}
NOT = {
    "mov cr8, rax": "440f22c0",
    "mov cr8, rax, for the second REX prefix cancels the first": "40440f22c0",
    "mov rax, cr0": "0f20c0",
    "mov rax, dr0": "0f21c0",
    "mov cr1, rax, which does not exist": "0f22c8",
    "mov cr11, rax, which does not exist": "440f22d8",
    "mov dr8, rax, which does not exist": "440f23c0",
    "lock mov cr0, rax, which AMD defines as mov cr8, rax": "f00f22c0",
    "lock cpuid": "f00fa2",
    "mfence": "0faef0",
    "lfence": "0faee8",
    "sfence": "0faef8",
    "lock add [rax], eax": "f00100",
    "xchg [rax], eax": "8700",
    "jmp": "e900000000",
    "jmp short": "eb00",
    "call": "e800000000",
    "retf": "cb",
    "syscall": "0f05",
    "sysret": "480f07",
    "sysenter": "0f34",
    "sysexit": "480f35",
    "int3": "cc",
    "int 0x80": "cd80",
    "ud2": "0f0b",
    "pause": "f390",
    "hlt": "f4",
    "clflush [rax]": "0fae38",
    "rdmsr": "0f32",
    "rdtscp": "0f01f9",
    "sgdt [rax]": "0f0100",
    "sidt [rax]": "0f0108",
    "lmsw ax": "0f01f0",
    "smsw ax": "0f01e0",
    "swapgs": "0f01f8",
    "vmcall, the form of 0f 01 /0 without memory": "0f01c1",
    "xgetbv, the form of 0f 01 /2 without memory": "0f01d0",
    "xsetbv": "0f01d1",
    "vmrun, the form of 0f 01 /3 without memory": "0f01d8",
    "invlpga": "0f01df",
    "wrmsrns": "0f01c6",
    "wrmsrlist": "f30f01c6",
    "setssbsy, which is serialize behind f3": "f30f01e8",
    "xsusldtrk, which is serialize behind f2": "f20f01e8",
    "serialize behind 66": "660f01e8",
    "wbnoinvd, which is wbinvd behind f3": "f30f09",
    "invept rax, [rbx]": "660f388003",
    "invvpid rax, [rbx]": "660f388103",
    "invpcid rax, [rbx]": "660f388203",
    "clts": "0f06",
    "sldt ax": "0f00c0",
    "str ax": "0f00c8",
    "verr ax": "0f00e0",
    "vgf2p8mulb xmm0, xmm0, xmm0, whose opcode byte is that of iret": "c4e279cfc0",
    "nothing": "",
    "a prefix alone": "66",
    "half of cpuid": "0f",
    "mov cr without ModRM": "0f22",
    "lgdt without its displacement": "0f01157856",
    "cpuid after 14 prefixes, 16 bytes": "2e" * 14 + "0fa2",
    "cpuid behind ud2 and the letters xen": "0f0b78656e0fa2",
}

ONE_BYTE = [bytes((opcode,)) for opcode in range(256)]
TWO_BYTES = [bytes((0x0F, opcode)) for opcode in range(256)]
GROUPS = [bytes((0x0F, opcode, modrm)) for opcode in (0, 1) for modrm in range(256)]
MOVES = [bytes((0x0F, opcode, 0xC0 | n)) for opcode in (0x22, 0x23) for n in range(64)]
MANDATORY = [b"", b"\x66", b"\xf2", b"\xf3"]
REX = [b"", *(bytes((byte,)) for byte in range(0x40, 0x50))]

SERIALIZE = bytes.fromhex(EACH["serialize"])

IGNORED = [bytes((byte,)) for byte in (0x2E, 0x36, 0x3E, 0x26, 0x64, 0x65, 0x67)]
"""Segment overrides and the address size change no instruction of the list into another."""


def whole(start: bytes) -> tuple[bytes, iced_x86.Instruction] | None:
    """The instruction that ``start`` begins, zeros behind it; None where iced-x86 knows none."""
    padded = (start + bytes(15))[:15]
    insn = iced_x86.Decoder(64, padded).decode()
    return None if insn.code == iced_x86.Code.INVALID else (padded[: insn.len], insn)


def named_by_iced(insn: iced_x86.Instruction) -> str:
    """The mnemonic, of MOV to a control or debug register also that register."""
    mnemonic, _, operands = str(insn).partition(" ")
    target = operands.partition(",")[0]
    return f"mov {target}" if mnemonic == "mov" and target[:2] in ("cr", "dr") else mnemonic


def named_by_capstone(raw: bytes) -> str:
    mnemonic, _, operands = disassemble(raw, 0).partition(" ")
    target = operands.partition(",")[0]
    return f"mov {target}" if mnemonic == "mov" and target[:2] in ("cr", "dr") else mnemonic


def encodings() -> list[bytes]:
    """Every opcode of one byte and of two, and each ModRM byte of the groups, behind each of the
    mandatory prefixes and of the REX prefixes.
    """
    opcodes = ONE_BYTE + TWO_BYTES + GROUPS + MOVES
    return [b"".join(parts) for parts in product(MANDATORY, REX, opcodes)]


@pytest.mark.parametrize("code", EACH.values(), ids=EACH.keys())
def test_each_instruction_of_the_list_is_serializing(code: str) -> None:
    assert is_serializing(bytes.fromhex(code))


@pytest.mark.parametrize("code", NOT.values(), ids=NOT.keys())
def test_what_is_not_on_the_list_is_not_serializing(code: str) -> None:
    assert not is_serializing(bytes.fromhex(code))


def test_iced_names_exactly_the_list_for_what_is_serializing() -> None:
    found: set[str] = set()
    for start in encodings():
        reference = whole(start)
        if reference is None:
            assert not is_serializing(start), start.hex()
            continue
        raw, insn = reference
        name = named_by_iced(insn)
        assert is_serializing(raw) == (name in NAMED), f"{raw.hex()}: {insn}"
        if name in NAMED:
            found.add(name)
    assert found == NAMED


def test_capstone_names_exactly_the_list_for_what_is_serializing() -> None:
    found: set[str] = set()
    for start in encodings():
        reference = whole(start)
        if reference is None:
            continue  # capstone reads some encodings that do not exist
        raw, _insn = reference
        name = named_by_capstone(raw)
        if name == ".byte":  # newer than capstone: of the list, SERIALIZE alone
            assert not is_serializing(raw) or raw.endswith(SERIALIZE), raw.hex()
            continue
        assert is_serializing(raw) == (name in NAMED), f"{raw.hex()}: {name}"
        if name in NAMED:
            found.add(name)
    assert found | {"serialize"} == NAMED


@given(st.binary(max_size=20))
def test_any_bytes_get_an_answer(data: bytes) -> None:
    assert is_serializing(data) in (True, False)


PREFIX_BYTES = st.lists(st.sampled_from([*sorted(LEGACY_PREFIXES), *range(0x40, 0x50)]), max_size=6)
LIST_BYTES = st.sampled_from([bytes.fromhex(code) for code in EACH.values()])


@given(PREFIX_BYTES, LIST_BYTES, st.binary(max_size=4))
def test_prefixes_in_any_order_agree_with_iced(
    prefixes: list[int], code: bytes, more: bytes
) -> None:
    reference = iced_x86.Decoder(64, (bytes(prefixes) + code + more)[:15]).decode()
    known = reference.code != iced_x86.Code.INVALID
    serializing = is_serializing(bytes(prefixes) + code + more)
    if serializing:
        assert known
        assert named_by_iced(reference) in NAMED
    elif known and named_by_iced(reference) in NAMED:
        # WBINVD behind both F3 and F2: decoders take the last one, the list takes neither.
        assert {0xF2, 0xF3} <= set(prefixes)
        assert named_by_iced(reference) == "wbinvd"


@given(st.lists(st.sampled_from(IGNORED), max_size=6), st.sampled_from([*EACH.values()]))
def test_a_prefix_that_changes_nothing_changes_no_answer(prefixes: list[bytes], code: str) -> None:
    assert is_serializing(b"".join(prefixes) + bytes.fromhex(code))


@given(LIST_BYTES, st.binary(max_size=16))
def test_bytes_behind_the_instruction_change_no_answer(code: bytes, more: bytes) -> None:
    assert is_serializing(code + more)


@given(LIST_BYTES)
def test_a_cut_instruction_is_not_serializing(code: bytes) -> None:
    assert not any(is_serializing(code[:size]) for size in range(len(code)))
