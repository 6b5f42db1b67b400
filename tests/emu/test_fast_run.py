"""Laws of runs by blocks and of hits that are answered inside: nobody can tell them from others."""

from __future__ import annotations

import mmap
import signal
import threading
from copy import copy
from pathlib import Path
from random import Random

import pytest

from arch_x86.emu import host_code
from arch_x86.emu.fast_instance import FastInstance
from arch_x86.emu.fault import FaultKind
from arch_x86.emu.host_code import HostCode, block_key, block_of
from arch_x86.emu.machine import new_pool
from arch_x86.emu.sigint import interruptible
from arch_x86.emu.uc import UcInstance
from arch_x86.images import load_image
from arch_x86.isa.assemble import assemble
from arch_x86.lab.bench import Workbench
from arch_x86.lab.run import ExecOptions, run_image
from arch_x86.probes.ptregs import PtRegs
from engine.core.profiles import LINUX_6_1, LINUX_2010, NEXT
from engine.errors import EngineBug
from engine.syntax.arguments import parse_argument
from engine.syntax.interrupts import EveryPlan
from engine.syntax.kprobe_events import parse_spec
from tests.conftest import BASE, asm_image
from tests.emu.fast_twins import Program, Twin
from tests.engine.handlers import METHODS, put
from workloads.reference import cases

ELF = Path(__file__).resolve().parents[2] / "workloads" / "elf"
_ANSWER = (
    "mov rbp, rdi; mov qword ptr [rbx + 56], rsi; and qword ptr [rbx + 48], 0;"
    "mov rsi, qword ptr [rbx]; mov rdx, qword ptr [rbx + 8]; mov ecx, dword ptr [rbx + 16];"
    "call qword ptr [rbx + 64]; call qword ptr [rbx + 24]; mov ecx, dword ptr [rbx + 48];"
    "test ecx, ecx; je done; mov rdi, rbp; mov rsi, qword ptr [rbx + 32];"
    "mov rdx, qword ptr [rbx + 40]; call qword ptr [rbx + 72];"
    "done: pop rcx; pop rbp; pop rbx; ret"
)
LISTINGS = {
    "_BLOCK": "mov eax, edx; shl rax, 48; xor rax, rsi; imul r8, rax, 0x3779b97f; shr r8, 12;"
    "and r8d, 0xffff0; add r8, qword ptr [rcx + 32]; cmp qword ptr [r8], rax; jne missed;"
    "mov rdx, qword ptr [rcx]; sub rdx, qword ptr [r8 + 8]; jb stop; mov qword ptr [rcx], rdx;"
    "mov qword ptr [rcx + 16], rax; ret; stop: inc qword ptr [rcx + 24];"
    "jmp qword ptr [rcx + 56]; missed: jmp qword ptr [rcx + 48]",
    "_EXCEPTION": f"push rbx; push rbp; push rax; mov rbx, rdx; {_ANSWER}",
    "_HYPERCALL": f"push rbx; push rbp; push rax; mov rbx, rcx; {_ANSWER}",
}
PROFILES = (LINUX_2010, LINUX_6_1, NEXT)
LOOP = "mov ecx, edi; l: nop; nop; nop; nop; nop; add rax, rcx; dec ecx; jnz l; ret"
SITE = 2  # behind the mov, where a jump has room


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run fast from the first instruction of a call, however short it is."""
    for name, value in (("_COLD", 0), ("_LEAST", 1), ("_POOR", 0), ("_WAIT_MIN", 1)):
        monkeypatch.setattr(f"arch_x86.emu.fast_run.{name}", value)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often each kind of instance was run."""
    counts = {"usual": 0, "fast": 0}
    usual, fast = UcInstance.start, FastInstance.run

    def start(self, count, *, goes_on=False):
        counts["usual"] += 1
        return usual(self, count, goes_on=goes_on)

    def run(self, count, begun, done):
        counts["fast"] += 1
        return fast(self, count, begun, done)

    monkeypatch.setattr(UcInstance, "start", start)
    monkeypatch.setattr(FastInstance, "run", run)
    return counts


