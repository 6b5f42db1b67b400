"""Laws of the pokes of ``next``: those of a pass or an operation share their core syncs.

Up to 256 pokes do so, and a CPU that comes by meanwhile loses no hit.
"""

from __future__ import annotations

import pytest

from arch_x86.isa.constants import INT3
from arch_x86.lab.demo import many_functions
from arch_x86.probes.breakpoint import BreakpointHandler
from engine.core.ablation import without
from engine.core.global_switches import set_kprobes_enabled
from engine.core.profiles import NEXT
from engine.errors import KprobeError
from engine.hit_phases import HitPhase
from engine.kprobe import Kprobe, Method
from engine.kretprobe import Kretprobe
from tests.conftest import asm_image
from tests.engine.states import whole

COUNTS = pytest.mark.parametrize(("count", "batches"), [(1, 1), (3, 1), (256, 1), (257, 2)])
# f(n) = 2n, g(n) = 2n + 2, h(n) = 2n + 4
ADDS = [f"lea rax, [rdi + {n}]; lea rax, [rax + rax]; ret" for n in range(3)]


def probes(bench, **fields) -> list[Kprobe]:
    return [Kprobe(symbol_name=symbol.name, **fields) for symbol in bench.image.functions]


def syncs(bench, work) -> int:
    before = bench.plane.stats.syncs
    work()
    assert bench.plane.stats.stop_machine == 0
    return bench.plane.stats.syncs - before


@pytest.fixture
def log(bench_of, monkeypatch):
    """``log(bench)`` makes a list that gets all pokes from now on, in order.

    A write is the pair of its address and bytes; core syncs and waits are texts.
    """

    def start(bench) -> list[object]:
        events: list[object] = []
        bench.machine.text.listeners.append(lambda write: events.append((write.addr, write.data)))
        for name, what in (
            ("text_poke_sync", "sync"),
            ("traps_over", "traps over"),
            ("synchronize_rcu_tasks", "wait"),
        ):
            real = getattr(bench.plane, name)

            def noted(why: str, real=real, what=what) -> None:
                events.append(what)
                real(why)

            monkeypatch.setattr(bench.plane, name, noted)
        return events

    return start


class TestCoreSyncs:
    @COUNTS
    def test_n_probes_are_one_batch_to_arm_and_three_to_optimize_or_undo_and_disarm(
        self, bench_of, count, batches
    ):
        bench = bench_of(NEXT, many_functions(count))
        all_of_them = probes(bench)
        core = bench.kprobes
        assert syncs(bench, lambda: core.register_kprobes(all_of_them)) == batches
        assert syncs(bench, core.wait_for_kprobe_optimizer) == 3 * batches
        assert {bench.method(p) for p in all_of_them} == {Method.OPTIMIZED}
        assert syncs(bench, lambda: core.unregister_kprobes(all_of_them)) == 0
        assert syncs(bench, core.wait_for_kprobe_optimizer) == (2 + 1) * batches
        assert (whole(bench), core.kprobe_table) == (True, {})

    @COUNTS
    def test_of_n_breakpoints_are_one_a_batch_in_and_out(self, bench_of, count, batches):
        bench = bench_of(NEXT, many_functions(count))
        all_of_them = probes(bench, post_handler=lambda *_: None)
        assert syncs(bench, lambda: bench.kprobes.register_kprobes(all_of_them)) == batches
        assert syncs(bench, lambda: bench.kprobes.unregister_kprobes(all_of_them)) == batches
        assert (whole(bench), bench.kprobes.kprobe_table) == (True, {})

    @COUNTS
    def test_of_disarming_all_are_those_of_one_pass_and_of_arming_all_one_a_batch(
        self, bench_of, count, batches
    ):
        bench = bench_of(NEXT, many_functions(count))
        bench.kprobes.register_kprobes(probes(bench))
        bench.kprobes.wait_for_kprobe_optimizer()
        assert (
            syncs(bench, lambda: set_kprobes_enabled(bench.kprobes, on=False)) == (2 + 1) * batches
        )
        assert whole(bench)
        assert syncs(bench, lambda: set_kprobes_enabled(bench.kprobes, on=True)) == batches
        assert syncs(bench, bench.kprobes.wait_for_kprobe_optimizer) == 3 * batches

    def test_of_return_probes_are_shared_too(self, bench_of):
        bench = bench_of(NEXT, many_functions(5))
        returns = [Kretprobe(symbol_name=symbol.name) for symbol in bench.image.functions]
        assert syncs(bench, lambda: bench.kprobes.register_kretprobes(returns)) == 1
        bench.kprobes.kprobes_allow_optimization = False
        assert syncs(bench, lambda: bench.kprobes.unregister_kretprobes(returns)) == 1

    def test_of_many_probes_at_few_addresses_are_those_of_the_addresses(self, bench_of):
        bench = bench_of(NEXT, asm_image(*ADDS))
        several = [p for _ in range(3) for p in probes(bench)]
        assert syncs(bench, lambda: bench.kprobes.register_kprobes(several)) == 1
        assert syncs(bench, lambda: bench.kprobes.unregister_kprobes(several)) == 1
        assert (whole(bench), bench.kprobes.kprobe_table) == (True, {})

    @pytest.mark.parametrize(
        ("step", "fewer"),
        [
            ("bp-sync-1", 1),
            ("bp-sync-2", 1),
            ("bp-sync-3", 1),
            ("bp-int3-first", 2),
            ("bp-refs", 0),
        ],
    )
    def test_are_left_out_by_name_when_jumps_go_in(self, bench_of, step, fewer):
        bench = bench_of(without(NEXT, frozenset({step})), asm_image(*ADDS))
        bench.kprobes.register_kprobes(probes(bench))
        assert syncs(bench, bench.kprobes.wait_for_kprobe_optimizer) == 3 - fewer

    @pytest.mark.parametrize("step", ["unopt-sync-1", "unopt-sync-2"])
    def test_are_left_out_by_name_when_jumps_go_out(self, bench_of, step):
        bench = bench_of(without(NEXT, frozenset({step})), asm_image(*ADDS))
        all_of_them = probes(bench)
        bench.kprobes.register_kprobes(all_of_them)
        bench.kprobes.wait_for_kprobe_optimizer()
        bench.kprobes.unregister_kprobes(all_of_them)
        assert syncs(bench, bench.kprobes.wait_for_kprobe_optimizer) == 2


