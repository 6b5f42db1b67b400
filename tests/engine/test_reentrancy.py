"""Laws of probes that are hit while a handler runs."""

from __future__ import annotations

import pytest

from arch_x86.lab.calls import place_call
from arch_x86.lab.run import ExecOptions
from arch_x86.lab.run_script import run_script
from engine.kretprobe import Kretprobe
from engine.syntax.arguments import parse_argument
from engine.syntax.interrupts import EveryPlan
from engine.syntax.script import parse_script
from tests.conftest import BASE, asm_image
from tests.engine.guests import (
    case,
    elf,
    run_case,
    start_case,
)
from tests.engine.handlers import METHODS, PLAIN, G, calling, put, workbenches


@pytest.fixture
def make(pool, request):
    """See :func:`workbenches`."""
    with workbenches(pool, request) as build:
        yield build


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
