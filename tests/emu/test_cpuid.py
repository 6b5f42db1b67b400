"""CPUID offers what runs: each feature that it names has an instruction here, which is tried."""

from __future__ import annotations

import pytest

from arch_x86.emu.fault import FaultKind
from engine.kprobe import Kprobe
from tests.conftest import BASE

LEAF_1, LEAF_7, EXTENDED = (1, 0), (7, 0), (0x8000_0001, 0)
EBX, ECX, EDX = 1, 2, 3
SCRATCH = "mov rdi, rsp; sub rsp, 0x300; and rsp, -64;"
TRIED = {
    (LEAF_1, ECX, 0): (
        "addsubps",
        "mov eax, 0x40400000; movd xmm0, eax; addsubps xmm0, xmm0; movd eax, xmm0",
        0,
    ),
    (LEAF_1, ECX, 1): (
        "pclmulqdq",
        "mov eax, 7; movq xmm0, rax; pclmulqdq xmm0, xmm0, 0; movq rax, xmm0",
        0b10101,
    ),
    (LEAF_1, ECX, 9): ("pabsd", "mov eax, -5; movd xmm0, eax; pabsd xmm0, xmm0; movd eax, xmm0", 5),
    (LEAF_1, ECX, 13): (
        "cmpxchg16b",
        (
            "mov qword ptr [rsp], 1; mov qword ptr [rsp + 8], 2; mov eax, 1; mov edx, 2; mov r8,"
            " rbx; mov ebx, 9; xor ecx, ecx; cmpxchg16b xmmword ptr [rsp]; mov rbx, r8; "
            "mov rax, [rsp]"
        ),
        9,
    ),
    (LEAF_1, ECX, 19): (
        "pmulld",
        "mov eax, 70000; movd xmm0, eax; pmulld xmm0, xmm0; movd eax, xmm0",
        70000**2 % (1 << 32),
    ),
    (LEAF_1, ECX, 20): ("crc32", "xor eax, eax; mov ecx, 1; crc32 eax, ecx", 0xDD45AAB8),
    (LEAF_1, ECX, 22): (
        "movbe",
        "mov dword ptr [rsp], 0x11223344; movbe eax, dword ptr [rsp]",
        0x44332211,
    ),
    (LEAF_1, ECX, 23): ("popcnt", "mov eax, 0xf0f1; popcnt eax, eax", 9),
    (LEAF_1, ECX, 25): (
        "aesimc",
        "mov eax, 1; movd xmm0, eax; aesimc xmm0, xmm0; movd eax, xmm0",
        0x0B0D090E,
    ),
    (LEAF_1, EDX, 0): (
        "fild",
        (
            "mov dword ptr [rsp], 40; fild dword ptr [rsp]; fld1; faddp; fistp dword ptr [rsp]; "
            "mov eax, [rsp]"
        ),
        41,
    ),
    (LEAF_1, EDX, 8): (
        "cmpxchg8b",
        (
            "mov dword ptr [rsp], 1; mov dword ptr [rsp + 4], 2; mov eax, 1; mov edx, 2; mov r8,"
            " rbx; mov ebx, 8; xor ecx, ecx; cmpxchg8b qword ptr [rsp]; mov rbx, r8; mov rax, [rsp]"
        ),
        8,
    ),
    (LEAF_1, EDX, 15): ("cmovz", "mov ecx, 3; xor eax, eax; cmovz eax, ecx", 3),
    (LEAF_1, EDX, 19): ("clflush", "mov dword ptr [rsp], 6; clflush [rsp]; mov eax, [rsp]", 6),
    (LEAF_1, EDX, 23): (
        "paddd",
        "mov eax, 4; movd mm0, eax; paddd mm0, mm0; movd eax, mm0; emms",
        8,
    ),
    (LEAF_1, EDX, 24): (
        "fxsave",
        "mov eax, 5; movd xmm0, eax; fxsave [rsp]; pxor xmm0, xmm0; fxrstor [rsp]; movd eax, xmm0",
        5,
    ),
    (LEAF_1, EDX, 25): (
        "addss",
        "mov eax, 0x40400000; movd xmm0, eax; addss xmm0, xmm0; movd eax, xmm0",
        0x40C00000,
    ),
    (LEAF_1, EDX, 26): ("cvtsi2sd", "mov eax, 9; cvtsi2sd xmm0, eax; cvttsd2si eax, xmm0", 9),
    (LEAF_7, EBX, 3): ("blsr", "mov ecx, 12; blsr eax, ecx", 8),
    (LEAF_7, EBX, 8): ("pdep", "mov ecx, 5; mov edx, 0xf00; pdep eax, ecx, edx", 0x500),
    (LEAF_7, EBX, 9): (
        "rep stosb",
        "mov r8, rdi; mov rdi, rsp; mov eax, 7; mov ecx, 4; rep stosb; mov rdi, r8; mov eax, [rsp]",
        0x07070707,
    ),
    (EXTENDED, ECX, 0): ("lahf", "xor eax, eax; lahf; movzx eax, ah", 0x46),
    (EXTENDED, ECX, 5): ("lzcnt", "mov eax, 1; lzcnt eax, eax", 31),
    (EXTENDED, EDX, 29): ("movsxd", "mov eax, -2; movsxd rax, eax; neg rax", 2),
}
"""Leaf and part, register and bit of each feature: one of its instructions, code that needs it, and
what that leaves in RAX.
"""
ASK = "mov eax, edi; mov ecx, esi; mov r8, rbx; cpuid; mov r9, rbx; mov rbx, r8; ret"


