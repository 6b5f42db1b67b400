"""``check_alignment``: memory operands of SSE that have to be aligned, and are not, fault as on a
processor.
"""

from __future__ import annotations

import itertools

import pytest
from iced_x86 import Code, Decoder, EncodingKind, MemorySizeInfo, OpKind

from arch_x86.emu.alignment import must_be_aligned
from arch_x86.emu.fault import FaultKind
from arch_x86.emu.machine import MachineConfig
from arch_x86.isa.decode import decode
from arch_x86.isa.insn import NO_QUIRKS
from arch_x86.lab.bench import Workbench
from engine.image import Image, Segment, Symbol
from engine.kprobe import Kprobe
from tests.conftest import BASE, Rig, asm_image
from tests.hardware.compare import Laboratory
from tests.hardware.records import load, load_found

CHECKED = MachineConfig(check_alignment=True)
ON_PURPOSE = ("MOVUPS_", "MOVUPD_", "MOVDQU_", "LDDQU_", "PCMPESTR", "PCMPISTR", "SHA")
MISALIGNED = "sub rsp, 28; movaps xmmword ptr [rsp], xmm0; add rsp, 28; mov eax, 1; ret"


def test_it_is_asked_of_the_operands_that_another_decoder_says_have_16_bytes():
    names = {value: name for name, value in vars(Code).items() if isinstance(value, int)}
    asked, different = 0, set[str]()
    maps = (b"\x0f", b"\x0f\x38", b"\x0f\x3a")
    for escape, prefix, opcode, reg in itertools.product(
        maps, (b"", b"\x66", b"\xf2", b"\xf3"), range(256), (0, 8, 24, 56)
    ):
        raw = prefix + escape + bytes((opcode, 0x40 | reg, 0x10, 0, 0))
        theirs = Decoder(64, raw, ip=BASE).decode()
        ours = decode(raw, BASE, NO_QUIRKS)
        if theirs.code == Code.INVALID or ours is None or theirs.encoding != EncodingKind.LEGACY:
            continue
        memory = any(theirs.op_kind(i) == OpKind.MEMORY for i in range(theirs.op_count))
        name = names[theirs.code]
        want = (
            memory
            and MemorySizeInfo(theirs.memory_size).size == 16
            and not name.startswith(ON_PURPOSE)
        )
        asked += want
        if must_be_aligned(ours) != want:
            different.add(name)
    assert different == set()
    assert asked > 500


def test_the_records_of_a_processor_agree_on_what_faults():
    states, records = load()
    records = (*records, *load_found())
    aligned = [
        record
        for record in records
        if (insn := decode(record.raw, record.ip, NO_QUIRKS)) is not None and must_be_aligned(insn)
    ]
    laboratory = Laboratory(states, check_alignment=True)
    results = [one for one in map(laboratory.run, aligned) if not one.refused]
    assert [
        (one.record.code, one.record.raw.hex())
        for one in results
        if {"alignment", "fault"} & one.kinds
    ] == []
    assert {record.signal for record in aligned} >= {None, 11}
    laboratory.close()


@pytest.mark.parametrize("symbols", [(Symbol("f", BASE, 30),), ()])
def test_a_misaligned_operand_is_a_general_protection_fault_at_its_place(pool, symbols):
    code = asm_image(MISALIGNED).segments[0].data
    image = Image(name="movaps", segments=(Segment(BASE, code, len(code)),), symbols=symbols)
    for config, want in ((CHECKED, FaultKind.GENERAL_PROTECTION), (None, None)):
        rig = Rig(image, pool, config=config)
        for run in (
            lambda rig=rig: rig.executor.run_call(0, 100),
            lambda rig=rig: rig.executor.run_uncounted(0),
        ):
            rig.executor.begin_call(0, BASE)
            fault = run()
            assert (fault and fault.kind) == want
            if fault is not None:
                assert fault.rip == BASE + 4
                assert "not aligned to 16 bytes" in fault.explain
        rig.machine.close()


OPERANDS = {
    "rsp": ("", "[rsp]"),
    "rbp": ("lea rbp, [rsp + 0x20]", "[rbp - 0x20]"),
    "extended base and index": ("lea r13, [rsp - 0x100]; mov r12d, 0x20", "[r13 + r12 * 8]"),
    "index alone": ("lea rcx, [rsp - 16]; shr rcx, 2", "[rcx * 4 + 16]"),
    "narrow": (
        "lea rax, [rsp + 16]; mov rcx, 0xfffffff0; lea rax, [rsp]; xor ecx, ecx",
        "[eax + ecx]",
    ),
    "gs": ("mov rax, gs:[0]; xor eax, eax", "gs:[rax + 0x40]"),
}


@pytest.mark.parametrize("name", OPERANDS)
def test_the_operand_is_where_the_processor_looks_for_it(rig, name):
    """Aligned, it is loaded; a byte further, it faults."""
    before, operand = OPERANDS[name]
    start = f"mov rdi, rsp; and rsp, -16; sub rsp, 64; {before};"
    further = operand.replace("[", "[1 + ")
    r = rig(
        f"{start} movdqa xmm1, xmmword ptr {operand}; mov rsp, rdi; mov eax, 7; ret",
        f"{start} movdqa xmm1, xmmword ptr {further}; mov rsp, rdi; mov eax, 7; ret",
        config=CHECKED,
    )
    assert r.call() == 7
    assert r.call(function="g").kind is FaultKind.GENERAL_PROTECTION
    assert r.call() == 7


def test_a_copy_is_checked_as_the_original_is(pool):
    """In a slot, boosted, and in a detour buffer; the fault is the original's."""
    code = asm_image("mov eax, 7; nop; movaps xmm0, xmmword ptr [rdi]; nop; nop; nop; ret")
    bench = Workbench(code, pool=pool, config=CHECKED)
    for optimize in (False, True):
        for post in (None, lambda *_: None):
            bench.kprobes.kprobes_allow_optimization = optimize
            probe = Kprobe(symbol_name="f", offset=6, pre_handler=lambda *_: 0, post_handler=post)
            bench.kprobes.register_kprobe(probe)
            bench.kprobes.wait_for_kprobe_optimizer()
            for address, want in (
                (bench.machine.layout.gs_base(0), None),
                (bench.machine.layout.gs_base(0) + 8, 6),
            ):
                bench.start_call(0, BASE, (address,))
                faults = bench.finish_calls()
                assert [(fault.kind, fault.offset) for fault in faults] == (
                    [] if want is None else [(FaultKind.GENERAL_PROTECTION, want)]
                )
            bench.kprobes.unregister_kprobe(probe)
            bench.kprobes.wait_for_kprobe_optimizer()
    bench.close()


def test_what_checks_its_own_operand_does_so_in_any_case(rig):
    """CMPXCHG16B, FXSAVE and FXRSTOR."""
    for text in ("cmpxchg16b xmmword ptr [rsp + 8]", "fxsave [rsp + 8]", "fxrstor [rsp + 8]"):
        r = rig(f"mov rdi, rsp; sub rsp, 0x300; and rsp, -16; {text}; mov rsp, rdi; ret")
        assert r.call().kind is FaultKind.GENERAL_PROTECTION
