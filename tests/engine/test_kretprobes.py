"""Laws of return probes on real functions, by breakpoint and by jump, in every profile."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from arch_x86.emu.fault import FaultKind
from arch_x86.lab.run import ExecOptions, run_image
from engine.core.debugfs import kprobes_list
from engine.core.kretprobes import DATA_SIZE_MAX
from engine.core.profiles import PROFILES
from engine.errors import InputError, KprobeError
from engine.kprobe import Kprobe, KprobeFlag, Method
from engine.kretprobe import Kretprobe
from engine.syntax.arguments import parse_argument
from engine.syntax.interrupts import EveryPlan
from engine.syntax.kprobe_events import parse_spec
from tests.conftest import BASE, asm_image
from tests.engine.guests import (
    case,
    elf,
    interrupted_everywhere,
    run_case,
    start_case,
    workbench_of,
)

G = BASE + 256
# It returns with every kind of result: RAX, XMM0, flags.
ADDING_XMM = "mov eax, edi; nop; nop; nop; add eax, edi; movq xmm0, rdi; cmp edi, 99; ret"


@pytest.fixture(params=PROFILES, ids=lambda profile: profile.name)
def profile(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["int3", "jump"])
def optimize(request):
    return request.param


@pytest.fixture
def make(pool, profile, optimize):
    """``make(image or texts, ...)`` makes a workbench of the profile and method."""
    made = []

    def build(*what, cpus: int = 1, change=None, **fields):
        image = asm_image(*what, **fields) if isinstance(what[0], str) else what[0]
        made.append(
            workbench_of(
                image, pool, replace(profile, **(change or {})), optimize=optimize, cpus=cpus
            )
        )
        return made[-1]

    yield build
    for one in made:
        one.close()


def registered(bench, *rps: Kretprobe) -> None:
    for rp in rps:
        bench.kprobes.register_kretprobe(rp)
    bench.kprobes.wait_for_kprobe_optimizer()


def returns(**fields) -> tuple[Kretprobe, list]:
    """A return probe, and a list of ``(ri, regs.ax, ri.ret_addr, regs.ip, regs.sp)`` a return."""
    seen: list = []
    return (
        Kretprobe(
            handler=lambda ri, regs: seen.append((ri, regs.ax, ri.ret_addr, regs.ip, regs.sp)),
            **fields,
        ),
        seen,
    )


class TestReturns:
    def test_the_handler_runs_once_a_return_with_the_registers_of_the_caller(
        self, make, profile, optimize
    ):
        bench = make(ADDING_XMM)
        rp, seen = returns(symbol_name="f")
        registered(bench, rp)
        assert bench.method(rp.kp) is (Method.OPTIMIZED if optimize else Method.BOOSTED)
        for argument in (5, 7):
            assert bench.call("f", argument) == 2 * argument
        stubs, top = bench.machine.stubs, bench.machine.tasks[0].base_rsp
        ip = stubs.call_return if profile.rethook else stubs.trampoline
        assert [found[1:] for found in seen] == [
            (10, stubs.call_return, ip, top),
            (14, stubs.call_return, ip, top),
        ]
        assert rp.nmissed == rp.kp.nmissed == 0

    def test_the_rest_of_pt_regs_is_that_of_kernel_code_that_made_no_system_call(self, make):
        bench = make(ADDING_XMM)
        found: list[tuple[int, ...]] = []
        registered(
            bench,
            Kretprobe(
                symbol_name="f",
                handler=lambda _ri, r: found.append((r.cs, r.ss, r.orig_ax, r.flags & 0xCD5)),
            ),
        )
        bench.call("f", 99)
        assert found == [(0x08, 0x10, (1 << 64) - 1, 0x44)]  # ZF and PF of the comparison

    @pytest.mark.parametrize("red_zone", [False, True])
    def test_results_flags_and_the_red_zone_survive_an_interrupt_at_every_boundary(
        self, make, red_zone
    ):
        text = (
            "mov [rsp - 64], rdi; mov eax, 7; call g2; lea rax, [rax + 2]; nop; nop; ret; "
            "g2: mov edx, eax; nop; nop; nop; add eax, eax; stc; ret"
        )
        if red_zone:  # a leaf that keeps data under RSP across its return address
            text = (
                "lea rax, [rdi + rdi]; mov [rsp - 64], rax; mov [rsp - 128], rdi; "
                "mov rdx, [rsp - 64]; add rdx, [rsp - 128]; cmp edi, 99; ret"
            )
        image = asm_image(text, red_zone=red_zone)
        plain = make(image)
        want, _ = interrupted_everywhere(plain, lambda: plain.start_call(0, BASE, (5,)))
        bench = make(image)
        rp, seen = returns(symbol_name="f")
        registered(bench, rp)
        _, taken = interrupted_everywhere(bench, lambda: bench.start_call(0, BASE, (5,)), want)
        assert len(seen) > taken > 40  # once a run; IF is clear around a breakpoint only

    def test_what_lies_under_the_red_zones_rsp_is_left_alone_by_the_trampoline(self, make):
        # No compiler does this, but it is promised: f reads what lies 16 and 128 bytes under the
        # RSP that g left.
        reader = "sub rsp, 8; call rsi; mov rax, [rsp - 128]; xor rax, [rsp - 16]; add rsp, 8; ret"
        bench = make(
            reader, "mov ecx, 3; mov [rsp - 120], rdi; mov [rsp - 8], rcx; ret", red_zone=True
        )
        rp, seen = returns(symbol_name="g")
        registered(bench, rp)
        assert bench.call("f", 0x77, G) == 0x77 ^ 3
        assert len(seen) == 1

    def test_a_handler_may_change_the_result_but_not_where_the_function_returns(self, make):
        bench = make(ADDING_XMM)

        def change(_ri, regs):
            regs.ax, regs.ip, regs.sp = 1234, 0, 0

        registered(bench, Kretprobe(symbol_name="f", handler=change))
        assert bench.call("f", 5) == 1234

    def test_the_entry_is_an_ordinary_probe_beside_others(self, make, optimize):
        bench = make(ADDING_XMM)
        order: list[str] = []
        before, after = (
            Kprobe(symbol_name="f", pre_handler=lambda _p, _r, n=n: order.append(n))
            for n in ("before", "after")
        )
        rp = Kretprobe(
            symbol_name="f",
            entry_handler=lambda _ri, _r: order.append("entry"),
            handler=lambda _ri, _r: order.append("return"),
        )
        bench.kprobes.register_kprobe(before)
        bench.kprobes.register_kretprobe(rp)
        bench.kprobes.register_kprobe(after)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert bench.call("f", 5) == 10
        assert order == ["after", "entry", "before", "return"]
        assert bench.method(rp.kp) is (Method.OPTIMIZED if optimize else Method.BOOSTED)
        kinds = [line.split()[1] for line in kprobes_list(bench.kprobes).splitlines()]
        assert kinds == ["k", "r", "k"]


class TestNesting:
    def test_a_recursive_function_returns_in_the_reverse_order_of_its_calls(self, make):
        bench = make(elf("qsort.o"))
        depth: list[int] = []
        returned: list[int] = []

        def entered(ri, regs):
            depth.append(regs.sp)
            ri.data[:] = regs.sp.to_bytes(8, "little")

        def left(ri, regs):
            assert int.from_bytes(ri.data, "little") == depth.pop() == ri.frame == regs.sp - 8
            returned.append(ri.ret_addr)

        rp = Kretprobe(
            symbol_name="quicksort", entry_handler=entered, handler=left, maxactive=64, data_size=8
        )
        calls: list[int] = []
        registered(bench, rp)
        bench.kprobes.register_kprobe(
            Kprobe(symbol_name="quicksort", pre_handler=lambda _p, regs: calls.append(regs.sp))
        )
        bench.kprobes.wait_for_kprobe_optimizer()
        bench.interrupts = EveryPlan(17)
        run_case(bench, case("sort_i32-40"))
        assert len(set(calls)) > 3, "it did recurse"
        assert len(returned) == len(calls) > 20
        assert depth == []
        assert {bench.machine.kallsyms.lookup(addr)[0].name for addr in returned} == {
            "sort_i32",
            "quicksort",
        }
        assert len(rp.free_instances) == 64

    def test_calls_without_a_free_instance_are_missed_and_counted(self, make):
        bench = make(elf("qsort.o"))
        few, hits = returns(symbol_name="quicksort", maxactive=2)
        all_, every = returns(symbol_name="quicksort", maxactive=64)
        registered(bench, few, all_)
        run_case(bench, case("sort_i32-40"))
        assert few.nmissed > 0 == all_.nmissed
        assert len(hits) + few.nmissed == len(every)
        assert len(few.free_instances) == 2

    def test_a_probe_that_is_hit_in_the_handler_of_a_return_is_missed(self, make):
        bench = make(ADDING_XMM, "mov eax, edi; nop; nop; nop; ret")
        hits: list[int] = []
        inner = Kprobe(symbol_name="g", pre_handler=lambda _p, regs: hits.append(regs.di) or 0)
        bench.kprobes.register_kprobe(inner)
        registered(
            bench, Kretprobe(symbol_name="f", handler=lambda *_: bench.call_nested(0, G, 7) and 0)
        )
        assert bench.call("f", 21) == 42
        assert (hits, inner.nmissed) == ([], 1)
        assert bench.call("g", 5) == 5
        assert (hits, inner.nmissed) == ([5], 1)

    def test_probes_on_nested_functions_each_follow_their_own(self, make):
        bench = make(elf("sha256.o"))
        (outer, outer_seen), (inner, inner_seen) = (
            returns(symbol_name="sha256"),
            returns(symbol_name="compress"),
        )
        registered(bench, outer, inner)
        run_case(bench, case("sha256-200"))
        assert (len(outer_seen), len(inner_seen)) == (1, 4)
        assert outer_seen[0][2] == bench.machine.stubs.call_return
        assert {bench.machine.kallsyms.lookup(found[2])[0].name for found in inner_seen} <= {
            "sha256",
            "update",
            "finish",
        }

    def test_several_probes_on_a_function_return_oldest_first(self, make, profile):
        bench = make(ADDING_XMM)
        order: list[tuple[int, int]] = []
        probes = [
            Kretprobe(symbol_name="f", handler=lambda ri, _r, i=i: order.append((i, ri.ret_addr)))
            for i in range(3)
        ]
        registered(bench, *probes)
        assert bench.call("f", 5) == 10
        stubs = bench.machine.stubs
        # The newest is entered first and finds the real return address. The others find the
        # trampoline's, which 2010 replaces by the real one for their handlers.
        other = stubs.trampoline if profile.rethook else stubs.call_return
        assert order == [(0, other), (1, other), (2, stubs.call_return)]
        assert [len(rp.free_instances) for rp in probes] == [1, 1, 1]

    def test_each_cpu_has_calls_of_its_own(self, make):
        bench = make(elf("qsort.o"), cpus=2)
        frames: list[list[int]] = [[], []]
        limits = [task.stack_top for task in bench.machine.tasks]

        def cpu_of(regs) -> int:
            return 0 if regs.sp < limits[0] else 1

        rp = Kretprobe(
            symbol_name="quicksort",
            entry_handler=lambda _ri, regs: frames[cpu_of(regs)].append(regs.sp),
            maxactive=99,
        )
        rp.handler = lambda ri, regs: frames[cpu_of(regs)].remove(ri.frame)
        registered(bench, rp)
        checks = [start_case(bench, case("sort_i32-40"), cpu) for cpu in (0, 1)]
        deepest = 0
        while any(bench.executor.running(cpu) for cpu in (0, 1)):
            for cpu in (0, 1):
                bench.executor.advance(cpu, 37)
            deepest = max(deepest, min(map(len, frames)))
        for check in checks:
            check()
        assert deepest > 1, "both were inside at once"
        assert frames == [[], []]

    def test_a_tail_called_function_returns_for_both(self, make):
        bench = make("mov eax, edi; nop; nop; nop; jmp rsi", "lea eax, [rax + 3]; nop; nop; ret")
        (outer, first), (inner, second) = returns(symbol_name="f"), returns(symbol_name="g")
        registered(bench, outer, inner)
        assert bench.call("f", 5, G) == 8
        assert [found[1] for found in first + second] == [8, 8]


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


class TestTrampoline:
    def test_a_return_into_the_trampoline_that_nobody_has_prepared_is_a_guest_fault(self, make):
        bench = make("mov [rsp], rdi; ret")
        bench.start_call(0, BASE, (bench.machine.stubs.trampoline,))
        (fault,) = bench.finish_calls()
        assert fault.kind is FaultKind.ABORT
        assert "no probed call is open" in fault.explain

    def test_a_stack_that_ends_where_the_return_address_lies_is_a_miss(self, make):
        bench = make(
            "push rbx; mov rbx, rsp; mov rsp, rdi; jmp rsi", "mov rsp, rbx; nop; nop; pop rbx; ret"
        )
        end = bench.machine.allocate(4096) + 4096
        rp, seen = returns(symbol_name="g")
        registered(bench, rp)
        bench.start_call(0, BASE, (end, G))
        assert bench.finish_calls() == []
        assert (rp.nmissed, len(rp.free_instances), seen) == (1, 1, [])

    def test_a_call_that_dies_in_the_trampoline_is_reported_where_it_was_about_to_return(
        self, make
    ):
        bench = make("sub rsp, 8; call rsi; nop; add rsp, 8; ret", "mov eax, 1; nop; ret")
        rp, _ = returns(symbol_name="g")
        registered(bench, rp)
        # every instruction of the trampoline, up to the host's answer and behind it
        for beyond in range(60):
            bench.start_call(0, BASE, (0, G))
            while bench.machine.cpus[0].rip != bench.machine.stubs.trampoline:
                bench.executor.advance(0, 1)
            if beyond:
                bench.executor.advance(0, beyond)
            if bench.machine.cpus[0].rip == BASE + 6:
                break
            bench.executor.limit_reached(0, 1)
            assert bench.machine.tasks[0].fault.place == "f+0x6", beyond
        else:
            pytest.fail("the trampoline has more instructions than these")

    def test_a_fault_behind_a_probed_return_names_the_caller(self, make):
        bench = make("sub rsp, 8; call rsi; ud2", "mov eax, 1; nop; ret")
        rp, seen = returns(symbol_name="g")
        registered(bench, rp)
        bench.start_call(0, BASE, (0, G))
        (fault,) = bench.finish_calls()
        assert fault.place == "f+0x6"
        assert len(seen) == 1


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
