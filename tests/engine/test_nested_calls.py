"""Laws of guest functions that handlers call."""

from __future__ import annotations

import pytest

from arch_x86.emu.fault import FaultKind
from arch_x86.emu.uc import RSP
from arch_x86.lab.outcome import OutcomeReader
from engine.core.profiles import LINUX_2010
from engine.errors import EngineBug, KprobeError
from engine.kprobe import Kprobe
from engine.kretprobe import Kretprobe
from engine.syntax.interrupts import EveryPlan
from tests.conftest import BASE, asm_image
from tests.engine.guests import (
    interrupted_everywhere,
)
from tests.engine.handlers import (
    CLOBBER,
    COUNTS_THEN_IF,
    METHODS,
    PLAIN,
    G,
    H,
    calling,
    put,
    workbenches,
)


@pytest.fixture
def make(pool, request):
    """See :func:`workbenches`."""
    with workbenches(pool, request) as build:
        yield build


class TestNestedCall:
    @pytest.mark.parametrize("red_zone", [False, True])
    @pytest.mark.parametrize("method", METHODS)
    def test_what_it_interrupts_comes_back_whole(self, make, method, red_zone):
        image = asm_image(
            "mov [rsp - 8], rdi; mov [rsp - 128], rsi; movq xmm0, rdi; cmp rdi, rsi; nop; nop; "
            "nop; nop; nop; mov rax, [rsp - 8]; mov rdx, [rsp - 128]; ret",
            CLOBBER,
            red_zone=red_zone,
        )
        if not red_zone:
            image = asm_image(PLAIN, CLOBBER)
        plain = make(image)
        plain.start_call(0, BASE, (40, 2))
        reader = OutcomeReader(plain.machine, 0)
        plain.finish_calls()
        want = reader.read()
        for offset in (insn - BASE for insn in self.sites(plain)):
            bench = make(image)
            answers: list[int] = []
            try:
                put(
                    bench,
                    method,
                    symbol_name="f",
                    offset=offset,
                    pre_handler=calling(bench, G, 21, answers=answers),
                )
            except (AssertionError, KprobeError):
                continue  # the method is not possible at this site
            bench.start_call(0, BASE, (40, 2))
            reader = OutcomeReader(bench.machine, 0)
            bench.finish_calls()
            assert reader.explain(reader.read(), want) is None, offset
            assert answers == [42]

    @staticmethod
    def sites(bench) -> list[int]:
        function = bench.arch.code.function_at(BASE)
        return [BASE + offset for offset in function.insns]

    def test_it_takes_arguments_and_an_aligned_stack(self, make, profile):
        arguments = (
            "lea rax, [rdi + rsi * 2]; lea rax, [rax + rdx * 4]; lea rax, [rax + rcx * 8]; "
            "add rax, r8; sub rax, r9; mov rdx, rsp; and edx, 15; shl rdx, 32; add rax, rdx; ret"
        )
        bench = make(PLAIN, arguments)
        answers: list[int] = []
        put(
            bench,
            "jump",
            symbol_name="f",
            pre_handler=calling(bench, G, 1, 2, 3, 4, 50, 6, answers=answers),
        )
        assert bench.call("f", 1, 2) == 3
        assert answers == [(1 + 4 + 12 + 32 + 50 - 6) + (8 << 32)]

    def test_it_is_there_for_handlers_only(self, make, profile):
        bench = make(PLAIN, PLAIN, cpus=2)
        with pytest.raises(EngineBug, match="no handler runs on CPU 0"):
            bench.call_nested(0, G)
        wrong: list[BaseException] = []

        def handler(_p, _regs):
            for call in (
                lambda: bench.call_nested(1, G),
                lambda: bench.call_nested(0, G, *range(7)),
            ):
                try:
                    call()
                except EngineBug as error:
                    wrong.append(error)

        put(bench, "jump", symbol_name="f", pre_handler=handler)
        assert bench.call("f", 1, 2) == 3
        assert ["CPU 1" in str(error) for error in wrong] == [True, False]

    def test_time_and_counters_go_on_and_the_limit_of_the_call_holds_for_all(self, make, profile):
        bench = make(PLAIN, "l: dec rdi; jnz l; ret")
        put(bench, "jump", symbol_name="f", pre_handler=calling(bench, G, 500))
        before = bench.machine.clock
        bench.call("f", 1, 2)
        assert (
            bench.machine.clock - before
            == bench.machine.cpus[0].retired - bench.machine.tasks[0].started
            > 1000
        )
        bench.limit = 900
        bench.start_call(0, BASE, (1, 2))
        (fault,) = bench.finish_calls()
        assert fault.kind is FaultKind.INSTRUCTION_LIMIT
        assert fault.symbol == "g"
        assert bench.machine.cpus[0].retired - bench.machine.tasks[0].started == 900
        bench.limit = None
        assert bench.call("f", 1, 2) == 3

    def test_what_it_retires_counts_for_the_turn(self, make, profile):
        bench = make(
            "mov ecx, 9; l: nop; nop; nop; nop; nop; dec ecx; jnz l; ret", "l: dec rdi; jnz l; ret"
        )
        put(bench, "boosted", symbol_name="f", offset=6, pre_handler=calling(bench, G, 100))
        bench.start_call(0, BASE)
        vcpu = bench.machine.cpus[0]
        while bench.executor.running(0):
            before = vcpu.retired
            count = bench.executor.advance(0, 250)
            assert count == vcpu.retired - before
            assert count < 250 + 201 + 40

    @pytest.mark.parametrize("red_zone", [False, True])
    @pytest.mark.parametrize("method", METHODS)
    def test_it_starts_below_the_stack_in_use_with_the_direction_flag_clear(
        self, make, profile, method, red_zone
    ):
        flags, stack = "pushfq; pop rax; and eax, 0x400; ret", "mov rax, rsp; ret"
        bench = make(
            "std; nop; nop; nop; nop; nop; cld; mov eax, 3; ret", flags, stack, red_zone=red_zone
        )
        found: list[tuple[int, int, int]] = []

        def handler(_p, _regs):
            rsp = bench.machine.cpus[0].registers()[RSP]
            found.append((rsp, bench.call_nested(0, H), bench.call_nested(0, G)))

        post = (lambda *_: None) if method == "stepped" else None
        bench.kprobes.kprobes_allow_optimization = method == "jump"
        bench.kprobes.register_kprobe(
            Kprobe(symbol_name="f", offset=1, pre_handler=handler, post_handler=post)
        )
        bench.kprobes.wait_for_kprobe_optimizer()
        assert bench.call("f") == 3
        ((rsp, nested_rsp, direction),) = found
        skipped = 128 if red_zone else 0
        assert rsp - skipped - 24 < nested_rsp <= rsp - skipped - 8
        assert direction == 0

    @pytest.mark.parametrize("method", METHODS)
    def test_interrupts_come_in_handlers_behind_a_jump_and_not_behind_a_breakpoint(
        self, make, profile, method
    ):
        bench = make(PLAIN, COUNTS_THEN_IF)
        answers: list[int] = []
        put(bench, method, symbol_name="f", pre_handler=calling(bench, G, answers=answers))
        bench.interrupts = EveryPlan(10)
        assert bench.call("f", 1, 2) == 3
        allowed = method == "jump"  # the callback has preempt_disable() alone, in 2010 as in 6.1
        assert answers == [0x200 if allowed else 0]
        assert (bench.machine.cpus[0].interrupts > 40) == allowed

    @pytest.mark.parametrize("method", ["boosted", "jump"])
    def test_none_come_in_a_return_probes_handler_of_2010_which_holds_a_lock(
        self, make, profile, method
    ):
        """The entry_handler takes interrupts behind a jump, as other handlers do."""
        bench = make(PLAIN, COUNTS_THEN_IF)
        bench.kprobes.kprobes_allow_optimization = method == "jump"
        entered: list[int] = []
        returned: list[int] = []
        on_entry, on_return = (
            calling(bench, G, answers=answers) for answers in (entered, returned)
        )
        bench.kprobes.register_kretprobe(
            Kretprobe(symbol_name="f", entry_handler=on_entry, handler=on_return)
        )
        bench.kprobes.wait_for_kprobe_optimizer()
        assert bench.call("f", 1, 2) == 3
        assert entered == [0x200 if method == "jump" else 0]
        assert returned == [0 if profile is LINUX_2010 else 0x200]

    @pytest.mark.parametrize("method", METHODS)
    def test_an_interrupt_at_every_boundary_of_a_hit_with_a_nested_call_changes_nothing(
        self, make, profile, method
    ):
        bench = make(PLAIN, CLOBBER)
        answers: list[int] = []
        put(bench, method, symbol_name="f", pre_handler=calling(bench, G, 4, answers=answers))
        interrupted_everywhere(bench, lambda: bench.start_call(0, BASE, (40, 2)))
        assert len(answers) > 10
        assert set(answers) == {8}

    def test_schedule_in_a_handler_is_no_quiescent_point(self, make, profile):
        bench = make(PLAIN, "ret")
        put(
            bench,
            "boosted",
            symbol_name="f",
            pre_handler=lambda _p, _r: bench.call_nested(0, bench.machine.stubs.schedule) and 0,
        )
        passed = bench.machine.tasks[0].passed
        assert bench.call("f", 1, 2) == 3
        assert bench.machine.tasks[0].passed == passed
