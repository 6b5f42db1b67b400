"""Laws of a return probe's registration and its instances, and of `optprobe run` with one."""

from __future__ import annotations

import errno

import pytest

from arch_x86.lab.run import ExecOptions, run_image
from engine.core.kretprobes import DATA_SIZE_MAX
from engine.errors import InputError, KprobeError
from engine.kprobe import KprobeFlag
from engine.kretprobe import Kretprobe
from engine.syntax.arguments import parse_argument
from engine.syntax.interrupts import EveryPlan
from engine.syntax.kprobe_events import parse_spec
from tests.conftest import BASE
from tests.engine.guests import (
    case,
    elf,
    run_case,
    start_case,
)
from tests.engine.returning import ADDING_XMM, G, registered, returns, workbenches


@pytest.fixture(params=[False, True], ids=["int3", "jump"])
def optimize(request):
    return request.param


@pytest.fixture
def make(pool, profile, optimize):
    """See :func:`workbenches`."""
    with workbenches(pool, profile, optimize=optimize) as build:
        yield build


class TestInstances:
    @pytest.mark.parametrize(
        ("cpus", "preemption", "want"), [(1, False, 1), (3, False, 3), (1, True, 10), (8, True, 16)]
    )
    def test_maxactive_goes_by_the_number_of_cpus(self, make, cpus, preemption, want):
        bench = make(ADDING_XMM, cpus=cpus, change={"preemption": preemption})
        rp, _ = returns(symbol_name="f")
        bench.kprobes.register_kretprobe(rp)
        assert rp.maxactive == len(rp.free_instances) == want

    def test_an_entry_handler_that_returns_non_zero_leaves_that_call_alone(self, make, profile):
        bench = make(ADDING_XMM)
        verdicts = iter([0, 1, 0, 0])
        rp, seen = returns(symbol_name="f", maxactive=2)
        rp.entry_handler = lambda _ri, _regs: next(verdicts)
        registered(bench, rp)
        for argument in (1, 2, 3, 4):
            assert bench.call("f", argument) == 2 * argument
        assert [found[1] for found in seen] == [2, 6, 8]
        assert rp.nmissed == 0
        # In 2010 an instance that was declined is lost.
        assert len(rp.free_instances) == (1 if profile.loses_declined else 2)

    def test_the_data_area_is_the_instances_own_from_entry_to_return_and_stays(self, make):
        bench = make(ADDING_XMM)
        found: list[bytes] = []

        def entered(ri, regs):
            found.append(bytes(ri.data))
            ri.data[:4] = regs.di.to_bytes(4, "little")

        rp = Kretprobe(
            symbol_name="f",
            entry_handler=entered,
            handler=lambda ri, _r: found.append(bytes(ri.data)),
            data_size=6,
        )
        registered(bench, rp)
        bench.call("f", 0x11223344)
        bench.call("f", 5)
        mark = bytes.fromhex("443322110000")
        assert found == [bytes(6), mark, mark, bytes.fromhex("050000000000")]

    @pytest.mark.parametrize(
        "end", ["ud2", "mov rsp, rdi; ret"], ids=["a fault", "a return past it"]
    )
    def test_instances_of_a_task_that_ends_inside_are_free_again(self, make, end):
        bench = make(
            "push rbx; mov rdi, rsp; add rdi, 8; call rsi; pop rbx; ret",
            f"mov eax, 9; nop; nop; {end}",
        )
        rp, seen = returns(symbol_name="g")
        registered(bench, rp)
        bench.start_call(0, BASE, (0, G))
        bench.finish_calls()
        assert seen == []
        assert len(rp.free_instances) == rp.maxactive == 1
        assert bench.kprobes.kretprobes.open_calls(0) == 0

    def test_an_exception_out_of_a_handler_ends_the_call_and_frees_its_instances(self, make):
        bench = make(ADDING_XMM)

        def refuse(_ri, _regs):
            raise ZeroDivisionError

        rp, seen = returns(symbol_name="f")
        good = rp.handler
        registered(bench, rp)
        for rp.entry_handler, rp.handler in ((refuse, good), (None, refuse)):
            with pytest.raises(ZeroDivisionError):
                bench.call("f", 5)
            assert len(rp.free_instances) == 1
        rp.handler = good
        assert bench.call("f", 5) == 10
        assert len(seen) == 1

    def test_a_snapshot_takes_open_calls_and_their_data_along(self, make):
        bench = make(elf("qsort.o"))
        log: list[int] = []

        def entered(ri, regs):
            ri.data[:] = regs.sp.to_bytes(8, "little")

        def left(ri, _regs):
            assert int.from_bytes(ri.data, "little") == ri.frame
            log.append(ri.frame)

        rp = Kretprobe(
            symbol_name="quicksort", entry_handler=entered, handler=left, maxactive=8, data_size=8
        )
        registered(bench, rp)
        check = start_case(bench, case("sort_i32-40"))
        bench.executor.advance(0, 3000)
        before = bench.kprobes.kretprobes.open_calls(0)
        assert before > 1
        snap = bench.machine.snapshot()
        runs = []
        for _ in range(3):
            log.clear()
            for ri in rp.instances:
                ri.ret_addr, ri.frame, ri.data[:] = 0, 0, b"scribble"
            bench.machine.restore(snap)
            assert bench.kprobes.kretprobes.open_calls(0) == before
            assert len(rp.free_instances) == 8 - before
            bench.finish_calls()
            check()
            runs.append(tuple(log))
            assert len(rp.free_instances) == 8
        assert len(set(runs)) == 1
        bench.machine.restore(snap)
        bench.kprobes.unregister_kretprobe(rp)
        check()


