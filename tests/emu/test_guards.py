"""What must not reach the emulator traps wherever it stands: in functions, outside of them, across
pages, under and after probes.
"""

from __future__ import annotations

import pytest

from arch_x86.emu.fault import FaultKind
from arch_x86.images.asmtext import load_asm
from engine.image import Image, Segment, Symbol
from engine.kprobe import Kprobe
from tests.conftest import BASE, Rig

PAGE = 4096
GUARDED = {
    "rdtsc": b"\x0f\x31",
    "rdtsc with a prefix": b"\xf2\x0f\x31",
    "rdrand": b"\x0f\xc7\xf0",
    "128-bit AVX": b"\xc5\xf1\xfc\xc2",
}
TAIL = b"\x31\xc0\xc3"  # xor eax, eax; ret


def code_image(code: bytes, *symbols: Symbol) -> Image:
    return Image(name="guards", segments=(Segment(BASE, code, len(code)),), symbols=symbols)


@pytest.fixture
def run(pool):
    """``run(image, addr)``: the fault of a call at an address; with ``poke`` after an int3 was
    written there and taken back.
    """

    def make(image: Image, addr: int, poke: int | None = None):
        r = Rig(image, pool)
        text = r.machine.text
        if poke is not None:
            before = text.read(poke, 1)
            text.write(poke, b"\xcc", reason="test")
            r.executor.begin_call(0, addr)
            assert r.executor.run_call(0, 1000).kind is FaultKind.BREAKPOINT
            text.write(poke, before, reason="test")
        r.executor.begin_call(0, addr)
        fault = r.executor.run_call(0, 1000)
        r.machine.close()
        return fault

    return make


@pytest.mark.parametrize("name", GUARDED)
class TestPlaces:
    def test_without_symbols_behind_the_last_function_and_in_an_unsized_one(self, run, name):
        raw = GUARDED[name]
        for code, symbols, at in (
            (b"\x90" + raw + TAIL, (), BASE + 1),
            (b"\x90" + raw + TAIL, (Symbol("f", BASE, 0),), BASE + 1),
            (b"\xc3" + b"\x90" * 7 + raw + TAIL, (Symbol("f", BASE, 1),), BASE + 8),
        ):
            fault = run(
                code_image(code, *symbols), at - 1 if symbols[:1] != (Symbol("f", BASE, 1),) else at
            )
            assert (fault.kind, fault.rip) == (FaultKind.UNSUPPORTED_OPCODE, at)

    def test_in_assembly_text_without_sizes(self, run, name):
        text = "f: nop\n.byte " + ", ".join(map(hex, GUARDED[name])) + "\nret\n"
        image = load_asm(text, "plain.s", None)
        assert run(image, image.by_name["f"].addr).kind is FaultKind.UNSUPPORTED_OPCODE

    @pytest.mark.parametrize("sized", [False, True])
    def test_across_a_page_end_and_after_a_breakpoint_came_and_went(self, run, name, sized):
        raw = GUARDED[name]
        for cut in range(1, len(raw)):
            code = b"\x90" * (PAGE - cut) + raw + TAIL
            at = BASE + PAGE - cut
            image = code_image(code, *([Symbol("f", BASE, len(code))] if sized else []))
            for poke in (None, at, at - 1):
                fault = run(image, at - 3, poke)
                assert (fault.kind, fault.rip) == (FaultKind.UNSUPPORTED_OPCODE, at), (cut, poke)

    @pytest.mark.parametrize("size", [0, 16])
    def test_a_probe_on_one_hits_first_whether_or_not_the_function_has_a_size(
        self, workbench, name, size
    ):
        code = b"\x90" * 3 + GUARDED[name] + b"\x90" * 8 + TAIL
        bench = workbench(image=code_image(code, Symbol("f", BASE, min(size, len(code)))))
        for offset in (0, 3):
            hits = []
            probe = Kprobe(
                symbol_name="f",
                offset=offset,
                pre_handler=lambda p, regs, hits=hits: hits.append(p.at) and 0,
            )
            bench.kprobes.register_kprobe(probe)
            bench.kprobes.wait_for_kprobe_optimizer()
            bench.start_call(0, BASE)
            (fault,) = bench.finish_calls()
            assert (fault.kind, fault.rip) == (FaultKind.UNSUPPORTED_OPCODE, BASE + 3)
            assert hits == [BASE + offset]
            bench.kprobes.unregister_kprobe(probe)
            bench.kprobes.wait_for_kprobe_optimizer()


def test_text_written_over_one_outside_of_functions_runs_as_what_it_is_now(run, pool):
    r = Rig(code_image(b"\x90" + b"\x0f\x31" + TAIL), pool)
    for code, kind in (
        (b"\x0f\x31", FaultKind.UNSUPPORTED_OPCODE),
        (b"\x66\x90", None),
        (b"\x0f\x31", FaultKind.UNSUPPORTED_OPCODE),
    ):
        r.machine.text.write(BASE + 1, code, reason="test")
        r.executor.begin_call(0, BASE)
        fault = r.executor.run_call(0, 1000)
        assert (fault and fault.kind) == kind
    r.machine.close()
