"""Laws of jumper probes and of break_handler, which only 2010 has."""

from __future__ import annotations

import errno

import pytest

from arch_x86.emu.fault import FaultKind
from arch_x86.emu.stubs import build_stubs
from arch_x86.lab.outcome import OutcomeReader
from engine.core.debugfs import kprobes_list
from engine.core.profiles import LINUX_6_1, LINUX_2010
from engine.errors import KprobeError
from engine.image import Image, Import
from engine.jprobe import Jprobe
from engine.kprobe import Kprobe, KprobeFlag, Method
from engine.kretprobe import Kretprobe
from engine.syntax.interrupts import EveryPlan
from tests.conftest import BASE, asm_image
from tests.engine.guests import case, elf, interrupted_everywhere, run_case, workbench_of

G, H = BASE + 256, BASE + 512
JPROBE_RETURN = build_stubs(BASE + (1 << 20)).jprobe_return
LEAVE = f"mov rax, {JPROBE_RETURN:#x}; jmp rax"
# SUM adds its arguments, two of them on the stack; its first byte can be boosted and optimized.
SUM = "lea rax, [rdi + rsi]; nop; add rax, [rsp + 8]; add rax, [rsp + 16]; ret"
CALL = "push rsi; push rdi; mov rdi, 100; mov rsi, 20; call rdx; add rsp, 16; ret"
# ENTRY changes all that a callee may and more: registers, flags, its arguments, a deep stack.
ENTRY = (
    "mov rax, [rsp + 8]; mov [rsp + 8], rdi; mov [rsp + 16], rsi; mov rcx, [rsp]; "
    "mov qword ptr [rsp + 56], rsp; sub rsp, 512; "
    + "; ".join(
        f"mov {r}, rcx"
        for r in (
            "rbx",
            "rdx",
            "rsi",
            "rdi",
            "rbp",
            "r8",
            "r9",
            "r10",
            "r11",
            "r12",
            "r13",
            "r14",
            "r15",
        )
    )
    + f"; std; stc; {LEAVE}"
)


@pytest.fixture
def make(pool):
    """``make(image or texts, ...)`` makes a workbench of linux-2010."""
    made = []

    def build(*what, cpus: int = 1, optimize: bool = True, **fields):
        image = what[0] if isinstance(what[0], Image) else asm_image(*what, **fields)
        made.append(workbench_of(image, pool, LINUX_2010, optimize=optimize, cpus=cpus))
        if image.name == "asm":
            assert made[-1].machine.stubs.jprobe_return == JPROBE_RETURN
        return made[-1]

    yield build
    for one in made:
        one.close()


def counted(log: str = "lock inc qword ptr [r11]") -> str:
    """The text of an entry function that counts at the address in R11 and leaves."""
    return f"{log}; {LEAVE}"