@pytest.mark.usefixtures("always")
class TestTwins:
    @pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
    @pytest.mark.parametrize("number", range(12))
    def test_a_random_program_with_random_handlers_runs_as_in_the_usual_way(
        self, pool, runs, profile, number
    ):
        random = Random(f"{profile.name} {number}")
        program = Program(random, turns=40, faults=number % 4 == 3, red_zone=number % 3 == 0)
        twins = [
            Twin(program, f"handlers {number}", pool, profile, fast=fast) for fast in (True, False)
        ]
        try:
            for _ in range(2):
                for twin in twins:
                    twin.begin()
                while twins[0].running or twins[1].running:
                    budget = random.choice((1, 7, 100, 1000, 100_000))
                    for twin in twins:
                        twin.advance(budget)
                    one, other = (twin.state() for twin in twins)
                    assert [key for key in one if one[key] != other[key]] == []
            assert runs["fast"] > 2
        finally:
            for twin in twins:
                twin.close()

    @pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
    def test_a_call_of_each_shipped_image_with_probes_runs_as_in_the_usual_way(
        self, pool, monkeypatch, profile
    ):
        """The shortest call with each image, and a probe at the entry of each function."""
        found = {}
        for case in cases():
            found.setdefault(case.image, case)
        for name, case in found.items():
            image = load_image(ELF / name)
            probes = [
                parse_spec(f"p {symbol.name}")
                for symbol in image.functions[:12]
                if image.by_name.get(symbol.name) is symbol and "@" not in symbol.name
            ]
            results = []
            for fast in (True, False):
                with monkeypatch.context() as patch:
                    if not fast:
                        patch.setattr("arch_x86.emu.fast_run._LEAST", 1 << 60)
                    results.append(_run(image, case, probes, profile, pool))
            assert results[0] == results[1], name

    @pytest.mark.parametrize("method", METHODS)
    def test_registers_that_a_handler_keeps_stay_as_they_were(self, workbench, method):
        bench, kept = workbench(LOOP), []
        put(bench, method, symbol_name="f", offset=SITE, pre_handler=lambda _, r: kept.append(r))
        bench.call("f", 50)
        assert [r.cx for r in kept] == list(range(50, 0, -1))
        assert [copy(r).cx for r in kept] == [r.cx for r in kept]
        assert {type(copy(r)) for r in kept} == {PtRegs}

    def test_what_was_known_of_text_is_forgotten_with_it(self, rig):
        """Five no-ops become one instruction of five bytes, and the block has as many bytes."""
        r = rig("l: nop; nop; nop; nop; nop; dec edi; jnz l; ret")
        counts = []
        for data in (b"\x90" * 5, b"\xb8\1\0\0\0"):
            r.machine.text.write(BASE, data, reason="test")
            before = r.machine.cpus[0].retired
            r.call(100)
            counts.append(r.machine.cpus[0].retired - before)
        assert counts == [100 * 7 + 2, 100 * 3 + 2]

    @pytest.mark.parametrize("pushed", range(0, 8, 2))
    def test_flags_are_the_same_at_each_boundary_behind_a_handler_that_looks(
        self, workbench, pushed
    ):
        """What a detour buffer's AND leaves in PF depends on the stack pointer."""
        seen = []
        for fast in (True, False):
            bench = workbench(
                "push rdi; " * pushed + LOOP.replace("ret", "pop rdi; " * pushed + "ret")
            )
            cpu = bench.machine.cpus[0]
            if not fast:
                cpu.fast = None
            put(
                bench,
                "jump",
                symbol_name="f",
                offset=SITE + pushed,
                pre_handler=lambda *_, cpu=cpu: cpu.registers() and 0,
            )
            bench.start_call(0, BASE, (20,))
            states = []
            while bench.executor.running(0):
                bench.executor.advance(0, 1 if len(states) % 3 else 60)
                states.append(cpu.registers())
            seen.append(states)
        assert seen[0] == seen[1]

    @pytest.mark.parametrize("budget", [1, 63, 64, 65, 512, 4095])
    def test_a_run_ends_at_its_limit_wherever_that_lies(self, rig, runs, budget):
        r = rig("l: inc rax; nop; dec edi; jnz l; " + "inc rax; " * 700 + "ret")
        r.begin(3000)
        cpu = r.machine.cpus[0]
        while r.executor.running(0):
            before, clock = cpu.retired, r.machine.clock
            r.executor.advance(0, budget)
            assert cpu.retired - before == r.machine.clock - clock
            assert cpu.retired - before == budget or not r.executor.running(0)
        assert cpu.retired == 3000 * 4 + 700 + 2
        assert r.rax() == 3700
        assert runs["fast"]


