"""Laws of probes that are hit while a handler runs.

They are also of guest functions that handlers call, and of faults in handlers and such functions.
"""

from __future__ import annotations

import errno

import pytest

from arch_x86.emu.fault import FaultKind, GuestFaultError
from arch_x86.emu.uc import RSP
from arch_x86.lab.calls import place_call
from arch_x86.lab.outcome import OutcomeReader
from arch_x86.lab.run import ExecOptions
from arch_x86.lab.script import run_script
from engine.core.profiles import LINUX_6_1, LINUX_2010, PROFILES
from engine.errors import EngineBug, KprobeError
from engine.image import ExceptionEntry
from engine.kprobe import Kprobe, Method
from engine.kretprobe import Kretprobe
from engine.syntax.arguments import parse_argument
from engine.syntax.interrupts import EveryPlan
from engine.syntax.script import parse_script
from tests.conftest import BASE, asm_image
from tests.engine.guests import (
    case,
    elf,
    interrupted_everywhere,
    run_case,
    start_case,
    workbench_of,
)

G, H = BASE + 256, BASE + 512
PLAIN = "mov eax, edi; nop; nop; nop; nop; add rax, rsi; ret"
# CLOBBER changes all that a function may change, and more: every register but RSP, flags, x87, SSE,
# and the 128 bytes under RSP.
CLOBBER = (
    "push rdi; mov rcx, -1; "
    + "; ".join(
        f"mov {r}, rcx"
        for r in ("rbx", "rdx", "rsi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")
    )
    + "; pcmpeqd xmm0, xmm0; movdqa xmm7, xmm0; movdqa xmm15, xmm0; fldpi; fldpi; "
    "mov [rsp - 8], rcx; mov [rsp - 128], rcx" + "; pop rax; add rax, rax; std; stc; ret"
)
COUNTS_THEN_IF = "mov ecx, 300; l: dec ecx; jnz l; pushfq; pop rax; and eax, 0x200; ret"
METHODS = ("stepped", "boosted", "jump")


@pytest.fixture(params=PROFILES, ids=lambda profile: profile.name)
def profile(request):
    return request.param


@pytest.fixture
def make(pool, request):
    """``make(image or texts, ...)`` makes a workbench of the test's profile, else of linux-2010."""
    made = []

    def build(*what, cpus: int = 1, **fields):
        image = asm_image(*what, **fields) if isinstance(what[0], str) else what[0]
        chosen = (
            request.getfixturevalue("profile") if "profile" in request.fixturenames else LINUX_2010
        )
        made.append(workbench_of(image, pool, chosen, optimize=True, cpus=cpus))
        return made[-1]

    yield build
    for one in made:
        one.close()


def put(bench, method: str, **fields) -> Kprobe:
    """Register a probe whose hits run by ``method``."""
    kprobes = bench.kprobes
    kprobes.kprobes_allow_optimization = method == "jump"
    p = Kprobe(post_handler=(lambda *_: None) if method == "stepped" else None, **fields)
    kprobes.register_kprobe(p)
    kprobes.wait_for_kprobe_optimizer()
    expected = {
        "stepped": (Method.INT3, Method.EMULATED),
        "boosted": (Method.BOOSTED,),
        "jump": (Method.OPTIMIZED,),
    }
    assert bench.method(p) in expected[method]
    return p


def calling(bench, addr: int, *integers: int, answers: list | None = None):
    """A pre_handler that calls a guest function."""

    def handler(_p, _regs):
        answer = bench.call_nested(bench.arch.cpus.cpu, addr, *integers)
        if answers is not None:
            answers.append(answer)
        return 0

    return handler


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