def _answer(r, leaf: int, part: int = 0) -> tuple[int, ...]:
    r.call(leaf, part)
    registers = r.machine.cpus[0].registers()
    return registers[0], registers[9], registers[1], registers[2]


def test_each_feature_that_is_offered_has_an_instruction_that_runs_right(rig):
    asked = rig(ASK)
    offered = {
        (leaf, register, bit)
        for leaf in (LEAF_1, LEAF_7, EXTENDED)
        for register in (EBX, ECX, EDX)
        for bit in range(32)
        if (leaf, register) != (LEAF_1, EBX)
        and _answer(asked, *leaf)[register] >> bit & 1  # which is sizes, not features
    }
    assert offered == TRIED.keys()
    for name, text, want in TRIED.values():
        assert (name, rig(f"{SCRATCH} {text}; mov rsp, rdi; ret").call()) == (name, want)


def test_leaves_that_speak_of_what_does_not_run_are_empty(rig):
    r = rig(ASK)
    assert _answer(r, 0)[0] == 7
    for leaf, part in (
        (5, 0),
        (6, 0),
        (7, 1),
        (0xA, 0),
        (0xD, 0),
        (0xD, 1),
        (0x14, 0),
        (0x4000_0000, 0),
        (0x8000_0007, 0),
        (0x8000_000A, 0),
    ):
        assert _answer(r, leaf, part) == (0, 0, 0, 0)


def test_cpuid_is_the_same_counted_uncounted_stepped_and_probed(workbench):
    bench = workbench("mov eax, 1; nop; cpuid; mov eax, ecx; ret", "nop; ret")
    want = bench.call("f")
    bench.start_call(0, BASE)
    assert bench.executor.run_uncounted(0) is None
    assert bench.machine.cpus[0].registers()[0] == want
    for post in (None, lambda *_: None):
        bench.kprobes.register_kprobe(
            probe := Kprobe(symbol_name="f", offset=6, pre_handler=lambda *_: 0, post_handler=post)
        )
        bench.kprobes.wait_for_kprobe_optimizer()
        assert bench.call("f") == want
        bench.kprobes.unregister_kprobe(probe)
        bench.kprobes.wait_for_kprobe_optimizer()


@pytest.mark.parametrize("load", ["ldmxcsr [rsp + 24]", "fxrstor [rsp]"])
def test_a_load_of_mxcsr_is_refused_where_it_asks_for_what_the_emulator_lacks(rig, load):
    for mxcsr, want in (
        (0x1F80, None),
        (0x7F80, None),  # rounding
        (0x9F80, FaultKind.UNSUPPORTED_OPCODE),  # flush to zero
        (0x1FC0, FaultKind.UNSUPPORTED_OPCODE),  # denormals are zero
        (0x1F00, FaultKind.UNSUPPORTED_OPCODE),  # an exception that is not masked
        (0x1_1F80, FaultKind.GENERAL_PROTECTION),  # a reserved bit
    ):
        r = rig(
            f"{SCRATCH} fxsave [rsp]; mov dword ptr [rsp + 24], {mxcsr}; {load}; stmxcsr [rsp]; mov"
            " eax, [rsp]; mov rsp, rdi; ret"
        )
        result = r.call()
        assert (result == mxcsr) if want is None else (result.kind is want), hex(mxcsr)


def test_xrstor_which_cpuid_does_not_offer_does_not_run(rig):
    assert rig(f"{SCRATCH} xor eax, eax; xor edx, edx; xrstor [rsp]; ret").call().kind in (
        FaultKind.INVALID_OPCODE,
        FaultKind.UNSUPPORTED_OPCODE,
    )
