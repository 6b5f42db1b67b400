"""Laws of the way from a trap to its handler and back: steps, faults in copies and stubs, calls
that die in the middle of a hit.
"""

from __future__ import annotations

import pytest

from arch_x86.emu.fault import FaultKind
from arch_x86.lab.bench import Workbench
from arch_x86.lab.jobs import verify_image
from arch_x86.lab.run import ExecOptions, run_image
from arch_x86.lab.verify import Sweep
from engine.core.profiles import LINUX_6_1, LINUX_2010
from engine.kprobe import Kprobe, Method
from engine.syntax.interrupts import EveryPlan
from engine.syntax.kprobe_events import parse_spec
from tests.conftest import BASE, asm_image

PROFILES = (LINUX_2010, LINUX_6_1)


class Probed:
    """A workbench with one probe on f+``offset``, run by ``method``; ``hits`` counts."""

    def __init__(
        self, pool, text: str, offset: int, method: Method, profile=LINUX_2010, pre_handler=None
    ) -> None:
        self.bench = Workbench(asm_image(text, "ret"), pool=pool, profile=profile)
        self.hits = 0
        self.bench.kprobes.kprobes_allow_optimization = method is Method.OPTIMIZED
        post = (lambda p, regs, flags: None) if method is Method.INT3 else None
        self.probe = Kprobe(
            symbol_name="f", offset=offset, pre_handler=pre_handler or self._hit, post_handler=post
        )
        self.bench.kprobes.register_kprobe(self.probe)
        self.bench.kprobes.wait_for_kprobe_optimizer()
        assert self.bench.method(self.probe) is method

    def _hit(self, p, regs) -> int:
        self.hits += 1
        return 0

    def call(self, limit: int = 10_000, interrupts=None):
        self.bench.start_call(0, BASE)
        return self.bench.executor.run_call(0, limit, interrupts)

    @property
    def idle(self) -> bool:
        """No hit is in progress."""
        return self.bench.arch.ctlblk[0].current is None