class TestRegistration:
    @pytest.mark.parametrize(
        ("where", "codes"),
        [
            ({"symbol_name": "f", "offset": 2}, (errno.EINVAL, errno.EINVAL)),
            ({"addr": BASE + 2}, (errno.EINVAL, errno.EINVAL)),
            ({"symbol_name": "f", "offset": 1}, (errno.EINVAL, errno.EINVAL)),
            ({"symbol_name": "f", "addr": BASE}, (errno.EINVAL, errno.EINVAL)),
            ({}, (errno.EINVAL, errno.EINVAL)),
            ({"symbol_name": "nosuch"}, (errno.EINVAL, errno.ENOENT)),
            ({"addr": 0x1234}, (errno.EINVAL, errno.ENOENT)),
        ],
    )
    def test_only_a_functions_first_byte_takes_one(self, make, profile, where, codes):
        bench = make(ADDING_XMM)
        rp, _ = returns(**where)
        with pytest.raises(KprobeError) as refused:
            bench.kprobes.register_kretprobe(rp)
        assert refused.value.errno == codes[profile.rethook]
        assert not bench.kprobes.kprobe_table
        assert rp.free_instances == []

    @pytest.mark.parametrize("cleared", [False, True])
    @pytest.mark.parametrize("where", [{"symbol_name": "f"}, {"addr": BASE}])
    def test_one_that_is_registered_is_not_registered_again(self, make, where, cleared):
        bench = make(ADDING_XMM)
        rp, seen = returns(**where)
        registered(bench, rp)
        if cleared:
            rp.kp.addr = None
        with pytest.raises(KprobeError) as refused:
            bench.kprobes.register_kretprobe(rp)
        assert refused.value.errno == errno.EINVAL
        assert bench.call("f", 5) == 10
        assert len(seen) == 1

    def test_too_much_data_an_instance_is_e2big_in_6_1(self, make, profile):
        bench = make(ADDING_XMM)
        rp, _ = returns(symbol_name="f", data_size=DATA_SIZE_MAX + 1)
        if not profile.rethook:
            bench.kprobes.register_kretprobe(rp)
            return
        with pytest.raises(KprobeError) as refused:
            bench.kprobes.register_kretprobe(rp)
        assert refused.value.errno == errno.E2BIG

    def test_a_list_is_registered_whole_or_not_at_all(self, make):
        bench = make(ADDING_XMM, "mov eax, 1; nop; ret")
        (good, seen), (bad, _) = returns(symbol_name="g"), returns(symbol_name="f", offset=2)
        with pytest.raises(KprobeError):
            bench.kprobes.register_kretprobes([good, bad])
        bench.kprobes.wait_for_kprobe_optimizer()
        assert not bench.kprobes.kprobe_table
        with pytest.raises(KprobeError) as refused:
            bench.kprobes.register_kretprobes([])
        assert refused.value.errno == errno.EINVAL
        good.kp.addr, good.kp.flags = None, KprobeFlag(0)
        more, also = returns(symbol_name="f")
        bench.kprobes.register_kretprobes([good, more])
        assert (bench.call("g"), bench.call("f", 1)) == (1, 2)
        assert (len(seen), len(also)) == (1, 1)
        assert bench.kprobes.unregister_kretprobes([good, more, bad]) == 2
        bench.kprobes.wait_for_kprobe_optimizer()
        assert not bench.kprobes.kprobe_table

    def test_a_disabled_one_follows_no_call_until_it_is_enabled(self, make):
        bench = make(ADDING_XMM)
        rp, seen = returns(symbol_name="f", flags=KprobeFlag.DISABLED)
        registered(bench, rp)
        for enabled in (False, True, False):
            (bench.kprobes.enable_kprobe if enabled else bench.kprobes.disable_kprobe)(rp.kp)
            assert bench.call("f", 5) == 10
            bench.kprobes.wait_for_kprobe_optimizer()
        assert len(seen) == 1
        assert rp.nmissed == 0

    def test_unregistering_with_calls_in_flight_lets_them_return_without_the_handler(self, make):
        # RSI is schedule(), a quiescent point in the middle of a probed call, behind which more
        # than a turn is left.
        bench = make(
            "push rbx; mov rbx, rdi; nop; nop; call rsi; mov ecx, 2000; l: dec ecx; jnz l; "
            "mov rax, rbx; pop rbx; ret"
        )
        rp, seen = returns(symbol_name="f")
        registered(bench, rp)
        bench.start_call(0, BASE, (77, bench.machine.stubs.schedule))
        while not (
            bench.kprobes.kretprobes.open_calls(0)
            and bench.image.is_text(bench.machine.cpus[0].rip)
        ):
            bench.executor.advance(0, 1)
        assert bench.kprobes.unregister_kretprobe(rp)
        assert bench.executor.running(0)
        assert bench.kprobes.kretprobes.open_calls(0) == 1
        bench.finish_calls()
        assert bench.machine.cpus[0].registers()[0] == 77
        assert bench.kprobes.kretprobes.open_calls(0) == 0
        assert seen == []

    def test_a_call_that_returns_during_the_grace_period_calls_the_handler_in_2010_only(
        self, make, profile
    ):
        bench = make(
            "push rbx; mov rbx, rdi; nop; nop; mov ecx, 2000; l: dec ecx; jnz l; mov rax, rbx; "
            "pop rbx; ret"
        )
        rp, seen = returns(symbol_name="f")
        registered(bench, rp)
        bench.start_call(0, BASE, (77,))
        bench.executor.advance(0, 500)
        assert bench.kprobes.unregister_kretprobe(rp)
        assert not bench.executor.running(0), "nothing quiescent before its end"
        assert bench.machine.cpus[0].registers()[0] == 77
        assert len(seen) == (0 if profile.rethook else 1)

    def test_a_register_unregister_cycle_leaves_the_text_as_it_was(self, make):
        bench = make(elf("qsort.o"))
        original = bench.machine.text.read(BASE, 1024)
        rp, seen = returns(symbol_name="quicksort", maxactive=50)
        for times in (1, 2):
            rp.kp.addr, rp.kp.flags = None, KprobeFlag(0)
            registered(bench, rp)
            run_case(bench, case("sort_i32-2"))
            assert len(seen) == 2 * times, "the last run counts anew"
            assert bench.kprobes.unregister_kretprobe(rp)
            assert not bench.kprobes.unregister_kretprobe(rp)
            bench.kprobes.wait_for_kprobe_optimizer()
            run_case(bench, case("sort_i32-2"))
        assert bench.machine.text.read(BASE, 1024) == original