class TestOrder:
    def test_a_batch_is_all_breakpoints_all_tails_all_first_bytes_by_address(self, bench_of, log):
        bench = bench_of(NEXT, asm_image(*ADDS))
        bench.kprobes.register_kprobes(probes(bench)[::-1])
        at = [symbol.addr for symbol in bench.image.functions]
        jumps = [bench.kprobes.get_kprobe(addr).optinsn.jump for addr in at]
        events = log(bench)
        bench.kprobes.wait_for_kprobe_optimizer()
        breakpoints = [(addr, INT3) for addr in at]
        tails = [(addr + 1, jump[1:]) for addr, jump in zip(at, jumps, strict=True)]
        first = [(addr, jump[:1]) for addr, jump in zip(at, jumps, strict=True)]
        assert events == [
            "wait",
            *breakpoints,
            "sync",
            *tails,
            "sync",
            *first,
            "sync",
            "traps over",
        ]

    def test_what_goes_is_all_breakpoints_all_tails_all_first_bytes_before_the_wait(
        self, bench_of, log
    ):
        bench = bench_of(NEXT, asm_image(*ADDS))
        all_of_them = probes(bench)
        bench.kprobes.register_kprobes(all_of_them)
        bench.kprobes.wait_for_kprobe_optimizer()
        bench.kprobes.unregister_kprobes(all_of_them[::-1])
        events = log(bench)
        bench.kprobes.wait_for_kprobe_optimizer()
        at = [symbol.addr for symbol in bench.image.functions]
        original = [bench.image.read(addr, 5) for addr in at]
        breakpoints = [(addr, INT3) for addr in at]
        tails = [(addr + 1, data[1:]) for addr, data in zip(at, original, strict=True)]
        first = [(addr, data[:1]) for addr, data in zip(at, original, strict=True)]
        assert events[:13] == [*breakpoints, "sync", *tails, "sync", *first, "sync", "wait"]

    def test_a_probe_is_in_the_table_as_long_as_anybody_can_hit_it(self, bench_of, monkeypatch):
        bench = bench_of(NEXT, asm_image(*ADDS))
        all_of_them = probes(bench, post_handler=lambda *_: None)
        seen: list[int] = []
        monkeypatch.setattr(
            bench.plane, "text_poke_sync", lambda _why: seen.append(len(bench.kprobes.kprobe_table))
        )
        bench.kprobes.register_kprobes(all_of_them)
        bench.kprobes.unregister_kprobes(all_of_them)
        assert seen == [3, 3]


