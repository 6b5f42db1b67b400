"""Laws of optimizing and undoing: text, flag and list after each step (linux-2010)."""

from __future__ import annotations

import pytest

from engine.core.global_switches import set_kprobes_enabled, set_kprobes_optimization
from engine.core.optimizer import OPTIMIZE_DELAY
from engine.kprobe import Queue
from tests.conftest import asm_image
from tests.engine.states import (
    DISABLED,
    NONE,
    NOPS,
    OPTIMIZED,
    State,
    aggr_at,
    put,
    state,
    text_at,
    whole,
)

BREAKPOINT = State("int3", NONE, Queue.NONE)
WAITS = State("int3", OPTIMIZED, Queue.OPTIMIZING)
JUMP = State("jump", OPTIMIZED, Queue.NONE)
UNDONE_SOON = State("jump", NONE, Queue.UNOPTIMIZING)


@pytest.fixture
def bench(workbench):
    return workbench(NOPS)


def none(*_) -> int:
    return 0


class TestOptimize:
    def test_puts_a_ready_probe_on_the_list_and_kicks_the_optimizer(self, bench):
        put(bench)
        assert state(bench) == WAITS
        bench.plane.sleep(OPTIMIZE_DELAY)
        assert (state(bench), bench.kprobes.optimizer.passes) == (JUMP, 1)

    @pytest.mark.parametrize(
        "hindrance",
        [
            "no room",
            "not allowed",
            "disabled",
            "all disarmed",
            "post_handler",
            "break_handler",
            "neighbour",
        ],
    )
    def test_is_not_done_while_anything_forbids_it(self, bench, hindrance):
        fields, offset = {}, 0
        text = "int3"
        if hindrance == "no room":
            offset = 12
        elif hindrance == "not allowed":
            set_kprobes_optimization(bench.kprobes, on=False)
        elif hindrance == "disabled":
            fields, text = {"flags": DISABLED}, "original"
        elif hindrance == "all disarmed":
            set_kprobes_enabled(bench.kprobes, on=False)
            text = "original"
        elif hindrance == "neighbour":
            put(bench, 4)  # the last instruction that a jump at 0 replaces
            bench.kprobes.wait_for_kprobe_optimizer()
        else:
            fields = {hindrance: none}
        passes = bench.kprobes.optimizer.passes
        put(bench, offset, **fields)
        assert state(bench, offset) == State(text, fields.get("flags", NONE), Queue.NONE)
        bench.plane.sleep(2 * OPTIMIZE_DELAY)
        assert text_at(bench, offset) == text
        assert bench.kprobes.optimizer.passes == passes

    def test_is_not_hindered_by_a_probe_behind_the_bytes_nor_by_a_disabled_one_inside(self, bench):
        put(bench, 7)
        put(bench, 4, flags=DISABLED)
        put(bench, wait=True)
        assert state(bench) == JUMP

    def test_of_what_is_optimized_already_changes_nothing(self, bench):
        put(bench)
        for before in (WAITS, JUMP):
            assert state(bench) == before
            passes, writes = bench.kprobes.optimizer.passes, bench.machine.text.writes
            bench.kprobes.optprobes.optimize_kprobe(aggr_at(bench))
            assert (state(bench), bench.machine.text.writes) == (before, writes)
            bench.plane.sleep(2 * OPTIMIZE_DELAY)
        assert bench.kprobes.optimizer.passes == passes

    def test_of_one_that_waits_to_be_undone_only_takes_it_off_the_list(self, bench):
        p = put(bench, wait=True)
        bench.kprobes.disable_kprobe(p)
        writes, stops = bench.machine.text.writes, bench.plane.stats.stop_machine
        bench.kprobes.enable_kprobe(p)
        assert state(bench) == JUMP
        bench.kprobes.wait_for_kprobe_optimizer()
        assert (state(bench), bench.machine.text.writes, bench.plane.stats.stop_machine) == (
            JUMP,
            writes,
            stops,
        )