class TestEntry:
    @pytest.mark.parametrize("red_zone", [False, True])
    def test_the_entry_runs_with_the_arguments_and_the_function_as_if_nothing_had_been(
        self, make, red_zone
    ):
        image = asm_image(CALL, SUM, ENTRY, red_zone=red_zone)
        plain = make(image)
        plain.start_call(0, BASE, (3, 4, G))
        reader = OutcomeReader(plain.machine, 0)
        plain.finish_calls()
        want = reader.read()
        assert want.registers[0] == 127
        bench = make(image)
        jp = Jprobe(symbol_name="g", entry="h")
        bench.kprobes.register_jprobe(jp)
        bench.kprobes.wait_for_kprobe_optimizer()
        bench.start_call(0, BASE, (3, 4, G))
        reader = OutcomeReader(bench.machine, 0)
        bench.finish_calls()
        assert reader.explain(reader.read(), want) is None
        assert bench.arch.ctlblk[0].current is None

    def test_an_interrupt_at_any_boundary_changes_nothing_and_none_comes_in_the_entry(self, make):
        bench = make(CALL, SUM, ENTRY)
        plain = make(CALL, SUM, ENTRY)
        want, _ = interrupted_everywhere(plain, lambda: plain.start_call(0, BASE, (3, 4, G)))
        bench.kprobes.register_jprobe(Jprobe(symbol_name="g", entry=H))
        _, taken = interrupted_everywhere(bench, lambda: bench.start_call(0, BASE, (3, 4, G)), want)
        assert taken < 20, "IF is clear from the hit to the end of the entry"
        bench.start_call(0, BASE, (3, 4, G))
        while not H <= bench.machine.cpus[0].rip < H + 100:
            bench.executor.advance(0, 1)
        assert not bench.executor.interrupt(0)

    def test_it_sees_the_registers_of_the_call(self, make):
        seen = (
            "mov [r11], rdi; mov [r11 + 8], rsi; mov [r11 + 16], rsp; mov rax, [rsp]; "
            "mov [r11 + 24], rax"
        )
        bench = make(
            "mov eax, edi; nop; nop; nop; nop; add rax, rsi; ret", f"mov r11, rdx; {seen}; {LEAVE}"
        )
        bench.kprobes.register_jprobe(Jprobe(symbol_name="f", entry="g"))
        at = bench.machine.allocate(32)
        assert bench.call("f", 30, 12, at) == 42
        words = [bench.machine.ram.read_u64(at + 8 * i) for i in range(4)]
        assert words == [
            30,
            12,
            bench.machine.tasks[0].base_rsp - 8,
            bench.machine.stubs.call_return,
        ]

    def test_a_python_entry_gets_the_registers_and_can_change_nothing(self, make):
        bench = make(elf("qsort.o"))
        seen: list[tuple[int, int]] = []

        def entry(regs):
            seen.append((regs.si, regs.dx))
            regs.si = regs.sp = regs.ip = 0

        bench.kprobes.register_jprobe(Jprobe(symbol_name="quicksort", entry=entry))
        bench.kprobes.wait_for_kprobe_optimizer()
        bench.interrupts = EveryPlan(13)
        run_case(bench, case("sort_i32-40"))
        assert seen[0] == (40, 4)
        assert len(seen) > 20

    def test_a_guest_entry_runs_before_every_call_of_a_recursive_function(self, make):
        text = (
            "cmp rdi, 1; jbe last; push rdi; dec rdi; call f2; pop rdi; imul rax, rdi; ret; "
            "last: mov eax, 1; ret; f2: jmp rsi"
        )
        bench = make(text, counted("inc qword ptr [rdx]"))
        calls = Kprobe(symbol_name="f", pre_handler=lambda _p, _r: hits.append(0))
        hits: list[int] = []
        bench.kprobes.register_kprobe(calls)
        bench.kprobes.register_jprobe(Jprobe(symbol_name="f", entry="g"))
        bench.kprobes.wait_for_kprobe_optimizer()
        at = bench.machine.allocate(8)
        assert bench.call("f", 5, BASE, at) == 120
        assert bench.machine.ram.read_u64(at) == 5 == len(hits)

    @pytest.mark.parametrize("how", ["jump", "call"])
    def test_guest_code_may_import_jprobe_return(self, make, how):
        cell = BASE + 0x2000
        leave = f"mov rax, {cell:#x}; {'jmp' if how == 'jump' else 'sub rsp, 8; call'} rax"
        image = asm_image(
            "mov eax, edi; nop; nop; nop; nop; ret",
            f"inc qword ptr [rsi]; {leave}",
            imports=(Import("jprobe_return", cell),),
        )
        bench = make(image)
        bench.kprobes.register_jprobe(Jprobe(symbol_name="f", entry="g"))
        at = bench.machine.allocate(8)
        assert bench.call("f", 9, at) == 9
        assert bench.machine.ram.read_u64(at) == 1

    def test_each_cpu_is_away_on_its_own_and_a_snapshot_takes_that_along(self, make):
        slow = f"mov ecx, 50; l: dec ecx; jnz l; inc qword ptr [rsi]; xor edi, edi; {LEAVE}"
        bench = make("lea rax, [rdi + rdi]; nop; ret", slow, cpus=2)
        bench.kprobes.register_kprobe(Kprobe(symbol_name="f"))
        bench.kprobes.register_jprobe(Jprobe(symbol_name="f", entry="g"))
        at = bench.machine.allocate(8)
        for cpu in (0, 1):
            bench.start_call(cpu, BASE, (10 + cpu, at))
            bench.executor.advance(cpu, 70 + 9 * cpu)
        snap = bench.machine.snapshot()
        for _ in range(2):
            bench.machine.restore(snap)
            bench.finish_calls()
            assert [cpu.registers()[0] for cpu in bench.machine.cpus] == [20, 22]
            assert bench.machine.ram.read_u64(at) == 2


