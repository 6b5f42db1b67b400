"""Decoding: fields, odd encodings, and any bytes at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arch_x86.isa.constants import MAX_INSN_SIZE
from arch_x86.isa.decode import decode, decode_length
from arch_x86.isa.insn import NO_QUIRKS, Branch

ADDR = 0x40_1000


@pytest.mark.parametrize(
    ("code", "length"),
    [
        ("90", 1),  # nop
        ("4889e5", 3),  # mov rbp, rsp
        ("48b88877665544332211", 10),  # movabs rax, 0x1122334455667788
        ("66b83412", 4),  # mov ax, 0x1234
        ("6648b88877665544332211", 11),  # REX.W wins over 66
        ("48c7c078563412", 7),  # mov rax, 0x12345678: the immediate stays 32 bits
        ("66c7003412", 5),  # mov word ptr [rax], 0x1234
        ("48a18877665544332211", 10),  # movabs rax, [0x1122334455667788]
        ("67a144332211", 6),  # mov eax, [0x11223344]
        ("c8080001", 4),  # enter 8, 1
        ("f6c001", 3),  # test al, 1
        ("f6c801", 3),  # test al, 1: the other encoding
        ("f6d0", 2),  # not al
        ("f7c044332211", 6),  # test eax, imm32
        ("66f7c02211", 5),  # test ax, imm16
        ("66683412", 4),  # push 0x1234, 16 bits
        ("66e844332211", 6),  # call: Intel ignores 66
        ("8b0424", 3),  # mov eax, [rsp]
        ("8b042544332211", 7),  # mov eax, [0x11223344]: SIB without base
        ("8b442408", 4),  # mov eax, [rsp+8]
        ("8b842444332211", 7),  # mov eax, [rsp+disp32]
        ("8b0544332211", 6),  # mov eax, [rip+disp32]
        ("0f1f840000000000", 8),  # nop
        ("0fbae003", 4),  # bt eax, 3
        ("660f72d003", 5),  # psrld xmm0, 3
        ("660f73f803", 5),  # pslldq xmm0, 3
        ("0f0fc090", 4),  # 3DNow!
        ("660f3a0fc104", 6),  # palignr xmm0, xmm1, 4
        ("f20f38f1c8", 5),  # crc32 ecx, eax
        ("c5f877", 3),  # vzeroupper
        ("c5f9efc0", 4),  # vpxor xmm0, xmm0, xmm0
        ("c4e37d06c101", 6),  # vperm2f128 ymm0, ymm0, ymm1, 1
        ("c5f972d003", 5),  # vpsrld xmm0, xmm0, 3
        ("c4e278f3d9", 5),  # blsi eax, ecx
        ("62f17c4810c8", 6),  # vmovups zmm1, zmm0
        ("62f17c48104801", 7),  # vmovups zmm1, [rax+64]: disp8 is scaled, and a byte
        ("62f67d4896c0", 6),  # vfmaddsub132ph zmm0, zmm0, zmm0: EVEX map 6
        ("9a443322118877", 7),  # call far: not in 64-bit mode, but it has a length
        ("66ea33228877", 6),  # jmp far 16:16
        ("06", 1),  # push es: the same
        ("82c001", 3),  # add al, 1: the same
        ("0f04", 2),  # nothing, taken for an opcode without operands
        ("0f38c1", 3),  # nothing in the 0f38 map
        ("26263636", None),  # prefixes only
        ("0f0b", 2),  # ud2
        ("0f0b78656e0fa2", 7),  # ud2 "xen" cpuid: one instruction to the kernel
        ("0f0b6b766d90", 6),  # ud2 "kvm" nop
    ],
)
def test_lengths(code: str, length: int | None) -> None:
    assert decode_length(bytes.fromhex(code)) == length
    assert decode_length(bytes.fromhex(code) + bytes(8)) == (length or 6)


@pytest.mark.parametrize(
    "code",
    [
        "660f380c08",  # vpermilps needs VEX
        "0f38f2c8",  # andn needs VEX
        "66660f3a00c001",  # vpermq needs VEX
        "f20f78c00102",  # insertq: the kernel knows only vcvttsd2usi here
        "c4e378f0c801",  # rorx needs F2
        "c5f80fc0",  # no such opcode
        "c4e7f9f7c8",  # map 7
        "c5f871d003",  # vpsrlw needs 66
        "48ea4433221188776655",  # a far pointer has no 64-bit offset
    ],
)
def test_refused_encodings(code: str) -> None:
    assert decode(bytes.fromhex(code) + bytes(8), ADDR) is None


@pytest.mark.parametrize(
    ("code", "branch", "target"),
    [
        ("eb10", Branch.JMP, ADDR + 0x12),
        ("ebfe", Branch.JMP, ADDR),
        ("e9fbffffff", Branch.JMP, ADDR),
        ("66e900000000", Branch.JMP, ADDR + 6),
        ("7410", Branch.JCC, ADDR + 0x12),
        ("0f84fcffffff", Branch.JCC, ADDR + 2),
        ("e8fbffffff", Branch.CALL, ADDR),
        ("e2fe", Branch.LOOP, ADDR),
        ("67e3fd", Branch.LOOP, ADDR),  # jecxz
        ("c7f800000000", Branch.XBEGIN, ADDR + 6),
        ("c3", Branch.RET, None),
        ("c20800", Branch.RET, None),
        ("cb", Branch.RET_FAR, None),
        ("48cf", Branch.IRET, None),
        ("cc", Branch.INT, None),
        ("cd80", Branch.INT, None),
        ("0f0b", Branch.INT, None),
        ("0f05", Branch.SYSCALL, None),
        ("480f07", Branch.SYSRET, None),
        ("ffd0", Branch.CALL_INDIRECT_REG, None),
        ("ff10", Branch.CALL_INDIRECT_MEM, None),
        ("41ffe3", Branch.JMP_INDIRECT_REG, None),
        ("ff24c544332211", Branch.JMP_INDIRECT_MEM, None),  # jmp [rax*8+table]
        ("ff18", Branch.CALL_FAR, None),
        ("ff28", Branch.JMP_FAR, None),
        ("ff30", Branch.NONE, None),  # push [rax]
        ("c5f877", Branch.NONE, None),  # vzeroupper: 77 is no ja here
    ],
)
def test_branches(code: str, branch: Branch, target: int | None) -> None:
    insn = decode(bytes.fromhex(code), ADDR)
    assert insn is not None
    assert (insn.branch, insn.target) == (branch, target)


def test_branch_targets_wrap_at_the_end_of_the_address_space() -> None:
    insn = decode(bytes.fromhex("eb10"), (1 << 64) - 4)
    assert insn is not None
    assert insn.target == 0xE


def test_fields() -> None:
    # lock add dword ptr fs:[rip + 0x11223344], 0x55667788
    insn = decode(bytes.fromhex("f064 81 05 44332211 88776655"), ADDR)
    assert insn is not None
    assert (insn.prefixes, insn.rex, insn.opcode, insn.modrm) == (b"\xf0\x64", 0, b"\x81", 5)
    assert (insn.disp_offset, insn.disp_size, insn.displacement) == (4, 4, 0x11223344)
    assert (insn.imm_offset, insn.imm_size, insn.immediate) == (8, 4, 0x55667788)
    assert insn.rip_relative
    assert insn.memory_address == ADDR + 12 + 0x11223344
    assert (insn.mod, insn.reg, insn.rm, insn.end) == (0, 0, 5, ADDR + 12)


def test_text_comes_from_capstone_or_is_bytes() -> None:
    texts = {
        "4889e5": "mov rbp, rsp",
        "90": "nop",
        "0f04": ".byte 0x0f, 0x04",
        "f20f44c8": ".byte 0xf2, 0x0f, 0x44",
        "eb10": "jmp 0x401012",
    }
    for code, text in texts.items():
        insn = decode(bytes.fromhex(code), ADDR)
        assert insn is not None
        assert insn.text == text


@pytest.mark.parametrize(
    ("code", "kernel", "hardware"),
    [
        ("f20f44c8", 3, 4),  # cmove behind a prefix that selects no form
        ("66f30f44c8", 4, 5),  # the last prefix decides
        ("f3660f44c8", 5, 5),
        ("f32e0f44c8", 5, 5),  # and it must be a mandatory one
        ("f30f95c0", 4, 4),  # setne has no mask-register form
        ("f30f90c0", 3, 4),  # seto has
        ("0f210d00000000", 7, 3),  # mov rbp, dr1: mod is ignored
        ("0f200424", 4, 3),
    ],
)
def test_quirks(code: str, kernel: int, hardware: int) -> None:
    assert decode_length(bytes.fromhex(code)) == kernel
    assert decode_length(bytes.fromhex(code), NO_QUIRKS) == hardware


def test_prefix_runs() -> None:
    for prefix in (0x66, 0xF2, 0x2E):
        run = bytes([prefix]) * 14
        assert decode_length(run + b"\x90") == 15
        assert decode_length(run + bytes([prefix]) + b"\x90") is None
        assert decode_length(bytes([prefix]) * 4096) is None
    # the fifth distinct prefix passes for an opcode
    assert decode_length(b"\x26\x2e\x36\x3e\x64\x90") == 5
    assert decode_length(b"\x26\x2e\x36\x3e\x3e\x90") == 6


@given(st.binary(max_size=24), st.integers(0, (1 << 64) - 1))
def test_any_bytes_give_an_answer(data: bytes, addr: int) -> None:
    insn = decode(data, addr)
    if insn is None:
        return
    assert 1 <= insn.length <= min(len(data), MAX_INSN_SIZE)
    assert insn.raw == data[: insn.length]
    assert insn.disp_offset + insn.disp_size <= insn.length
    assert insn.imm_offset + insn.imm_size <= insn.length
    assert (
        insn.prefixes + bytes([insn.rex] if insn.rex else b"")
        == insn.raw[5 * insn.forced_emulation :][: len(insn.prefixes) + bool(insn.rex)]
    )
    assert decode(insn.raw, addr) == insn  # nothing behind the end matters
    assert all(
        decode(insn.raw[:cut], addr) is None or cut in (2, 5)
        for cut in range(insn.length)
        if not insn.forced_emulation
    )
    assert insn.text