class TestUnoptimize:
    def test_puts_an_optimized_one_on_the_list_and_the_bytes_follow_with_the_pass(self, bench):
        p = put(bench, wait=True)
        bench.kprobes.disable_kprobe(p)
        assert state(bench) == UNDONE_SOON._replace(flags=DISABLED)
        bench.plane.sleep(OPTIMIZE_DELAY - 1)
        assert state(bench).text == "jump"
        bench.plane.sleep(1)
        assert state(bench) == State("original", DISABLED, Queue.NONE)

    def test_of_one_that_still_waits_to_be_optimized_only_takes_it_off_the_list(self, bench):
        put(bench)
        writes = bench.machine.text.writes
        with bench.kprobes.locked("test"):
            bench.kprobes.optprobes.unoptimize_kprobe(aggr_at(bench))
        assert (state(bench), bench.machine.text.writes) == (BREAKPOINT, writes)
        bench.plane.sleep(2 * OPTIMIZE_DELAY)
        assert (state(bench), bench.plane.stats.stop_machine) == (BREAKPOINT, 0)

    def test_of_one_that_is_a_breakpoint_or_disarmed_changes_nothing(self, bench):
        p = put(bench, wait=True)
        bench.kprobes.disable_kprobe(p)
        bench.kprobes.wait_for_kprobe_optimizer()
        writes = bench.machine.text.writes
        with bench.kprobes.locked("test"):
            for force in (False, True):
                bench.kprobes.optprobes.unoptimize_kprobe(aggr_at(bench), force=force)
        assert (state(bench), bench.machine.text.writes) == (
            State("original", DISABLED, Queue.NONE),
            writes,
        )

    def test_forced_undoes_a_jump_at_once_and_only_dequeues_what_has_none(self, bench):
        put(bench)
        for before in (WAITS, JUMP):
            assert state(bench) == before
            stops = bench.plane.stats.stop_machine
            with bench.kprobes.locked("test"):
                bench.kprobes.optprobes.unoptimize_kprobe(aggr_at(bench), force=True)
            assert (state(bench), bench.plane.stats.stop_machine - stops) == (
                BREAKPOINT,
                int(before is JUMP),
            )
            with bench.kprobes.locked("test"):
                bench.kprobes.optprobes.optimize_kprobe(aggr_at(bench))
            bench.kprobes.wait_for_kprobe_optimizer()

    def test_forced_undoes_at_once_what_waits_to_be_undone(self, bench):
        put(bench, wait=True)
        with bench.kprobes.locked("test"):
            bench.kprobes.optprobes.unoptimize_kprobe(aggr_at(bench))
            assert state(bench) == UNDONE_SOON
            bench.kprobes.optprobes.unoptimize_kprobe(aggr_at(bench), force=True)
        assert state(bench) == BREAKPOINT

    @pytest.mark.parametrize("handler", ["post_handler", "break_handler"])
    @pytest.mark.parametrize("before", ["waits", "jump", "undone soon"])
    def test_is_forced_when_a_child_joins_whose_handler_needs_the_breakpoint(
        self, bench, handler, before
    ):
        p = put(bench, wait=before != "waits")
        if before == "undone soon":
            bench.kprobes.disable_kprobe(p)
        q = put(bench, **{handler: none})
        assert state(bench) == BREAKPOINT
        bench.plane.sleep(2 * OPTIMIZE_DELAY)
        assert state(bench) == BREAKPOINT
        assert bench.call("f", 5) == 11
        bench.kprobes.unregister_kprobe(q)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert state(bench) == (
            State("original", DISABLED, Queue.NONE) if before == "undone soon" else JUMP
        )


