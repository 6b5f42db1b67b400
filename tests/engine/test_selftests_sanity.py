"""The scenarios of lib/test_kprobes.c of v6.1 as laws.

They have handlers around a function, several probes at once, missed hits, returns, and callers.
"""

from __future__ import annotations

import pytest

from arch_x86.emu.fault import FaultKind
from engine.kprobe import Kprobe, KprobeFlag
from engine.kretprobe import Kretprobe
from tests.conftest import asm_image
from tests.engine.guests import case, elf, run_case

WAIT = pytest.mark.parametrize("wait", [False, True], ids=["int3", "waited"])


class TestKprobes:
    @WAIT
    def test_a_probe_runs_its_handlers_around_the_function_once_a_call(
        self, bench_of, profile, wait
    ):
        bench = bench_of(profile)
        seen: list[str] = []
        p = Kprobe(
            symbol_name="f",
            pre_handler=lambda *_: seen.append("pre"),
            post_handler=lambda *_: seen.append("post"),
        )
        bench.kprobes.register_kprobe(p)
        if wait:
            bench.kprobes.wait_for_kprobe_optimizer()
        assert (bench.call("f", 7), seen) == (10, ["pre", "post"])
        bench.kprobes.unregister_kprobe(p)
        assert (bench.call("f", 7), seen) == (10, ["pre", "post"])

    @WAIT
    def test_one_used_before_can_be_beside_another_and_each_is_hit_by_its_own_function(
        self, bench_of, profile, wait
    ):
        bench = bench_of(profile)
        seen: list[str] = []
        probes = [
            Kprobe(
                symbol_name=name,
                pre_handler=lambda *_, n=name: seen.append(f"{n} pre"),
                post_handler=lambda *_, n=name: seen.append(f"{n} post"),
            )
            for name in ("f", "g")
        ]
        bench.kprobes.register_kprobe(probes[0])
        bench.kprobes.unregister_kprobe(probes[0])
        # In the kernels, unregistering leaves the flag set.
        assert bool(probes[0].flags & KprobeFlag.DISABLED) is not profile.gives_flags_back
        probes[0].addr, probes[0].flags = None, KprobeFlag(0)
        bench.kprobes.register_kprobes(probes)
        if wait:
            bench.kprobes.wait_for_kprobe_optimizer()
        assert (bench.call("f", 1), bench.call("g", 1)) == (4, 6)
        assert seen == ["f pre", "f post", "g pre", "g post"]
        assert bench.kprobes.unregister_kprobes(probes) == 2
        assert (bench.call("f", 1), bench.call("g", 1), len(seen)) == (4, 6, 4)

    @WAIT
    def test_a_hit_inside_a_handler_is_missed_and_still_runs(self, bench_of, profile, wait):
        bench = bench_of(profile)
        inner: list[int] = []

        def outer_handler(_p, _regs):
            inner.append(bench.call_nested(0, bench.image.by_name["g"].addr, 1))

        outer, other = (
            Kprobe(symbol_name="f", pre_handler=outer_handler),
            Kprobe(symbol_name="g", pre_handler=lambda *_: inner.append(-1)),
        )
        bench.kprobes.register_kprobes([outer, other])
        if wait:
            bench.kprobes.wait_for_kprobe_optimizer()
        assert (bench.call("f", 1), inner, other.nmissed, outer.nmissed) == (4, [6], 1, 0)
        assert (bench.call("g", 1), inner, other.nmissed) == (6, [6, -1], 1)

    def test_a_disabled_one_is_not_hit(self, bench_of, profile):
        bench = bench_of(profile)
        hits: list[int] = []
        p = Kprobe(
            symbol_name="f", pre_handler=lambda *_: hits.append(1), flags=KprobeFlag.DISABLED
        )
        bench.kprobes.register_kprobe(p)
        assert (bench.call("f", 1), hits) == (4, [])
        bench.kprobes.enable_kprobe(p)
        assert (bench.call("f", 1), hits) == (4, [1])


