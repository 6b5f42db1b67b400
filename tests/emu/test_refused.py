"""What the emulator runs wrongly, or dies of, is refused: the call ends by a fault that says so,
and the machine goes on.
"""

from __future__ import annotations

import pytest

from arch_x86.emu.fault import FaultKind
from arch_x86.emu.guards import Guards, find_guard
from arch_x86.lab.jobs import verify_image
from arch_x86.lab.verify import parse_sweep
from engine.image import Image, Segment, Symbol
from engine.kprobe import Kprobe
from tests.conftest import BASE, Rig, asm_image
from tests.hardware.records import load

ENDS_THE_PROCESS = {
    "lock bts edx, 1": "f00fbaea01",
    "lock btc ecx, eax": "f00fbbc1",
    "mov dr7, rax": "0f23f8",
}
RUN_WRONGLY = {
    "lahf behind REX": "489f",
    "shld [rip], rcx, 4": "480fa40d0000000004",
    "rorx rax, [rip], 8": "c4e3fbf0050600000008",
    "bzhi of memory from bit 255": "c4e250f503",
    "addss behind 66 and f3": "66f30f58f5",
    "phaddd xmm0, xmm0": "660f3802c0",
    "pabsb mm0, mm1": "0f381cc1",
    "extrq xmm3, xmm4": "660f79dc",
    "cmpxchg ebp, ecx": "0fb1cd",
    "8f /1": "8fc8",
    "xbegin": "c7f800000000",
    "fs behind cs": "2e648b00",
    "in al, dx": "ec",
    "repne and repe scasb": "f2f3ae",
    "a segment prefix behind REX": "4826dbf6",
    "mov cr0, rax": "0f22c0",
    "sysret": "0f07",
}


@pytest.mark.parametrize("name", [*ENDS_THE_PROCESS, *RUN_WRONGLY])
def test_it_is_a_fault_at_its_place_and_the_machine_goes_on(pool, name):
    raw = bytes.fromhex((ENDS_THE_PROCESS | RUN_WRONGLY)[name])
    code = b"\xb8\xff\x00\x00\x00\x48\x89\xe3\x89\xc5" + raw + b"\x90" * 16 + b"\x31\xc0\xc3"
    for symbols in ((Symbol("f", BASE, len(code)),), ()):
        rig = Rig(
            Image(name="refused", segments=(Segment(BASE, code, len(code)),), symbols=symbols), pool
        )
        for _ in range(2):
            rig.executor.begin_call(0, BASE)
            fault = rig.executor.run_call(0, 100)
            assert (fault.kind, fault.rip) == (FaultKind.UNSUPPORTED_OPCODE, BASE + 10)
        rig.executor.begin_call(0, BASE + 10 + len(raw))
        assert rig.executor.run_call(0, 100) is None
        rig.machine.close()


