"""Laws of faults in handlers, in functions that they call, and in single steps."""

from __future__ import annotations

import errno

import pytest

from arch_x86.emu.fault import FaultKind, GuestFaultError
from engine.core.profiles import LINUX_6_1
from engine.errors import KprobeError
from engine.image import ExceptionEntry
from engine.kprobe import Kprobe
from tests.conftest import BASE, asm_image
from tests.engine.guests import (
    workbench_of,
)
from tests.engine.handlers import METHODS, PLAIN, G, calling, put, workbenches


@pytest.fixture
def make(pool, request):
    """See :func:`workbenches`."""
    with workbenches(pool, request) as build:
        yield build


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