class TestKretprobes:
    @WAIT
    def test_a_return_probe_sees_the_arguments_then_the_result(self, bench_of, profile, wait):
        bench = bench_of(profile)
        seen: list[tuple[str, int]] = []
        rp = Kretprobe(
            symbol_name="f",
            entry_handler=lambda _ri, regs: seen.append(("entry", regs.di)),
            handler=lambda _ri, regs: seen.append(("return", regs.ax)),
        )
        bench.kprobes.register_kretprobe(rp)
        if wait:
            bench.kprobes.wait_for_kprobe_optimizer()
        assert (bench.call("f", 7), seen) == (10, [("entry", 7), ("return", 10)])
        assert bench.kprobes.unregister_kretprobe(rp)
        assert (bench.call("f", 7), len(seen)) == (10, 2)

    def test_one_used_before_can_be_beside_another_and_each_sees_its_own_function(
        self, bench_of, profile
    ):
        bench = bench_of(profile)
        seen: list[int] = []
        returns = [
            Kretprobe(symbol_name=name, handler=lambda _ri, regs: seen.append(regs.ax))
            for name in ("f", "g")
        ]
        bench.kprobes.register_kretprobe(returns[0])
        bench.kprobes.unregister_kretprobe(returns[0])
        returns[0].kp.addr, returns[0].kp.flags = None, KprobeFlag(0)
        bench.kprobes.register_kretprobes(returns)
        assert (bench.call("f", 1), bench.call("g", 1), seen) == (4, 6, [4, 6])
        assert bench.kprobes.unregister_kretprobes(returns) == 2
        assert (bench.call("f", 1), bench.call("g", 1), len(seen)) == (4, 6, 2)

    def test_every_return_of_compiled_code_is_seen_and_its_result_is_right(self, bench_of, profile):
        found = case("sha256-200")
        bench = bench_of(profile, elf(found.image))
        seen: list[str] = []
        returns = [
            Kretprobe(
                symbol_name=name,
                entry_handler=lambda _ri, _regs, n=name: seen.append(f"> {n}"),
                handler=lambda _ri, _regs, n=name: seen.append(f"< {n}"),
            )
            for name in ("sha256", "compress")
        ]
        bench.kprobes.register_kretprobes(returns)
        bench.kprobes.wait_for_kprobe_optimizer()
        run_case(bench, found)
        assert seen == ["> sha256", *["> compress", "< compress"] * 4, "< sha256"]
        assert [rp.nmissed for rp in returns] == [0, 0]


class TestWhoCalled:
    """A stack trace in a return handler consists of the real return addresses.

    The stack itself holds the trampoline's address.
    """

    NESTED = (
        "call 0x10000100; add rax, 1; ret",
        "mov rax, [rsp]; nop; nop; ret",
        "mov rax, [rsp]; nop; nop; ret",
    )

    def test_it_is_known_where_the_function_goes_back_to(self, bench_of, profile):
        bench = bench_of(profile, asm_image(*self.NESTED))
        home = bench.call("h")
        seen: list[tuple[int, int]] = []
        rp = Kretprobe(
            symbol_name="h", handler=lambda ri, regs: seen.append((ri.ret_addr, regs.ip))
        )
        bench.kprobes.register_kretprobe(rp)
        assert bench.call("h") == bench.arch.trampoline
        assert seen == [(home, home if profile.rethook else bench.arch.trampoline)]
        assert bench.machine.stubs.call_return == home

    def test_of_nested_calls_each_is_known_while_both_are_open(self, bench_of, profile):
        bench = bench_of(profile, asm_image(*self.NESTED))
        behind_call = bench.call("f") - 1
        assert bench.kprobes.kallsyms.describe(behind_call) == "f+0x5"
        home = bench.machine.stubs.call_return
        core = bench.kprobes.kretprobes
        seen: list[tuple[str, int, int | None, int]] = []

        def returned(name: str):
            return lambda ri, _regs: seen.append(
                (name, ri.ret_addr, core.pending_return(0), core.open_calls(0))
            )

        outer, inner = (Kretprobe(symbol_name=name, handler=returned(name)) for name in ("f", "g"))
        bench.kprobes.register_kretprobes([outer, inner])
        bench.call("f")
        assert seen == [("g", behind_call, behind_call, 2), ("f", home, home, 1)]
        assert (core.open_calls(0), core.pending_return(0)) == (0, None)

    def test_a_fault_in_the_function_is_reported_with_no_trampoline_in_sight(
        self, bench_of, profile
    ):
        bench = bench_of(profile, asm_image("mov rax, [rdi]; ret"))
        bench.kprobes.register_kretprobe(Kretprobe(symbol_name="f"))
        bench.start_call(0, bench.image.by_name["f"].addr, (0,))
        (fault,) = bench.finish_calls()
        assert (fault.kind, bench.kprobes.kallsyms.describe(fault.rip)) == (
            FaultKind.UNMAPPED_ACCESS,
            "f+0x0",
        )
        assert bench.kprobes.kretprobes.open_calls(0) == 0