class TestInside:
    @pytest.mark.parametrize("method", METHODS)
    def test_hits_do_not_leave_the_emulator(self, workbench, runs, method):
        bench, seen = workbench(LOOP), []
        put(bench, method, symbol_name="f", offset=SITE, pre_handler=lambda _, r: seen.append(r.cx))
        bench.call("f", 5000)
        assert len(seen) == 5000
        assert runs["usual"] < 300

    def test_a_handler_that_calls_guest_code_leaves_each_time(self, workbench, runs):
        bench = workbench(LOOP, "lea rax, [rdi + 1]; ret")
        answers = []

        def pre(_p, regs):
            answers.append(bench.call_nested(0, BASE + 256, regs.cx))
            return 0

        put(bench, "boosted", symbol_name="f", offset=SITE, pre_handler=pre)
        bench.call("f", 1000)
        assert answers == list(range(1001, 1, -1))
        assert runs["usual"] > 1000

    @pytest.mark.parametrize("method", METHODS)
    def test_what_a_handler_raises_ends_the_call_as_ever(self, workbench, method):
        bench, hits = workbench(LOOP), []

        def pre(_p, _regs):
            hits.append(bench.machine.cpus[0].retired)
            if len(hits) == 3000:
                raise ValueError("enough")
            return 0

        put(bench, method, symbol_name="f", offset=SITE, pre_handler=pre)
        before = bench.machine.clock
        with pytest.raises(ValueError, match="enough"):
            bench.call("f", 5000)
        fault = bench.machine.tasks[0].fault
        assert fault is not None
        assert (fault.kind, fault.place) == (FaultKind.HANDLER_ERROR, f"f+{SITE:#x}")
        assert bench.machine.cpus[0].retired == hits[-1]
        assert bench.machine.clock - before == hits[-1]
        assert bench.arch.cpus.ctlblk[0].current is None

    def test_a_handler_may_not_sleep_inside_either(self, workbench):
        bench, errors = workbench(LOOP), []

        def pre(p, _regs):
            try:
                bench.kprobes.unregister_kprobe(p)
            except EngineBug as error:
                errors.append(str(error))
            return 0

        put(bench, "boosted", symbol_name="f", offset=SITE, pre_handler=pre)
        bench.call("f", 3000)
        assert len(errors) == 3000
        assert "a handler sleeps" in errors[-1]

    @pytest.mark.parametrize("probed", [False, True])
    def test_ctrl_c_ends_a_run_that_would_not_end(self, workbench, probed):
        bench = workbench("mov ecx, edi; l: nop; nop; nop; nop; nop; jmp l; ret")
        if probed:
            put(bench, "jump", symbol_name="f", offset=SITE, pre_handler=lambda *_: 0)
        bench.start_call(0, BASE, (1,))
        sender = threading.Timer(
            0.2, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)
        )
        with pytest.raises(KeyboardInterrupt), interruptible():
            _finish_with(bench, sender)
        sender.join()


class TestHostCode:
    def test_its_bytes_are_the_instructions_that_are_listed(self):
        for name, listing in LISTINGS.items():
            assert getattr(host_code, name) == assemble(listing, 0), name

    @pytest.mark.parametrize("address", [BASE + 5, 0x7FFF_FFFF_F000, 0xFFFF_FFFF_8100_0001])
    def test_a_key_names_its_block(self, address):
        assert block_of(block_key(address, 3584)) == (address, 3584)

    def test_a_host_that_can_not_have_it_runs_everything_in_the_usual_way(self, monkeypatch, runs):
        def refuse(*_):
            raise OSError("no such memory")

        monkeypatch.setattr(mmap, "mmap", refuse)
        assert HostCode.made() is None
        monkeypatch.undo()
        monkeypatch.setattr("platform.machine", lambda: "aarch64")
        assert HostCode.made() is None
        bench, hits = Workbench(asm_image(LOOP), pool=new_pool()), []
        put(bench, "jump", symbol_name="f", offset=SITE, pre_handler=lambda *_: hits.append(1))
        bench.call("f", 1000)
        assert len(hits) == 1000
        assert bench.machine.cpus[0].fast is not None
        bench.close()


def _finish_with(bench, sender):
    sender.start()
    bench.finish_calls()


def _run(image, case, probes, profile, pool):
    return run_image(
        image,
        case.symbol,
        tuple(parse_argument(text) for text in case.args),
        probes,
        interrupts=EveryPlan(997),
        options=ExecOptions(profile=profile),
        pool=pool,
    ).to_json()
