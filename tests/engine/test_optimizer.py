"""Laws of the optimizer's pass: when it comes, what it takes, in which order, and when again.

They are of linux-2010, but where another profile is named.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from arch_x86.lab.demo import many_functions
from engine.core.optimizer import OPTIMIZE_DELAY
from engine.core.profiles import LINUX_6_1, LINUX_2010, profile_named
from engine.kprobe import Kprobe, KprobeFlag, Queue
from tests.engine.states import NOPS, aggr_at, put, recorded, state, text_at, whole

UNOPTIMIZING, OPTIMIZING, FREEING = Queue.UNOPTIMIZING, Queue.OPTIMIZING, Queue.FREEING


@pytest.fixture
def bench(workbench):
    return workbench(NOPS)


def crowd(bench, number: int, *, wait: bool = True) -> list[Kprobe]:
    probes = [Kprobe(symbol_name=f"f{i}") for i in range(number)]
    bench.kprobes.register_kprobes(probes)
    if wait:
        bench.kprobes.wait_for_kprobe_optimizer()
    return probes


def jumps(bench, probes) -> int:
    return sum(bench.machine.text.read(p.at, 1) == b"\xe9" for p in probes)


def waiting(bench) -> dict[Queue, int]:
    return {queue: len(listed) for queue, listed in bench.kprobes.optimizer.lists.items()}


class TestDelay:
    def test_the_pass_comes_five_jiffies_after_the_first_kick_whatever_is_kicked_then(self, bench):
        assert OPTIMIZE_DELAY == 5
        put(bench)
        bench.plane.sleep(OPTIMIZE_DELAY - 1)
        put(bench, 7)
        assert (text_at(bench), text_at(bench, 7)) == ("int3", "int3")
        bench.plane.sleep(1)
        assert (text_at(bench), text_at(bench, 7)) == ("jump", "jump")
        bench.plane.sleep(4 * OPTIMIZE_DELAY)
        assert bench.kprobes.optimizer.passes == 1

    def test_who_waits_waits_for_a_scheduled_pass_though_nothing_is_listed_any_more(self, bench):
        bench.kprobes.unregister_kprobe(put(bench))
        start = bench.jiffies
        bench.kprobes.wait_for_kprobe_optimizer()
        assert (bench.jiffies - start, bench.kprobes.optimizer.passes) == (OPTIMIZE_DELAY, 1)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert (bench.jiffies - start, bench.kprobes.optimizer.passes) == (OPTIMIZE_DELAY, 1)

    def test_a_pass_that_finds_nothing_left_does_not_come_again(self, bench):
        bench.kprobes.unregister_kprobe(put(bench))
        bench.plane.sleep(4 * OPTIMIZE_DELAY)
        assert (bench.kprobes.optimizer.passes, bench.plane.stats.stop_machine) == (1, 0)
        assert bench.kprobes.optimizer.idle


class TestBatches:
    def test_a_pass_takes_256_in_each_direction_and_comes_again_while_any_is_left(self, bench_of):
        bench = bench_of(LINUX_2010, many_functions(600))
        old, new = (lambda probes: (probes[:300], probes[300:]))(crowd(bench, 600, wait=False))
        bench.kprobes.unregister_kprobes(new)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert jumps(bench, old) == 300
        bench.kprobes.unregister_kprobes(old)
        for p in new:
            p.addr, p.flags = None, KprobeFlag(0)
        bench.kprobes.register_kprobes(new)
        passes, stops = bench.kprobes.optimizer.passes, bench.plane.stats.stop_machine
        assert waiting(bench) == {OPTIMIZING: 300, UNOPTIMIZING: 300, FREEING: 0}
        for nth, left in enumerate((44, 0), start=1):
            bench.plane.sleep(OPTIMIZE_DELAY)
            assert bench.kprobes.optimizer.passes - passes == nth
            assert waiting(bench) == {OPTIMIZING: left, UNOPTIMIZING: left, FREEING: 0}
            assert (jumps(bench, old), jumps(bench, new)) == (left, 300 - left)
            assert bench.plane.stats.stop_machine - stops == 2 * nth
        bench.plane.sleep(4 * OPTIMIZE_DELAY)
        assert bench.kprobes.optimizer.passes - passes == 2

    def test_a_pass_of_6_1_takes_all(self, bench_of):
        bench = bench_of(LINUX_6_1, many_functions(600))
        probes = crowd(bench, 600)
        assert (bench.kprobes.optimizer.passes, jumps(bench, probes)) == (1, 600)
        bench.kprobes.unregister_kprobes(probes)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert bench.kprobes.optimizer.passes == 2
        assert whole(bench)

    def test_who_waits_is_woken_when_both_lists_are_empty_and_not_before(self, bench_of):
        bench = bench_of(LINUX_2010, many_functions(257))
        probes = crowd(bench, 257, wait=False)
        bench.kprobes.unregister_kprobe(probes.pop())
        bench.kprobes.wait_for_kprobe_optimizer()
        assert (bench.kprobes.optimizer.passes, jumps(bench, probes)) == (1, 256)
        probes += [Kprobe(symbol_name="f256")]
        bench.kprobes.register_kprobe(probes[-1])
        bench.kprobes.wait_for_kprobe_optimizer()
        start = bench.jiffies
        bench.kprobes.unregister_kprobes(probes)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert bench.jiffies - start == 2 * OPTIMIZE_DELAY
        assert whole(bench)


class TestOrder:
    @pytest.mark.parametrize("name", ["linux-2010", "linux-6.1"])
    def test_jumps_go_in_and_out_newest_first_and_are_disarmed_oldest_first(self, bench_of, name):
        """Both kernels add at the head of a list, and move from one list to the head of the next.

        They take from the head, too (list_add, list_move).
        """
        bench = bench_of(profile_named(name), many_functions(3))
        log: list[str] = []
        bench.machine.text.listeners.append(lambda write: log.append(write.reason))
        probes = crowd(bench, 3)
        places = [f"{p.at:#x}" for p in probes]

        def order(verb: str) -> list[int]:
            return [
                places.index(place)
                for place in dict.fromkeys(
                    why.split()[1].rstrip(":") for why in log if why.startswith(verb)
                )
            ]

        assert order("optimize") == [2, 1, 0]
        log.clear()
        bench.kprobes.unregister_kprobes(probes)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert (order("unoptimize"), order("disarm")) == ([2, 1, 0], [0, 1, 2])
        assert [
            place
            for why in log
            if why.startswith("freed detour")
            for place in places
            if place in why
        ] == places

    def test_a_batch_takes_the_newest_first(self, bench_of):
        bench = bench_of(replace(LINUX_2010, batch=1), many_functions(3))
        probes = crowd(bench, 3, wait=False)
        for left in (2, 1, 0):
            bench.plane.sleep(OPTIMIZE_DELAY)
            assert [jumps(bench, [p]) for p in probes] == [number >= left for number in range(3)]
        assert bench.kprobes.optimizer.passes == 3

    def test_undo_and_disarm_then_wait_then_optimize_then_free(self, bench_of, monkeypatch):
        bench = bench_of(LINUX_2010, many_functions(3))
        gone, disabled, late = crowd(bench, 3, wait=False)
        bench.kprobes.unregister_kprobe(late)
        bench.kprobes.wait_for_kprobe_optimizer()
        bench.kprobes.unregister_kprobe(gone)
        bench.kprobes.disable_kprobe(disabled)
        late.addr, late.flags = None, KprobeFlag(0)
        bench.kprobes.register_kprobe(late)
        log = recorded(bench, monkeypatch)
        bench.kprobes.wait_for_kprobe_optimizer()
        a, b, c = (f"{p.at:#x}" for p in (gone, disabled, late))
        assert log == [
            *(f"unoptimize {b}", f"unoptimize {a}"),
            *(f"disarm {a}", f"disarm {b}"),
            "grace period",
            f"optimize {c}",
            *(f"freed detour buffer of {a}", f"freed slot of {a}"),
        ]

    def test_unused_ones_leave_the_table_before_the_wait_and_are_freed_behind_it(
        self, bench, monkeypatch
    ):
        p = put(bench, wait=True)
        ap = aggr_at(bench)
        bench.kprobes.unregister_kprobe(p)
        seen: list[tuple[bool, Queue, int]] = []
        wait = bench.plane.synchronize_sched

        def synchronize_sched(why: str) -> None:
            seen.append((bool(bench.kprobes.kprobe_table), ap.queue, bench.arch.detours.used))
            wait(why)

        monkeypatch.setattr(bench.plane, "synchronize_sched", synchronize_sched)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert seen == [(False, FREEING, 1)]
        assert (ap.queue, bench.arch.detours.used, bench.arch.slots.used) == (Queue.NONE, 0, 0)

    @pytest.mark.parametrize("switch", ["kprobes_all_disarmed", "kprobes_allow_optimization"])
    def test_nothing_is_optimized_while_a_switch_forbids_it_but_things_are_undone(
        self, bench, switch
    ):
        p = put(bench, 7, wait=True)
        put(bench)
        bench.kprobes.unregister_kprobe(p)
        setattr(bench.kprobes, switch, switch == "kprobes_all_disarmed")
        bench.kprobes.wait_for_kprobe_optimizer()
        assert (text_at(bench), text_at(bench, 7), state(bench).queue) == (
            "int3",
            "original",
            OPTIMIZING,
        )
        assert bench.kprobes.get_kprobe(p.at) is None


def test_who_registers_while_a_pass_is_under_way_goes_on_when_it_is_over(workbench):
    bench = workbench("l: add rax, rdi; nop; nop; sub rsi, 1; jnz l; ret", cpus=2)
    p = put(bench, 3, wait=True)
    bench.kprobes.unregister_kprobe(p)
    bench.start_call(1, bench.image.by_name["f"].addr, (1, 50_000))
    bench.executor.advance(1, 1_234)
    done: list[int] = []

    def again() -> None:
        p.addr, p.flags = None, KprobeFlag(0)
        bench.kprobes.register_kprobe(p)
        done.append(bench.kprobes.optimizer.passes)

    bench.plane.schedule_delayed_work(again, OPTIMIZE_DELAY, "again")
    bench.plane.sleep(OPTIMIZE_DELAY)
    assert bench.executor.running(1)
    assert (bench.kprobes.optimizer.passes, done) == (2, [])
    bench.plane.wait_until(lambda: bool(done), "again")
    assert (bench.kprobes.optimizer.passes, state(bench, 3).queue) == (2, OPTIMIZING)
    bench.kprobes.wait_for_kprobe_optimizer()
    assert not bench.executor.running(1)
    assert bench.machine.cpus[1].registers()[0] == 50_000
    assert text_at(bench, 3) == "jump"