class TestReentrancy:
    @pytest.mark.parametrize("inner", METHODS)
    @pytest.mark.parametrize("outer", METHODS)
    def test_a_hit_while_a_handler_runs_is_missed_by_every_child_and_runs_the_code(
        self, make, profile, outer, inner
    ):
        found, nested = case("sort_i32-40"), case("sort_i64-20")
        plain = make(elf("qsort.o"))
        hits: list[int] = []
        put(
            plain,
            inner,
            symbol_name="quicksort",
            offset=0x13,
            pre_handler=lambda *_: hits.append(0),
        )
        run_case(plain, nested)
        of_nested = len(hits)
        run_case(plain, found)
        of_call = len(hits) - of_nested
        assert min(of_nested, of_call) > 5

        bench = make(elf("qsort.o"))
        buffer = [parse_argument(a) for a in nested.args]
        answers: list[int] = []

        def handler(_p, _regs):
            frame = place_call(bench.machine, 0, buffer)
            answers.append(
                bench.call_nested(0, bench.image.by_name["sort_i64"].addr, *frame.integers)
            )
            ((addr, content),) = frame.buffers
            assert bench.machine.ram.read(addr, len(content)) == nested.buffers[0]

        order: list[str] = []
        first = put(
            bench,
            inner,
            symbol_name="quicksort",
            offset=0x13,
            pre_handler=lambda *_: order.append("first"),
        )
        second = put(
            bench,
            inner,
            symbol_name="quicksort",
            offset=0x13,
            pre_handler=lambda *_: order.append("second"),
        )
        put(bench, outer, symbol_name="sort_i32", offset=0xD, pre_handler=handler)
        bench.interrupts = EveryPlan(31)
        run_case(bench, found)
        assert answers == [nested.result]
        assert first.nmissed == second.nmissed == of_nested
        assert order == ["second", "first"] * of_call

    @pytest.mark.parametrize("method", METHODS)
    def test_a_handler_that_calls_the_probed_function_misses_itself(self, make, profile, method):
        bench = make(PLAIN)
        answers: list[int] = []
        p = put(
            bench,
            method,
            symbol_name="f",
            pre_handler=calling(bench, BASE, 30, 12, answers=answers),
        )
        for times in (1, 2, 3):
            assert bench.call("f", 1, 2) == 3
            assert (answers, p.nmissed) == ([42] * times, times)

    @pytest.mark.parametrize("inner", METHODS)
    def test_a_probe_hit_in_a_post_handler_is_missed(self, make, profile, inner):
        bench = make(PLAIN, PLAIN)
        hits: list[int] = []
        q = put(bench, inner, symbol_name="g", pre_handler=lambda *_: hits.append(0))
        p = put(bench, "stepped", symbol_name="f")
        answers: list[int] = []
        p.post_handler = lambda *_: answers.append(bench.call_nested(0, G, 5, 6))
        assert bench.call("f", 1, 2) == 3
        assert (answers, hits, q.nmissed) == ([11], [], 1)

    @pytest.mark.parametrize("inner", METHODS)
    def test_a_probe_hit_in_the_handlers_of_a_return_probe_is_missed(self, make, profile, inner):
        bench = make(PLAIN, PLAIN)
        hits: list[int] = []
        answers: list[int] = []
        q = put(bench, inner, symbol_name="g", pre_handler=lambda *_: hits.append(0))
        inner_return = Kretprobe(symbol_name="g", handler=lambda *_: hits.append(1))
        bench.kprobes.register_kretprobe(inner_return)
        call = calling(bench, G, 5, 6, answers=answers)
        bench.kprobes.register_kretprobe(
            Kretprobe(symbol_name="f", handler=call, entry_handler=call)
        )
        assert bench.call("f", 1, 2) == 3
        assert (answers, hits, q.nmissed) == ([11, 11], [], 2)
        assert (inner_return.kp.nmissed, inner_return.nmissed) == (2, 0)
        assert bench.call("g", 1, 2) == 3
        assert hits == [0, 1]

    def test_a_handler_on_one_cpu_makes_no_misses_on_another(self, make, profile):
        bench = make(elf("qsort.o"), cpus=2)
        hits: list[int] = []
        p = put(
            bench,
            "jump",
            symbol_name="sort_i32",
            pre_handler=lambda *_: hits.append(bench.arch.cpus.cpu),
        )
        checks = [start_case(bench, case("sort_i32-40"), cpu) for cpu in (0, 1)]
        bench.finish_calls()
        for check in checks:
            check()
        assert (hits, p.nmissed) == ([0, 1], 0)

    def test_a_script_shows_it(self, profile, pool):
        script = (
            "reg 0 sort_i32+13\nreg 1 compare_i64+2\nreg 2 compare_i64+2 post\ncallfn 0"
            " compare_i64\nwait\ncall sort_i32 x0\ncnt 1\n"
        )
        image = asm_image(PLAIN, PLAIN)
        script = (
            "reg 0 f+0\nreg 1 g+0\nreg 2 g+0\ncallfn 0 g\nwait\ncall f x3\ncnt 0\ncnt 1\ncnt 2\n"
        )
        lines = list(
            run_script(image, parse_script(script, "s"), ExecOptions(profile=profile), pool=pool)
        )
        assert lines[5]["ret"] == "1"
        assert [(line["hits"], line["nmissed"]) for line in lines[6:]] == [(3, 0), (0, 3), (0, 3)]