class TestHits:
    def test_probes_that_the_entry_passes_are_missed(self, make):
        bench = make(
            "mov eax, edi; nop; nop; nop; nop; ret",
            f"mov rax, {H:#x}; call rax; {LEAVE}",
            "nop; nop; nop; nop; nop; ret",
        )
        hits: list[int] = []
        p = Kprobe(symbol_name="h", pre_handler=lambda *_: hits.append(0))
        bench.kprobes.register_kprobe(p)
        bench.kprobes.register_jprobe(Jprobe(symbol_name="f", entry="g"))
        bench.kprobes.wait_for_kprobe_optimizer()
        for times in (1, 2):
            assert bench.call("f", 7) == 7
            assert (hits, p.nmissed) == ([], times)
        bench.call("h")
        assert hits == [0]

    def test_other_probes_there_come_first_and_a_return_probe_works_beside_it(self, make):
        bench = make("mov eax, edi; nop; nop; nop; nop; ret", counted("inc qword ptr [rsi]"))
        order: list[str] = []
        at = bench.machine.allocate(8)
        bench.kprobes.register_jprobe(Jprobe(symbol_name="f", entry="g"))
        entry = lambda *_: order.append(f"entry {bench.machine.ram.read_u64(at)}")  # noqa: E731
        bench.kprobes.register_kretprobe(
            Kretprobe(
                symbol_name="f", entry_handler=entry, handler=lambda *_: order.append("return")
            )
        )
        bench.kprobes.register_kprobe(
            Kprobe(
                symbol_name="f",
                pre_handler=lambda *_: order.append("newest"),
                post_handler=lambda *_: order.append("post"),
            )
        )
        assert bench.call("f", 7, at) == 7
        assert order == ["newest", "entry 0", "post", "return"]
        assert bench.machine.ram.read_u64(at) == 1
        assert sorted(line.split()[1] for line in kprobes_list(bench.kprobes).splitlines()) == [
            "j",
            "k",
            "r",
        ]

    def test_an_entry_that_never_comes_back_leaves_no_hit_behind(self, make):
        bench = make("mov eax, edi; nop; nop; nop; nop; ret", "mov eax, 77; ret", "ud2")
        hits: list[int] = []
        jp = Jprobe(symbol_name="f", entry="g")
        bench.kprobes.register_jprobe(jp)
        bench.kprobes.register_kprobe(
            Kprobe(symbol_name="f", pre_handler=lambda *_: hits.append(0))
        )
        for times in (1, 2):
            assert bench.call("f", 7) == 77, "it returned in the function's place"
            assert len(hits) == times
        bench.kprobes.unregister_jprobe(jp)
        bench.kprobes.register_jprobe(Jprobe(symbol_name="f", entry="h"))
        for times in (3, 4):
            bench.start_call(0, BASE, (7,))
            (fault,) = bench.finish_calls()
            assert fault.symbol == "h"
            assert len(hits) == times

    def test_jprobe_return_without_a_hit_is_a_guest_fault(self, make):
        bench = make(LEAVE, "nop; nop; nop; nop; nop; ret")
        bench.kprobes.register_jprobe(Jprobe(symbol_name="g", entry="f"))
        # At first no stack was ever kept; then there is that of an earlier hit.
        for kind in (FaultKind.DOUBLE_FAULT, FaultKind.BREAKPOINT):
            bench.start_call(0, BASE)
            (fault,) = bench.finish_calls()
            assert fault.kind is kind
            assert bench.arch.ctlblk[0].current is None
            bench.call("g")

    def test_a_breakpoint_of_the_entrys_own_is_not_taken_for_jprobe_return(self, make):
        bench = make("mov eax, edi; nop; nop; nop; nop; ret", "int3; ret")
        bench.kprobes.register_jprobe(Jprobe(symbol_name="f", entry="g"))
        bench.start_call(0, BASE)
        (fault,) = bench.finish_calls()
        assert (fault.kind, fault.place) == (FaultKind.BREAKPOINT, "g+0x0")

    def test_a_break_handler_of_ones_own_ends_the_hit_that_pre_handler_left_open(self, make):
        bench = make("mov eax, edi; nop; nop; nop; nop; ret", "mov edi, 55; int3; ret")
        saved: list[int] = []

        def away(_p, regs):
            saved.append(regs.ip)
            regs.ip = G
            return 1

        def back(_p, regs):
            assert regs.ip == G + 6
            regs.ip = saved.pop()
            return 1

        bench.kprobes.register_kprobe(Kprobe(symbol_name="f", pre_handler=away, break_handler=back))
        bench.kprobes.wait_for_kprobe_optimizer()
        for _ in range(2):
            assert bench.call("f", 7) == 55
            assert bench.arch.ctlblk[0].current is None

    def test_a_fault_in_the_probed_instruction_reaches_the_fault_handlers_of_all(self, make):
        bench = make("mov rax, [rdi]; nop; nop; ret", counted("inc qword ptr [rsi]"))
        good = bench.machine.allocate(8, (41).to_bytes(8, "little"))
        seen: list[int] = []

        def mend(_p, regs, _trapnr):
            seen.append(regs.ip)
            regs.di = good
            return 1

        bench.kprobes.register_kprobe(
            Kprobe(symbol_name="f", post_handler=lambda *_: None, fault_handler=mend)
        )
        bench.kprobes.register_jprobe(Jprobe(symbol_name="f", entry="g"))
        at = bench.machine.allocate(8)
        assert bench.call("f", 8, at) == 41
        assert seen == [BASE]
        assert bench.machine.ram.read_u64(at) == 2, "the instruction is hit again"

    def test_a_pre_handler_that_sets_ip_beside_a_jumper_probe_ends_the_hit(self, make):
        bench = make("mov eax, edi; nop; nop; nop; nop; ret", counted("nop"), "mov eax, 5; ret")

        def chip(_p, regs):
            regs.ip = H
            return 1

        hits: list[int] = []
        bench.kprobes.register_jprobe(Jprobe(symbol_name="f", entry="g"))
        bench.kprobes.register_kprobe(Kprobe(symbol_name="f", pre_handler=chip))
        bench.kprobes.register_kprobe(
            Kprobe(symbol_name="h", pre_handler=lambda *_: hits.append(0))
        )
        for times in (1, 2):
            assert bench.call("f", 7) == 5
            assert len(hits) == times


