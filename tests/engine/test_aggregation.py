"""Laws of the table's entries: aggregators, and how several probes share one (linux-2010)."""

from __future__ import annotations

import pytest

from engine.core.optimizer import OPTIMIZE_DELAY
from engine.kprobe import AggrKprobe, Kprobe, Queue
from tests.conftest import BASE
from tests.engine.states import (
    DISABLED,
    NONE,
    NOPS,
    OPTIMIZED,
    State,
    aggr_at,
    entry_at,
    put,
    state,
    whole,
)

RET = 12  # there is no room for a jump at this offset


@pytest.fixture
def bench(workbench):
    return workbench(NOPS)


class TestPredicates:
    def test_of_an_aggregator_through_its_life(self, bench):
        def said(ap: AggrKprobe) -> list[str]:
            return [
                name
                for name in ("optready", "optimized", "queued", "disabled", "disarmed", "unused")
                if getattr(ap, name)
            ]

        p = put(bench)
        ap = aggr_at(bench)
        assert (said(ap), ap.queue) == (["optready", "optimized", "queued"], Queue.OPTIMIZING)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert said(ap) == ["optready", "optimized"]
        bench.kprobes.disable_kprobe(p)
        assert (said(ap), ap.queue) == (["optready", "queued", "disabled"], Queue.UNOPTIMIZING)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert said(ap) == ["optready", "disabled", "disarmed"]
        bench.kprobes.enable_kprobe(p)
        bench.kprobes.wait_for_kprobe_optimizer()
        bench.kprobes.unregister_kprobe(p)
        assert (said(ap), ap.queue) == (
            ["optready", "queued", "disabled", "unused"],
            Queue.UNOPTIMIZING,
        )
        bench.kprobes.wait_for_kprobe_optimizer()
        assert said(ap) == ["disabled", "disarmed", "unused"]
        assert not bench.kprobes.kprobe_table

    def test_a_plain_probe_stands_in_the_table_itself_and_is_on_no_list(self, bench):
        p = put(bench, RET)
        assert entry_at(bench, RET) is p
        assert state(bench, RET) == State("int3", NONE, Queue.NONE)
        bench.kprobes.disable_kprobe(p)
        assert state(bench, RET) == State("original", DISABLED, Queue.NONE)

    def test_an_aggregator_without_room_for_a_jump_is_not_optready(self, bench):
        put(bench, RET)
        put(bench, RET)
        assert not aggr_at(bench, RET).optready
        assert state(bench, RET) == State("int3", NONE, Queue.NONE)


class TestAnEntryBecomesAnAggregator:
    def test_at_once_where_a_detour_buffer_can_be_prepared(self, bench):
        p = put(bench)
        ap = aggr_at(bench)
        assert ap is not p
        assert ([child is p for child in ap.children], ap.optready, p.parent is ap) == (
            [True],
            True,
            True,
        )

    def test_elsewhere_when_a_second_probe_joins(self, bench):
        p = put(bench, RET)
        q = put(bench, RET)
        assert [
            child is want for child, want in zip(aggr_at(bench, RET).children, (q, p), strict=True)
        ] == [True, True]

    @pytest.mark.parametrize("flags", [NONE, DISABLED])
    def test_with_the_address_slot_and_flags_of_the_first_but_optimized(self, bench, flags):
        p = put(bench, RET, flags=flags)
        slot, text = p.ainsn, state(bench, RET).text
        put(bench, RET, flags=DISABLED)
        ap = aggr_at(bench, RET)
        assert (ap.addr, ap.ainsn is slot, ap.flags, bench.arch.slots.used) == (
            BASE + RET,
            True,
            flags,
            1,
        )
        assert state(bench, RET).text == text
        p.flags |= OPTIMIZED
        bench.kprobes.aggregation.init_aggr_kprobe(ap, p)
        assert ap.flags == flags

    def test_and_stays_one_until_its_last_child_goes(self, bench):
        p, q = put(bench, RET), put(bench, RET)
        ap = aggr_at(bench, RET)
        bench.kprobes.unregister_kprobe(q)
        assert entry_at(bench, RET) is ap
        bench.kprobes.unregister_kprobe(p)
        assert not bench.kprobes.kprobe_table
        assert whole(bench)


class TestChain:
    @pytest.mark.parametrize("optimize", [False, True])
    def test_a_pre_handler_that_returns_1_ends_it_behind_int3_and_not_behind_a_jump(
        self, bench, optimize
    ):
        bench.kprobes.kprobes_allow_optimization = optimize
        order: list[int] = []

        def handler(number: int):
            def run(_p, regs) -> int:
                order.append(number)
                if number == 1:
                    regs.ip = BASE + 2  # behind both nops, so that the result stays the same
                return int(number == 1)

            return run

        for number in range(3):
            put(bench, pre_handler=handler(number))
        bench.kprobes.wait_for_kprobe_optimizer()
        assert state(bench).text == ("jump" if optimize else "int3")
        assert bench.call("f", 5) == 11
        assert order == ([2, 1, 0] if optimize else [2, 1])

    @pytest.mark.parametrize("optimize", [False, True])
    def test_skips_a_disabled_child(self, bench, optimize):
        bench.kprobes.kprobes_allow_optimization = optimize
        order: list[int] = []
        probes = [put(bench, pre_handler=lambda *_, n=n: order.append(n)) for n in range(3)]
        bench.kprobes.disable_kprobe(probes[1])
        bench.kprobes.wait_for_kprobe_optimizer()
        assert state(bench).text == ("jump" if optimize else "int3")
        bench.call("f", 5)
        assert order == [2, 0]

    def test_post_handlers_run_newest_first_once_all_pre_handlers_have(self, bench):
        order: list[str] = []
        for n in range(2):
            put(
                bench,
                pre_handler=lambda *_, n=n: order.append(f"pre {n}"),
                post_handler=lambda *_, n=n: order.append(f"post {n}"),
            )
        bench.plane.sleep(2 * OPTIMIZE_DELAY)
        assert bench.call("f", 5) == 11
        assert order == ["pre 1", "pre 0", "post 1", "post 0"]

    def test_a_miss_counts_on_every_child_and_on_no_other_probe(self, bench):
        probes = [put(bench) for _ in range(3)]
        other = put(bench, RET)
        bench.kprobes.kprobes_inc_nmissed_count(aggr_at(bench))
        assert [p.nmissed for p in (*probes, other)] == [1, 1, 1, 0]
        bench.kprobes.kprobes_inc_nmissed_count(other)
        assert [p.nmissed for p in (*probes, other)] == [1, 1, 1, 1]


def test_a_new_child_comes_first_and_one_with_a_break_handler_last(bench):
    plain, breaking, newer = (
        Kprobe(symbol_name="f"),
        Kprobe(symbol_name="f", break_handler=lambda *_: 0),
        Kprobe(symbol_name="f"),
    )
    bench.kprobes.register_kprobes([plain, breaking, newer])
    assert [[plain, breaking, newer].index(child) for child in aggr_at(bench).children] == [2, 0, 1]