class TestNeighbours:
    def test_arming_inside_replaced_bytes_forces_the_jump_back_first(self, bench):
        put(bench, wait=True)
        put(bench, 4)
        assert (state(bench), state(bench, 4)) == (BREAKPOINT, WAITS)
        assert bench.call("f", 5) == 11

    def test_arming_inside_the_bytes_of_one_that_waits_to_be_undone_restores_it_at_once(
        self, bench
    ):
        p = put(bench, wait=True)
        bench.kprobes.disable_kprobe(p)
        put(bench, 4)
        assert (state(bench), state(bench, 4)) == (State("original", DISABLED, Queue.NONE), WAITS)
        assert bench.call("f", 5) == 11

    def test_enabling_inside_replaced_bytes_forces_the_jump_back_too(self, bench):
        inner = put(bench, 4, flags=DISABLED)
        put(bench, wait=True)
        assert state(bench) == JUMP
        bench.kprobes.enable_kprobe(inner)
        assert (state(bench), state(bench, 4)) == (BREAKPOINT, WAITS)

    def test_registering_a_disabled_one_there_leaves_the_jump(self, bench):
        put(bench, wait=True)
        put(bench, 4, flags=DISABLED)
        assert state(bench) == JUMP

    @pytest.mark.parametrize("goes", ["disable_kprobe", "unregister_kprobe"])
    def test_what_a_breakpoint_kept_from_its_jump_is_optimized_in_2010_not_in_6_1(
        self, bench_of, profile, goes
    ):
        bench = bench_of(profile, asm_image(NOPS))
        put(bench, 4)
        inner = put(bench, 8, wait=True, post_handler=none)
        assert (state(bench, 4), state(bench, 8)) == (BREAKPOINT, BREAKPOINT)
        getattr(bench.kprobes, goes)(inner)
        assert state(bench, 4) == (WAITS if profile.reoptimizes_neighbour else BREAKPOINT)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert state(bench, 4) == (JUMP if profile.reoptimizes_neighbour else BREAKPOINT)

    @pytest.mark.parametrize("goes", ["disable_kprobe", "unregister_kprobe"])
    def test_what_a_jump_kept_from_its_own_stays_a_breakpoint_as_only_next_asks(
        self, bench_of, profile, goes
    ):
        bench = bench_of(profile, asm_image(NOPS))
        put(bench, 4)
        inner = put(bench, 7, wait=True)
        assert (state(bench, 4), state(bench, 7)) == (BREAKPOINT, JUMP)
        getattr(bench.kprobes, goes)(inner)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert state(bench, 4) == (JUMP if profile.reoptimizes_later else BREAKPOINT)

    def test_what_two_kept_from_its_jump_waits_for_both_to_go(self, bench):
        bench.kprobes.kprobes_allow_optimization = False
        put(bench)
        inside = [put(bench, offset) for offset in (1, 4)]
        bench.kprobes.kprobes_allow_optimization = True
        for p, after in zip(inside, (BREAKPOINT, JUMP), strict=True):
            bench.kprobes.unregister_kprobe(p)
            bench.kprobes.wait_for_kprobe_optimizer()
            assert state(bench) == after

    def test_disarming_one_that_is_queued_writes_nothing_now(self, bench):
        p = put(bench, wait=True)
        writes = bench.machine.text.writes
        with bench.kprobes.locked("test"):
            assert not bench.kprobes.optprobes.disarm_kprobe(aggr_at(bench))
        assert (state(bench), bench.machine.text.writes) == (UNDONE_SOON, writes)
        bench.kprobes.unregister_kprobe(p)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert whole(bench)


def test_a_hit_on_a_disabled_jump_runs_the_copies_and_no_handler_and_misses_nothing(bench):
    hits: list[int] = []
    p = put(bench, wait=True, pre_handler=lambda *_: hits.append(1))
    bench.kprobes.disable_kprobe(p)
    assert state(bench).text == "jump"
    assert (bench.call("f", 5), hits, p.nmissed) == (11, [], 0)
    bench.kprobes.unregister_kprobe(p)
    assert state(bench).text == "jump"  # it is unused, and not undone yet
    assert (bench.call("f", 5), hits, p.nmissed) == (11, [], 0)
