"""Each oracle sees the fault that it is for, and is silent on the sound run: real code, real core,
one step left out.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from arch_x86.explore.open_experiment import open_experiment
from engine.core.profiles import LINUX_6_1, LINUX_2010
from engine.patching.experiment import Experiment
from engine.patching.oracles.hits import Hits
from engine.patching.search_options import Search
from engine.search.explorable import ViolationKind
from engine.search.schedule import replay
from tests.conftest import asm_image
from tests.explore.experiments import check, experiment

CODE = "mov eax, edi; inc eax; lea ecx, [rax + rax*2]; add eax, ecx; xor eax, 0x55; ret"
STEPPED, SITE, INSIDE, NO_ROOM = 2, 4, 7, 9


def life(k, offset=SITE):
    p = k.kprobe("f", offset)
    k.register(p)
    k.settle()
    k.disable(p)
    k.enable(p)
    k.settle()
    k.unregister(p)
    k.settle()


def case(code=life, *, profile=LINUX_2010, **fields) -> Experiment:
    return experiment(asm_image(CODE), code, profile=profile, **fields)


def verdict(pool, *args, bound=2, **kwargs):
    return check(case(*args, **kwargs), Search(preemptions=bound), pool=pool)


@pytest.fixture(scope="module")
def whole_life(pool):
    """``whole_life(profile, offset)``: the answer to a whole life in a sound kernel, to bound 1."""
    return cache(lambda profile, offset: verdict(pool, at(offset), profile=profile, bound=1))


def at(offset: int):
    """A whole life of a probe at ``offset``."""
    return lambda k: life(k, offset)


def kinds(result) -> set[ViolationKind]:
    return {report.violation.kind for report in result.violations}


@pytest.mark.parametrize("profile", [LINUX_2010, LINUX_6_1], ids=lambda p: p.name)
def test_a_sound_life_is_safe_by_breakpoint_and_jump_with_cpus_in_flight_at_writes(
    whole_life, profile
):
    result = whole_life(profile, SITE)
    assert (result.verdict, result.outcome.exhaustive) == ("safe", True)
    coverage = result.coverage
    assert (
        min(
            coverage.int3,
            coverage.jump,
            coverage.boosted,
            coverage.in_flight_at_write,
            coverage.parked_in_range,
        )
        > 0
    )


@pytest.mark.parametrize(
    ("kind", "step", "profile", "offset"),
    [
        (ViolationKind.TORN, "stop-machine", LINUX_2010, SITE),
        (ViolationKind.TORN, "quiescence", LINUX_6_1, SITE),
        (ViolationKind.TORN, "bp-int3-first", LINUX_6_1, SITE),
        (ViolationKind.USE_AFTER_FREE, "free-wait", LINUX_2010, SITE),
        (ViolationKind.USE_AFTER_FREE, "free-wait", LINUX_6_1, SITE),
        (ViolationKind.USE_AFTER_FREE, "unregister-wait", LINUX_2010, STEPPED),
        (ViolationKind.USE_AFTER_FREE, "unregister-wait", LINUX_6_1, NO_ROOM),
        (ViolationKind.GUEST_FAULT, "int3-gone", LINUX_2010, SITE),
    ],
)
def test_a_step_that_is_needed_is_missed(pool, whole_life, kind, step, profile, offset):
    broken = verdict(pool, at(offset), steps=[step], profile=profile)
    assert kinds(broken) == {kind}
    assert broken.violations[0].schedule.choices <= 30
    assert whole_life(profile, offset).verdict == "safe"


@pytest.mark.parametrize(
    ("step", "profile"),
    [("quiescence", LINUX_2010), ("disabled-check", LINUX_2010), ("bp-sync-2", LINUX_6_1)],
)
def test_a_step_that_is_not_needed_here_is_not_missed(pool, step, profile):
    assert verdict(pool, steps=[step], profile=profile, bound=1).verdict == "safe"


@pytest.mark.parametrize(
    "whole",
    [pytest.param(False, id="as far"), pytest.param(True, id="whole", marks=pytest.mark.slow)],
)
def test_preemption_breaks_the_kernel_of_2010_and_not_6_1(pool, whole):
    """`make test` searches 6.1 for as many schedules as it takes to break 2010."""

    def in_and_out(k):
        p = k.kprobe("f", SITE)
        k.register(p)
        k.settle()
        k.unregister(p)
        k.settle()

    old = verdict(pool, in_and_out, preempt=True, bound=1)
    assert kinds(old) == {ViolationKind.USE_AFTER_FREE}
    search = Search(preemptions=1, max_schedules=None if whole else old.outcome.schedules)
    new = check(case(in_and_out, preempt=True, profile=LINUX_6_1), search, pool=pool)
    assert kinds(new) == set()
    assert new.verdict == "safe" or not whole


def test_waiting_for_tasks_mends_the_torn_instructions_of_a_preemptible_2010(pool):
    def optimized(k):
        p = k.kprobe("f", SITE)
        k.register(p)
        k.settle()

    sched = case(optimized, preempt=True, restores=False)
    tasks = replace(sched, profile=replace(sched.profile, waits_for_tasks=True))
    assert kinds(check(sched, Search(preemptions=1), pool=pool)) == {ViolationKind.TORN}
    result = check(tasks, Search(preemptions=1), pool=pool)
    assert (result.verdict, result.outcome.exhaustive) == ("safe", True)


def test_nobody_going_on_is_a_deadlock(pool):
    def off(k):
        k.register(k.kprobe("f", SITE))
        k.optimization(on=False)

    broken = verdict(pool, off, steps=["sysctl-deadlock"], bound=0)
    assert kinds(broken) == {ViolationKind.DEADLOCK}
    assert "kprobe_mutex" in broken.violations[0].violation.explain


def test_text_that_is_left_changed_is_seen(pool):
    def forgets(k):
        k.register(k.kprobe("f", SITE))

    for every in (0, 1):  # run again, it is seen in the same state
        result = check(case(forgets), Search(preemptions=0, recheck_every=every), pool=pool)
        assert kinds(result) == {ViolationKind.NOT_RESTORED}


def test_a_control_task_that_fails_is_seen(pool):
    def fails(k):
        k.disable(k.kprobe("f", SITE))

    result = verdict(pool, fails, bound=0)
    assert kinds(result) == {ViolationKind.INVARIANT}
    assert "EINVAL" in result.violations[0].violation.explain


def test_lists_and_flags_that_disagree_are_seen(pool):
    def breaks(k):
        p = k.kprobe("f", SITE)
        k.register(p)
        k.core.get_kprobe(p.at).flags &= ~4
        k.unregister(p)

    assert kinds(verdict(pool, breaks, bound=0)) == {ViolationKind.INVARIANT}


def test_a_handler_that_changes_registers_leaves_a_wrong_result(pool):
    def meddles(k):
        def handler(_p, regs):
            k._log.hit(0, regs)
            regs.ax += 1

        p = k.kprobe("f", SITE)
        p.pre_handler = handler
        k.register(p)
        k.unregister(p)
        k.settle()

    result = verdict(pool, meddles, bound=0)
    assert kinds(result) == {ViolationKind.WRONG_RESULT}
    assert "rax" in result.violations[0].violation.explain


def test_a_pass_without_a_hit_is_lost_and_one_with_two_is_extra(pool, monkeypatch):
    for times, kind in ((0, ViolationKind.LOST_HIT), (2, ViolationKind.EXTRA_HIT)):
        with monkeypatch.context() as patch:

            def passed(self, vcpu, *args, times=times, real=Hits.pass_over):
                vcpu.passing = vcpu.passing._replace(seen=vcpu.passing.seen * times)
                return real(self, vcpu, *args)

            patch.setattr(Hits, "pass_over", passed)
            assert kind in kinds(verdict(pool, bound=0))


def test_a_handler_that_runs_after_unregistering_returned_is_extra(pool, monkeypatch):
    monkeypatch.setattr("engine.patching.oracles.freed_code.FreedCode.in_buffer", lambda *_: None)
    monkeypatch.setattr("engine.patching.oracles.freed_code.FreedCode.hit_goes_on", lambda *_: None)
    broken = verdict(pool, at(NO_ROOM), steps=["unregister-wait"], profile=LINUX_6_1)
    sound = verdict(pool, at(NO_ROOM), profile=LINUX_6_1, bound=1)
    assert (
        sound.verdict,
        kinds(broken) <= {ViolationKind.EXTRA_HIT, ViolationKind.GUEST_FAULT},
    ) == ("safe", True)
    assert broken.violations


@pytest.mark.parametrize(
    "steps", [(), ("stop-machine",), pytest.param(("free-wait",), marks=pytest.mark.slow)]
)
def test_reduction_and_hashing_keep_what_is_found(pool, steps):
    def in_and_out(k):
        p = k.kprobe("f", SITE)
        k.register(p)
        k.settle()
        k.unregister(p)

    found = []
    for reduce, hashing in ((True, True), (False, True), (True, False)):
        search = Search(preemptions=1, hashing=hashing)
        found.append(
            kinds(
                check(
                    case(in_and_out, steps=steps, reduce=reduce, interrupts=False),
                    search,
                    pool=pool,
                )
            )
        )
    assert found[0] == found[1] == found[2]
    assert bool(found[0]) is bool(steps)


@pytest.mark.parametrize(
    ("profile", "preempt", "expected"),
    [(LINUX_6_1, True, "violation"), (LINUX_6_1, False, "safe"), (LINUX_2010, False, "safe")],
)
def test_a_task_that_sleeps_for_ever_in_its_call_deadlocks_who_waits_for_tasks(
    pool, profile, preempt, expected
):
    """synchronize_rcu_tasks() never ends; synchronize_sched() does not wait for who is off its
    CPU.
    """

    def main(k):
        p = k.kprobe("f", SITE)
        k.register(p)
        k.settle()
        k.unregister(p)
        k.settle()

    asleep = case(main, profile=profile, preempt=preempt)
    addr = asleep.image.by_name["f"].addr + STEPPED
    result = check(replace(asleep, asleep=(addr,)), Search(preemptions=1), pool=pool)
    assert check(asleep, Search(preemptions=0), pool=pool).verdict != "violation"
    assert (result.verdict == "violation") is (expected == "violation")
    if expected == "violation":
        assert kinds(result) == {ViolationKind.DEADLOCK}
        explain = result.violations[0].violation.explain
        assert "synchronize_rcu_tasks" in explain
        assert "sleeps at f+0x2" in explain


def test_a_probe_that_is_registered_again_is_enabled_as_it_was_at_first(pool):
    def main(k):
        p = k.kprobe("f", SITE)
        for _ in range(2):
            k.register(p)
            assert not p.disabled
            k.unregister(p)

    result = verdict(pool, main, profile=LINUX_6_1, bound=0)
    assert result.outcome.exhaustive
    assert kinds(result) == set()


def test_a_schedule_found_with_reduction_replays_without(pool):
    broken = case(steps=["free-wait"])
    report = check(broken, Search(), pool=pool).violations[0]
    for reduce in (True, False):
        system = open_experiment(replace(broken, reduce=reduce), pool)
        assert replay(system, report.schedule.segments, strict=True)
        assert system.violation is not None
        assert system.violation.kind is report.violation.kind
        system.close()


def test_the_same_case_explored_twice_gives_the_same_answer(pool):
    first, second = (
        check(case(at(NO_ROOM)), Search(preemptions=1, recheck_every=1), pool=pool)
        for _ in range(2)
    )
    assert first.to_json() == second.to_json()
    assert first.outcome.rechecked == first.outcome.schedules