class TestRegistration:
    @pytest.mark.parametrize(
        "fields",
        [
            {"symbol_name": "f", "offset": 2, "entry": "g"},
            {"addr": BASE + 2, "entry": "g"},
            {"symbol_name": "f", "entry": G + 3},
            {"symbol_name": "f", "entry": 0x1234},
            {"symbol_name": "f", "entry": "nosuch"},
            {"symbol_name": "f", "addr": BASE, "entry": "g"},
            {"symbol_name": "nosuch", "entry": "g"},
            {"entry": "g"},
        ],
    )
    def test_place_and_entry_are_first_bytes_of_functions(self, make, fields):
        bench = make("mov eax, edi; nop; nop; nop; nop; ret", counted("nop; nop; nop"))
        with pytest.raises(KprobeError) as refused:
            bench.kprobes.register_jprobe(Jprobe(**fields))
        assert refused.value.errno == errno.EINVAL
        assert not bench.kprobes.kprobe_table

    def test_6_1_has_neither(self, pool):
        bench = workbench_of(
            asm_image("mov eax, edi; nop; nop; nop; nop; ret"), pool, LINUX_6_1, optimize=True
        )
        jp, p = (
            Jprobe(symbol_name="f", entry=lambda _r: None),
            Kprobe(symbol_name="f", break_handler=lambda *_: 1),
        )
        for register, words in (
            (lambda: bench.kprobes.register_jprobe(jp), "jprobes"),
            (lambda: bench.kprobes.register_kprobe(p), "break"),
        ):
            with pytest.raises(KprobeError, match=words) as refused:
                register()
            assert refused.value.errno == errno.EINVAL
        assert not bench.kprobes.kprobe_table
        bench.close()

    @pytest.mark.parametrize("between", [False, True])
    def test_a_second_one_at_an_address_is_eexist(self, make, between):
        bench = make("mov eax, edi; nop; nop; nop; nop; ret", counted("inc qword ptr [rsi]"))
        first, second = Jprobe(symbol_name="f", entry="g"), Jprobe(symbol_name="f", entry="g")
        bench.kprobes.register_jprobe(first)
        if between:
            bench.kprobes.register_kprobe(Kprobe(symbol_name="f"))
        with pytest.raises(KprobeError) as refused:
            bench.kprobes.register_jprobe(second)
        assert refused.value.errno == errno.EEXIST
        at = bench.machine.allocate(8)
        assert bench.call("f", 7, at) == 7
        assert bench.machine.ram.read_u64(at) == 1
        assert bench.kprobes.unregister_jprobe(first)
        assert not bench.kprobes.unregister_jprobe(second)
        bench.kprobes.wait_for_kprobe_optimizer()
        second.kp.addr = None
        bench.kprobes.register_jprobe(second)
        assert bench.call("f", 7, at) == 7
        assert bench.machine.ram.read_u64(at) == 2

    @pytest.mark.parametrize("where", [{"symbol_name": "f"}, {"addr": BASE}])
    def test_one_that_is_registered_is_not_registered_again(self, make, where):
        bench = make("mov eax, edi; nop; nop; nop; nop; ret", counted("nop"))
        jp = Jprobe(entry="g", **where)
        bench.kprobes.register_jprobe(jp)
        with pytest.raises(KprobeError, match="registered already") as refused:
            bench.kprobes.register_jprobe(jp)
        assert refused.value.errno == errno.EINVAL

    def test_it_forbids_the_jump_and_forces_one_back_until_it_goes(self, make):
        bench = make("mov eax, edi; nop; nop; nop; nop; ret", counted("nop"))
        p, jp = Kprobe(symbol_name="f"), Jprobe(symbol_name="f", entry="g")
        bench.kprobes.register_kprobe(p)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert bench.method(p) is Method.OPTIMIZED
        bench.kprobes.register_jprobe(jp)
        assert bench.method(p) is Method.BOOSTED, "at once"
        bench.kprobes.wait_for_kprobe_optimizer()
        assert bench.method(p) is Method.BOOSTED
        assert bench.call("f", 7) == 7
        bench.kprobes.unregister_jprobe(jp)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert bench.method(p) is Method.OPTIMIZED
        alone = Jprobe(symbol_name="g", entry="f")
        bench.kprobes.register_jprobe(alone)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert bench.method(alone.kp) is not Method.OPTIMIZED

    def test_a_list_is_registered_whole_or_not_at_all(self, make):
        bench = make(
            "mov eax, edi; nop; nop; nop; nop; ret",
            counted("inc qword ptr [rsi]"),
            "lea rax, [rdi + 1]; ret",
        )
        good, bad = Jprobe(symbol_name="f", entry="g"), Jprobe(symbol_name="h", offset=1, entry="g")
        with pytest.raises(KprobeError):
            bench.kprobes.register_jprobes([good, bad])
        bench.kprobes.wait_for_kprobe_optimizer()
        assert not bench.kprobes.kprobe_table
        with pytest.raises(KprobeError) as refused:
            bench.kprobes.register_jprobes([])
        assert refused.value.errno == errno.EINVAL
        good.kp.addr, good.kp.flags = None, KprobeFlag(0)
        more = Jprobe(symbol_name="h", entry="g")
        bench.kprobes.register_jprobes([good, more])
        at = bench.machine.allocate(8)
        assert (bench.call("f", 7, at), bench.call("h", 7, at)) == (7, 8)
        assert bench.machine.ram.read_u64(at) == 2
        assert bench.kprobes.unregister_jprobes([good, more, bad]) == 2
        bench.kprobes.wait_for_kprobe_optimizer()
        assert not bench.kprobes.kprobe_table
        original = bench.image.segments[0].data
        assert bench.machine.text.read(BASE, len(original)) == original

    def test_a_disabled_one_does_nothing_until_it_is_enabled(self, make):
        bench = make("mov eax, edi; nop; nop; nop; nop; ret", counted("inc qword ptr [rsi]"))
        jp = Jprobe(symbol_name="f", entry="g", flags=KprobeFlag.DISABLED)
        bench.kprobes.register_jprobe(jp)
        at = bench.machine.allocate(8)
        for enabled, times in ((False, 0), (True, 1), (False, 1)):
            (bench.kprobes.enable_kprobe if enabled else bench.kprobes.disable_kprobe)(jp.kp)
            assert bench.call("f", 7, at) == 7
            bench.kprobes.wait_for_kprobe_optimizer()
            assert bench.machine.ram.read_u64(at) == times