class TestRun:
    """``optprobe run`` with ``r[MAXACTIVE] SYM``."""

    def run(self, spec: str, profile, optimize, *, cpus: int = 1, name: str = "sort_i32-40"):
        found = case(name)
        return run_image(
            elf("qsort.o"),
            found.symbol,
            [parse_argument(a) for a in found.args],
            [parse_spec(spec), parse_spec("p quicksort")],
            interrupts=EveryPlan(50),
            optimize=optimize,
            options=ExecOptions(profile=profile, cpus=cpus),
        )

    @pytest.mark.parametrize("spec", ["r quicksort", "r3:grp/ev quicksort", "r64 quicksort"])
    def test_hits_are_returns_followed_and_misses_those_without_an_instance(
        self, profile, optimize, spec
    ):
        result = self.run(spec, profile, optimize, cpus=2)
        of_return, of_entry = result.probes
        assert of_return.hits + of_return.misses == of_entry.hits > 20
        assert (of_return.misses == 0) == spec.startswith("r64")
        assert of_return.symbol == "quicksort"
        assert {call.result for call in result.calls} == {case("sort_i32-40").result}

    def test_maxactive_above_4096_is_e2big(self, profile, optimize):
        with pytest.raises(KprobeError) as refused:
            self.run("r4097 quicksort", profile, optimize)
        assert refused.value.errno == errno.E2BIG

    def test_fetch_arguments_are_still_refused(self, profile, optimize):
        with pytest.raises(InputError, match="fetch arguments"):
            self.run("r quicksort $retval", profile, optimize)