class TestFaults:
    """Faults in handlers; only 2010 has fault_handler."""

    def test_6_1_has_none(self, pool):
        bench = workbench_of(asm_image(PLAIN), pool, LINUX_6_1, optimize=True)
        with pytest.raises(KprobeError) as refused:
            bench.kprobes.register_kprobe(Kprobe(symbol_name="f", fault_handler=lambda *_: 1))
        assert refused.value.errno == errno.EINVAL
        bench.close()

    @pytest.mark.parametrize("children", [1, 2])
    @pytest.mark.parametrize("method", METHODS)
    def test_a_fault_in_a_nested_call_reaches_its_probes_handler_and_can_be_mended(
        self, make, method, children
    ):
        bench = make(PLAIN, "mov rax, [rdi]; add rax, 1; ret")
        good = bench.machine.allocate(8, (41).to_bytes(8, "little"))
        seen: list[tuple] = []
        answers: list[int] = []

        def mend(p, regs, trapnr):
            seen.append((p, regs.ip, regs.di, trapnr))
            regs.di = good
            return 1

        def wrong(*_):
            raise AssertionError("not of the probe whose handler runs")

        p = put(
            bench,
            method,
            symbol_name="f",
            pre_handler=calling(bench, G, 8, answers=answers),
            fault_handler=mend,
        )
        others = [
            put(bench, method, symbol_name="f", fault_handler=wrong) for _ in range(children - 1)
        ]
        assert bench.call("f", 1, 2) == 3
        assert seen == [(p, G, 8, 14)]
        assert answers == [42]
        assert [q.nmissed for q in (p, *others)] == [1] * children, (
            "the kernel counts a fault as a miss"
        )

    @pytest.mark.parametrize("method", METHODS)
    def test_a_fault_that_nobody_mends_ends_the_call_there_and_leaves_no_hit_behind(
        self, make, profile, method
    ):
        bench = make(
            PLAIN,
            "sub rsp, 24; call g2; add rsp, 24; ret; g2: xor edx, edx; mov eax, 1; div edx; ret",
        )
        asked: list[int] = []
        fields = (
            {}
            if profile.steps_by_int3
            else {"fault_handler": lambda _p, regs, _n: asked.append(regs.ip)}
        )
        p = put(bench, method, symbol_name="f", pre_handler=calling(bench, G), **fields)
        for times in (1, 2):
            bench.start_call(0, BASE, (1, 2))
            (fault,) = bench.finish_calls()
            assert (fault.kind, fault.symbol, fault.rip) == (FaultKind.DIVIDE_ERROR, "g", G + 21)
            assert asked == ([] if profile.steps_by_int3 else [G + 21] * times)
            assert p.nmissed == (0 if profile.steps_by_int3 else times)
        p.pre_handler = None
        assert bench.call("f", 1, 2) == 3

    @pytest.mark.parametrize("inner", METHODS)
    @pytest.mark.parametrize("method", METHODS)
    def test_a_handler_may_catch_it_and_the_call_goes_on(self, make, profile, method, inner):
        bench = make(PLAIN, "mov eax, 5; nop; nop; mov rax, [rdi]; ret")
        caught: list[GuestFaultError] = []

        def handler(_p, _regs):
            try:
                bench.call_nested(0, G, 8)
            except GuestFaultError as error:
                caught.append(error)

        hits: list[int] = []
        q = put(bench, inner, symbol_name="g", pre_handler=lambda *_: hits.append(0))
        put(bench, method, symbol_name="f", pre_handler=handler)
        for times in (1, 2):
            assert bench.call("f", 1, 2) == 3
            assert [error.fault.place for error in caught] == ["g+0x7"] * times
            assert q.nmissed == times
        bench.start_call(0, G, (8,))
        (fault,) = bench.finish_calls()
        assert (fault.place, hits) == ("g+0x7", [0])

    @pytest.mark.parametrize("inner", METHODS)
    @pytest.mark.parametrize("method", METHODS)
    def test_one_that_dies_anywhere_leaves_the_hit_that_it_was_called_from_as_it_was(
        self, make, profile, method, inner
    ):
        bench = make(PLAIN, PLAIN)
        hits: list[int] = []
        limit = 1
        kinds: list[FaultKind] = []

        def handler(_p, _regs):
            try:
                bench.executor.call_nested(0, G, 1, 2, limit=limit)
            except GuestFaultError as error:
                kinds.append(error.fault.kind)

        put(bench, inner, symbol_name="g", pre_handler=lambda *_: hits.append(0))
        p = put(bench, method, symbol_name="f", pre_handler=handler)
        posts: list[int] = []
        if method == "stepped":
            p.post_handler = lambda *_: posts.append(0)
        while len(kinds) == limit - 1:
            assert bench.call("f", 1, 2) == 3
            assert bench.arch.ctlblk[0].current is None
            assert bench.call("g", 1, 2) == 3
            assert len(hits) == limit
            limit += 1
        assert set(kinds) == {FaultKind.INSTRUCTION_LIMIT}
        assert len(kinds) > (7 if inner == "stepped" and profile.steps_by_int3 else 30)
        assert len(posts) == (limit - 1 if method == "stepped" else 0)

    @pytest.mark.parametrize("inner", ["stepped", "boosted", "jump"])
    def test_a_fault_in_a_probed_instruction_of_a_nested_call_reaches_the_caller(self, make, inner):
        bench = make(PLAIN, "mov rax, [rdi]; nop; nop; nop; ret")
        good = bench.machine.allocate(8, (41).to_bytes(8, "little"))
        seen: list[tuple] = []
        answers: list[int] = []

        def mend(p, regs, trapnr):
            seen.append((p, trapnr, bench.arch.copies.original_ip(regs.ip)))
            regs.di = good
            return 1

        def wrong(*_):
            raise AssertionError("this probe was missed")

        q = put(bench, inner, symbol_name="g", pre_handler=wrong, fault_handler=wrong)
        p = put(
            bench,
            "jump",
            symbol_name="f",
            pre_handler=calling(bench, G, 8, answers=answers),
            fault_handler=mend,
        )
        assert bench.call("f", 1, 2) == 3
        assert seen == [(p, 14, G)]
        assert answers == [41]
        # The instruction runs again from its start, so a stepped one passes its breakpoint again.
        assert q.nmissed == (2 if inner == "stepped" else 1)

    @pytest.mark.parametrize("children", [1, 2])
    def test_a_fault_in_a_single_step_reaches_fault_handler_and_is_tried_again(
        self, make, children
    ):
        bench = make("mov rax, [rdi]; add rax, 1; ret")
        good = bench.machine.allocate(8, (41).to_bytes(8, "little"))
        seen: list[tuple] = []
        hits: list[int] = []

        def mend(p, regs, trapnr):
            seen.append((p, regs.ip, trapnr, regs.flags & 0x300))
            regs.di = good
            return 1

        p = put(
            bench,
            "stepped",
            symbol_name="f",
            pre_handler=lambda _p, regs: hits.append(regs.di),
            fault_handler=mend,
        )
        for _ in range(children - 1):
            put(bench, "stepped", symbol_name="f")
        assert bench.call("f", 8) == 42
        assert seen == [(p, BASE, 14, 0x200)]
        assert hits == [8, good], "the instruction is hit again"
        assert p.nmissed == 0

    def test_a_fault_in_a_single_step_that_is_not_mended_is_a_guest_fault_there(self, make):
        bench = make("mov rax, [rdi]; add rax, 1; ret")
        seen: list[int] = []
        put(
            bench,
            "stepped",
            symbol_name="f",
            fault_handler=lambda _p, regs, _n: seen.append(regs.ip) or 0,
        )
        bench.start_call(0, BASE, (8,))
        (fault,) = bench.finish_calls()
        assert (fault.place, seen) == ("f+0x0", [BASE])

    @pytest.mark.parametrize("method", ["boosted", "jump"])
    def test_a_fault_in_a_copy_that_is_not_stepped_is_the_guests_own(self, make, method):
        bench = make("mov rax, [rdi]; nop; nop; add rax, 1; ret")

        def wrong(*_):
            raise AssertionError("no hit is in progress any more")

        put(bench, method, symbol_name="f", fault_handler=wrong)
        bench.start_call(0, BASE, (8,))
        (fault,) = bench.finish_calls()
        assert fault.place == "f+0x0"

    def test_the_exception_table_comes_behind_fault_handler(self, make, profile):
        image = asm_image(
            PLAIN,
            "mov rax, [rdi]; ret; mov eax, 77; ret",
            exception_table=(ExceptionEntry(G, G + 4),),
        )
        bench = make(image)
        answers: list[int] = []
        asked: list[int] = []
        fields = (
            {}
            if profile.steps_by_int3
            else {"fault_handler": lambda _p, regs, _n: asked.append(regs.ip)}
        )
        put(
            bench,
            "jump",
            symbol_name="f",
            pre_handler=calling(bench, G, 8, answers=answers),
            **fields,
        )
        assert bench.call("f", 1, 2) == 3
        assert answers == [77]
        assert asked == ([] if profile.steps_by_int3 else [G])

    def test_a_nested_call_without_stack_is_a_fault_of_the_call(self, make, profile):
        bench = make(
            "mov rsp, rdi; nop; nop; nop; nop; mov rsp, rsi; ret",
            "push rax; push rax; push rax; pop rax; pop rax; pop rax; ret",
        )
        page = bench.machine.allocate(4096)
        put(bench, "jump", symbol_name="f", offset=3, pre_handler=calling(bench, G))
        bench.start_call(0, BASE, (page + 4096, bench.machine.tasks[0].stack_top - 72))
        assert bench.finish_calls() == []
        entered, caught = 0, bench.kprobes.get_kprobe(BASE + 3).children[0]
        inner = caught.pre_handler

        def handler(p, regs):
            nonlocal entered
            entered += 1
            return inner(p, regs)

        caught.pre_handler = handler
        ended: list[str] = []
        for room in range(8, 400, 8):
            entered = 0
            bench.start_call(0, BASE, (page + room, bench.machine.tasks[0].stack_top - 72))
            faults = bench.finish_calls()
            assert [fault.kind for fault in faults] in ([], [FaultKind.DOUBLE_FAULT])
            ended.append(f"{'inside' if entered else 'before'}" if faults else "good")
        assert ended == sorted(ended, key=["before", "inside", "good"].index)
        assert set(ended) == {"before", "inside", "good"}