def test_when_one_of_several_is_refused_those_before_it_go_again(bench_of):
    bench = bench_of(NEXT, asm_image(*ADDS))
    several = [*probes(bench), Kprobe(symbol_name="f", offset=1), Kprobe(symbol_name="g")]
    with pytest.raises(KprobeError):
        bench.kprobes.register_kprobes(several)
    assert (whole(bench), bench.kprobes.kprobe_table, bench.arch.slots.used) == (True, {}, 0)
    with pytest.raises(KprobeError):
        bench.kprobes.register_kprobes([])


class TestACallWhileABatchIsUnderWay:
    """A CPU calls every function at each sync, where only some of the bytes are written."""

    @staticmethod
    def call_at_syncs(bench, monkeypatch) -> list[int]:
        """A list that gets what each function's call gave, less what it should give."""
        wrong: list[int] = []

        def sync(_why: str) -> None:
            wrong.extend(bench.call(name, 5) - 2 * (5 + n) for n, name in enumerate("fgh"))

        monkeypatch.setattr(bench.plane, "text_poke_sync", sync)
        return wrong

    @pytest.mark.parametrize("steps", [(), ("bp-handler",)], ids=["all steps", "no bp-handler"])
    def test_is_right_and_hits_each_probe_once_all_the_time(self, bench_of, monkeypatch, steps):
        bench = bench_of(without(NEXT, frozenset(steps)), asm_image(*ADDS))
        hits: list[Kprobe] = []
        all_of_them = probes(bench, pre_handler=lambda p, _regs: hits.append(p))
        wrong = self.call_at_syncs(bench, monkeypatch)
        bench.kprobes.register_kprobes(all_of_them)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert (wrong, hits) == ([0] * 12, all_of_them * 4)
        bench.kprobes.unregister_kprobes(all_of_them)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert (wrong, hits) == ([0] * 21, all_of_them * 4)
        assert whole(bench)

    def test_meets_the_protocols_own_breakpoint_and_goes_on_at_its_own_detour(
        self, bench_of, monkeypatch
    ):
        taken: list[tuple[int, int]] = []
        resume = BreakpointHandler.bp_resume

        def noted(self, hit) -> HitPhase:
            at = hit.regs.ip - 1
            phase = resume(self, hit)
            taken.append((at, hit.regs.ip))
            return phase

        monkeypatch.setattr(BreakpointHandler, "bp_resume", noted)
        bench = bench_of(NEXT, asm_image(*ADDS))
        bench.kprobes.register_kprobes(probes(bench))
        wrong = self.call_at_syncs(bench, monkeypatch)
        bench.kprobes.wait_for_kprobe_optimizer()
        entries = [bench.kprobes.get_kprobe(symbol.addr) for symbol in bench.image.functions]
        # behind the third sync jumps stand
        assert taken == [(op.at, op.optinsn.detour.addr) for op in entries] * 2
        assert wrong == [0] * 9


class TestTheVector:
    """The batch's vector, as a slow CPU reads it that has found its poke there."""

    @staticmethod
    def two_batches(bench) -> tuple[list[int], list[int | None]]:
        """Write two jumps, then a third one.

        :returns: the detour buffers, and where CPUs that hit the first two go on then.
        """
        first = [Kprobe(symbol_name=name) for name in "fg"]
        bench.kprobes.register_kprobes(first)
        bench.kprobes.wait_for_kprobe_optimizer()
        bench.kprobes.register_kprobe(Kprobe(symbol_name="h"))
        bench.kprobes.wait_for_kprobe_optimizer()
        detours = [
            bench.kprobes.get_kprobe(symbol.addr).optinsn.detour.addr
            for symbol in bench.image.functions
        ]
        return detours, [
            poke and poke.goes_on and poke.goes_on.target
            for poke in map(bench.arch.poke.bp_poke, (p.at for p in first))
        ]

    def test_is_gone_once_nobody_reads_it(self, bench_of):
        bench = bench_of(NEXT, asm_image(*ADDS))
        _, targets = self.two_batches(bench)
        assert (targets, bench.arch.poke.state) == ([None, None], (False, ()))

    def test_is_used_again_under_it_without_bp_refs(self, bench_of):
        bench = bench_of(without(NEXT, frozenset({"bp-refs"})), asm_image(*ADDS))
        detours, targets = self.two_batches(bench)
        assert targets == [detours[2]] * 2