@pytest.fixture
def probed(pool):
    made = []

    def make(*args, **kwargs) -> Probed:
        made.append(Probed(pool, *args, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.bench.close()


ENDINGS = {
    "syscall": FaultKind.SYSTEM_CALL,
    "sysenter": FaultKind.SYSTEM_CALL,
    "hlt": FaultKind.HALT,
    "int 0x80": FaultKind.SOFTWARE_INTERRUPT,
    "int 0": FaultKind.SOFTWARE_INTERRUPT,
    ".byte 0xcd, 1": FaultKind.SOFTWARE_INTERRUPT,
    ".byte 0xcd, 3": FaultKind.SOFTWARE_INTERRUPT,
    "int 6": FaultKind.SOFTWARE_INTERRUPT,
    "int 8": FaultKind.SOFTWARE_INTERRUPT,
    "int 13": FaultKind.SOFTWARE_INTERRUPT,
    "int 14": FaultKind.SOFTWARE_INTERRUPT,
    "ud2": FaultKind.INVALID_OPCODE,
    "rdtsc": FaultKind.UNSUPPORTED_OPCODE,
    "div ecx": FaultKind.DIVIDE_ERROR,
    "mov eax, [rcx]": FaultKind.UNMAPPED_ACCESS,
}


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
class TestPlaces:
    @pytest.mark.parametrize("insn", ENDINGS)
    def test_what_ends_a_call_in_a_single_step_is_reported_at_the_probed_instruction(
        self, probed, insn, profile
    ):
        run = probed(f"xor ecx, ecx; {insn}; nop; nop; nop; ret", 2, Method.INT3, profile)
        for count in (1, 2):  # the second call finds nothing left over of the first
            fault = run.call()
            assert (fault.kind, fault.place) == (ENDINGS[insn], "f+0x2")
            assert (run.hits, run.probe.nmissed) == (count, 0)
            assert run.idle

    @pytest.mark.parametrize(
        "insn", ["syscall", "hlt", "int 0x80", ".byte 0x66; int 13", "mov eax, [rcx]"]
    )
    def test_what_ends_a_call_in_a_detour_buffer_is_reported_at_the_original(
        self, probed, insn, profile
    ):
        if insn == "mov eax, [rcx]":  # the others may not be copied
            run = probed(f"nop; nop; xor ecx, ecx; {insn}; nop; ret", 2, Method.OPTIMIZED, profile)
            assert run.call().place == "f+0x4"
        else:
            run = probed(f"nop; nop; nop; nop; nop; nop; {insn}; ret", 1, Method.OPTIMIZED, profile)
            assert run.call().place == "f+0x6"
        assert run.hits == 1

    @pytest.mark.parametrize("method", [Method.INT3, Method.BOOSTED, Method.OPTIMIZED])
    def test_a_limit_at_any_boundary_names_the_function_wherever_the_cpu_is(
        self, probed, method, profile
    ):
        run = probed(
            "xor eax, eax; add eax, 1; add eax, 1; add eax, 1; add eax, 1; ret", 2, method, profile
        )
        assert run.call() is None
        length = run.bench.machine.cpus[0].retired
        for interrupts in (None, EveryPlan(7)):
            offsets = []
            # the last instruction is the hlt that the call returns to
            for limit in range(1, length - 1):
                fault = run.call(limit, interrupts)
                assert fault.kind is FaultKind.INSTRUCTION_LIMIT
                assert fault.symbol == "f", (limit, hex(fault.rip))
                offsets.append(fault.offset)
                assert run.idle
            if interrupts is None:
                assert set(offsets) == {2, 5, 8, 11, 14}
                assert offsets == sorted(offsets) or method is Method.OPTIMIZED

    @pytest.mark.parametrize("method", [Method.INT3, Method.BOOSTED, Method.OPTIMIZED])
    def test_a_stack_overflow_in_a_stub_slot_or_detour_names_the_function(
        self, probed, method, profile
    ):
        for pad in range(0, 176, 8):
            run = probed(
                f"sub rsp, {pad:#x}; l: push rax; sub rsp, 0xb8; nop; nop; jmp l",
                7 if pad > 127 else 4,
                method,
                profile,
            )
            fault = run.call(100_000)
            assert (fault.kind, fault.symbol) == (FaultKind.DOUBLE_FAULT, "f")
            assert run.idle
            run.bench.close()


class TestPause:
    @pytest.mark.parametrize(
        "spelling",
        [
            "f3 90",
            "66 f3 90",
            "f3 66 90",
            "f3 48 90",
            "f3 40 90",
            "2e f3 90",
            "f3 41 90",
            "66 90",
            "f3 4f 90",
        ],
    )
    def test_every_spelling_of_pause_steps_like_any_other_instruction(self, spelling):
        raw = ", ".join(f"0x{byte}" for byte in spelling.split())
        image = asm_image(f"mov eax, 5; .byte {raw}; inc eax; mov r8, 3; ret")
        for profile in PROFILES:
            assert verify_image(
                image, "f", sweep=Sweep("boundaries"), options=ExecOptions(profile=profile)
            ).good


def test_vzeroupper_under_6_1_is_taken_for_a_jump_and_is_no_accident(pool):
    result = run_image(
        asm_image("nop; vzeroupper; nop; nop; ret"),
        "f",
        [],
        [parse_spec("f+1")],
        options=ExecOptions(profile=LINUX_6_1),
        pool=pool,
    )
    assert (result.probes[0].method, result.probes[0].hits, result.fault) == (
        Method.EMULATED,
        1,
        None,
    )


class Oops(Exception):
    """What a handler raises here."""


@pytest.mark.parametrize("method", [Method.INT3, Method.BOOSTED, Method.OPTIMIZED])
def test_a_handler_that_raises_ends_the_call_and_leaves_the_machine_usable(probed, method):
    calls = []

    def handler(p, regs) -> int:
        calls.append(p.at)
        if len(calls) % 2:
            raise Oops
        return 0

    run = probed(
        "xor eax, eax; add eax, 1; add eax, 1; add eax, 1; add eax, 1; ret",
        2,
        method,
        pre_handler=handler,
    )
    for _ in range(3):
        with pytest.raises(Oops):
            run.call()
        assert not run.bench.executor.running(0)
        fault = run.bench.machine.tasks[0].fault
        assert (fault.kind, fault.place) == (FaultKind.HANDLER_ERROR, "f+0x2")
        assert "Oops" in fault.explain
        assert run.idle
        assert run.call() is None
        assert run.probe.nmissed == 0
    run.bench.kprobes.unregister_kprobe(run.probe)
    run.bench.kprobes.wait_for_kprobe_optimizer()
    assert run.bench.call("f") == 4


def test_a_handler_that_raises_while_control_code_waits_holds_no_lock(probed):
    def handler(p, regs) -> int:
        raise Oops

    run = probed(
        "nop; nop; add eax, 1; add eax, 1; add eax, 1; ret", 2, Method.BOOSTED, pre_handler=handler
    )
    bench = run.bench
    bench.start_call(0, BASE)
    other = Kprobe(symbol_name="f", offset=0)
    bench.kprobes.register_kprobe(other)
    with pytest.raises(Oops):
        bench.kprobes.unregister_kprobe(other)  # waits until the CPU has left the call
    bench.kprobes.unregister_kprobe(run.probe)
    again = Kprobe(symbol_name="f", offset=5)
    bench.kprobes.register_kprobe(again)
    assert bench.call("f") == 3