def test_each_one_is_found_in_a_function_of_its_own():
    """The cheap look for bytes that could start one overlooks none of those that the rules
    refuse.
    """
    refused = sorted(
        {record.raw for record in load()[1] if find_guard(record.raw, BASE)[1]}
        | {bytes.fromhex(raw) for raw in RUN_WRONGLY.values()}
    )
    symbols = tuple(Symbol(f"f{at}", BASE + 16 * at, len(raw)) for at, raw in enumerate(refused))
    code = b"".join(raw.ljust(16, b"\xcc") for raw in refused)
    guards = Guards(
        Image(name="refused", segments=(Segment(BASE, code, len(code)),), symbols=symbols)
    )
    found = dict(
        guard
        for page in range(len(code) // 4096 + 1)
        for guard in guards.in_page((BASE >> 12) + page)
    )
    for at, raw in enumerate(refused):  # the kernel's decoder takes some for shorter ones
        assert raw.startswith(found[BASE + 16 * at])


def test_pcmpestrm_takes_a_length_of_0x80000000_for_the_most_there_is(rig):
    r = rig(
        "mov eax, 0x80000000; mov edx, 1; pxor xmm5, xmm5; pxor xmm6, xmm6; "
        "pcmpestrm xmm6, xmm5, 0x41; setc al; movzx eax, al; ret"
    )
    assert r.call() == 1


@pytest.mark.parametrize("symbols", [(Symbol("f", BASE, 18),), ()])
def test_loope_that_ends_by_its_count_leaves_the_flags_alone(pool, symbols):
    """Counted, at full speed, and an instruction at a time: mov ecx, 1; xor eax, eax; cmp al, 0xff;
    loope; setc al; movzx eax, al; ret.
    """
    code = bytes.fromhex("b90100000031c03cffe1fc0f92c00fb6c0c3")
    rig = Rig(Image(name="loop", segments=(Segment(BASE, code, len(code)),), symbols=symbols), pool)
    for run, counted in (
        (lambda: rig.executor.run_call(0, 100), 8),
        (lambda: rig.executor.run_uncounted(0), 0),
        (lambda: [rig.executor.advance(0, 1) for _ in range(8)] and rig.machine.tasks[0].fault, 8),
    ):
        rig.executor.begin_call(0, BASE)
        before = rig.machine.cpus[0].retired
        assert run() is None
        assert not rig.executor.running(0)
        assert (rig.rax(), rig.machine.cpus[0].retired - before) == (1, counted)
    rig.machine.close()


def test_what_the_host_has_executed_is_probed_as_any_other_instruction():
    """Good code with LOOPNE, FUCOMI and PCMPESTRI in it is good under every probe."""
    text = """
    mov ecx, 3; xor eax, eax; fld1; fldz; fucomi st(1); setc al; fstp st(0); fstp st(0)
    again: add eax, 1; cmp eax, 7; loopne again; adc eax, 0; mov edx, 5; pcmpestri xmm0, xmm1, 0
    adc eax, ecx; ret
    """
    result = verify_image(asm_image(text), "f", [], sweep=parse_sweep("boundaries"))
    assert result.failures == ()
    assert result.good


def test_an_unmasked_x87_exception_is_a_fault_of_its_own_kind(rig):
    r = rig(
        "sub rsp, 8; mov dword ptr [rsp], 0x37b; fldcw word ptr [rsp]; fldz; fld1; "
        "fdiv st(0), st(1); fwait; add rsp, 8; ret"
    )
    fault = r.call()
    assert fault.kind is FaultKind.FLOATING_POINT
    assert "`wait`" in fault.explain
    assert r.call(function="f").kind is FaultKind.FLOATING_POINT


def test_a_probe_hit_where_no_stack_is_dies_at_the_probed_instruction(workbench):
    bench = workbench("mov rbx, rsp; mov esp, 0x1000; mov eax, 5; mov rsp, rbx; ret")
    for offset in (8, 13):
        bench.kprobes.register_kprobe(
            probe := Kprobe(symbol_name="f", offset=offset, pre_handler=lambda _p, _regs: 0)
        )
        bench.start_call(0, BASE)
        (fault,) = bench.finish_calls()
        assert (fault.kind, fault.offset) == (FaultKind.DOUBLE_FAULT, offset)
        bench.kprobes.unregister_kprobe(probe)
        bench.kprobes.wait_for_kprobe_optimizer()


def test_what_only_looks_as_if_it_ended_the_process_is_left_alone_off_functions(pool):
    """A displacement of -16 before a bit test has the bytes of LOCK and a bit test."""
    code = (  # lea rsp, [rsp - 16]; bts eax, 2; lea rsp, [rsp + 16]; ret
        b"\x48\x8d\x64\x24\xf0\x0f\xba\xe8\x02\x48\x8d\x64\x24\x10\xc3"
    )
    rig = Rig(Image(name="looks", segments=(Segment(BASE, code, len(code)),), symbols=()), pool)
    rig.executor.begin_call(0, BASE)
    assert rig.executor.run_call(0, 100) is None
    assert rig.rax() == 4
    rig.machine.close()
