"""The scenarios that come along: sound where they should be, and broken without the commit that
mended them.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest

from arch_x86.explore.open_experiment import open_experiment
from arch_x86.explore.scenario import Scenario, load_scenarios
from arch_x86.explore.scenario import scenario as make_scenario
from arch_x86.explore.scenarios import code_goes_away, life, two_tasks
from arch_x86.explore.scenarios.batches import BATCHES, dying_behind_a_batch, two_batches
from arch_x86.explore.scenarios.history import HISTORY
from arch_x86.explore.scenarios.life import SCENARIOS
from arch_x86.explore.scenarios.load import LOAD
from arch_x86.explore.scenarios.steps import scenarios_for
from arch_x86.lab.bench import Workbench
from engine.core.ablation import steps_of, without
from engine.core.profiles import LINUX_6_1, LINUX_2010, NEXT, profile_named
from engine.core.safety_steps import STEPS
from engine.errors import InputError
from engine.kprobe import Kprobe
from engine.patching.experiment import fingerprint
from engine.patching.search_options import Search
from engine.search.explorable import ViolationKind
from engine.search.schedule import Schedule, replay, segments_from
from tests.explore.experiments import check, experiment_of, replay_experiment


def in_turn(scenarios, only_2010):
    """Each scenario in each of its profiles; `make test` has it in one of them, in turn."""
    return [
        pytest.param(one, name, marks=() if turn == number % len(names) else pytest.mark.slow)
        for number, one in enumerate(scenarios)
        for names in [one.profiles if one is not only_2010 else ("linux-2010",)]
        for turn, name in enumerate(names)
    ]


PAIRS = in_turn(SCENARIOS, life.two_control_tasks)
LOADED = in_turn(LOAD, two_tasks.neighbours)
# Two control tasks in 6.1 and next take half a minute: `make sound` has those of life.py, and `make
# mutants` the neighbours.
FAULTS = [
    pytest.param(one, name, marks=() if name == "linux-2010" else pytest.mark.slow)
    for one in HISTORY
    for name in one.profiles
]
FEW = 100
"""Most schedules of a search in `make test`: enough that a scenario which does not run, or breaks
at once, shows. `make slow` searches to the end.
"""
both_sizes = pytest.mark.parametrize(
    "most", [pytest.param(FEW, id="few"), pytest.param(None, id="all", marks=pytest.mark.slow)]
)


def run(pool, scenario, profile, *, bound=1, steps=(), preempt=False, most=None):
    ablated = without(profile_named(profile), frozenset(steps), preempt=preempt)
    search = Search(preemptions=bound, max_schedules=most)
    return check(experiment_of(scenario, ablated, preempt=preempt), search, pool=pool)


def is_sound(result, most: int | None) -> bool:
    """Nothing is broken in a search to its end, or in as many schedules as it may have."""
    if most is None or result.outcome.exhaustive:
        return (result.verdict, result.outcome.exhaustive) == ("safe", True)
    return (result.violations, result.outcome.schedules) == ([], most)


@both_sizes
@pytest.mark.parametrize(
    ("scenario", "profile"), PAIRS, ids=lambda value: getattr(value, "name", value)
)
def test_what_can_cross_a_probes_life_breaks_nothing(pool, scenario, profile, most):
    # to save time; `make sound` has more
    bound = int(scenario is not life.two_control_tasks and profile != "next")
    assert is_sound(run(pool, scenario, profile, bound=bound, most=most), most)


@both_sizes
@pytest.mark.parametrize(
    ("scenario", "profile"), LOADED, ids=lambda value: getattr(value, "name", value)
)
def test_what_meets_under_load_breaks_nothing(pool, scenario, profile, most):
    bound = int(scenario.request.preempt)  # to save time; `make mutants` has more
    result = run(pool, scenario, profile, bound=bound, preempt=scenario.request.preempt, most=most)
    assert is_sound(result, most)


@pytest.mark.parametrize(
    ("scenario", "profile"), FAULTS, ids=lambda value: getattr(value, "name", value)
)
def test_a_fault_of_the_kernels_history_shows_without_its_commit_only(pool, scenario, profile):
    """test_findings.py follows the schedule that shows each."""
    # to save time; `make sound` has more
    assert run(pool, scenario, profile, bound=0).verdict == "safe"
    broken = run(pool, scenario, profile, steps=scenario.steps)
    assert broken.verdict == "violation"
    report = broken.violations[0]
    assert report.schedule.choices <= 30
    ablated = without(profile_named(profile), frozenset(scenario.steps))
    violation, lines = replay_experiment(
        experiment_of(scenario, ablated), report.schedule, pool=pool
    )
    assert violation == report.violation
    assert str(violation.kind) in lines[-1]


@both_sizes
@pytest.mark.parametrize("scenario", BATCHES, ids=lambda one: one.name)
@pytest.mark.parametrize(("profile", "bound"), [("linux-2010", 0), ("next", 0)])
def test_what_lies_between_two_batches_breaks_nothing(pool, scenario, profile, bound, most):
    """linux-6.1 has no batches; `make sound` has it, too, and higher bounds."""
    assert is_sound(run(pool, scenario, profile, bound=bound, most=most), most)


def test_a_neighbour_whose_jump_outlasts_a_pass_breaks_2010_without_the_mend(pool):
    (step,) = dying_behind_a_batch.steps
    assert run(pool, dying_behind_a_batch, "linux-2010", steps=[step]).verdict == "violation"


def test_a_batch_limits_passes_in_2010_core_syncs_in_next_and_nothing_in_6_1(pool):
    for name, batched, whole in (("linux-2010", 2, 1), ("linux-6.1", 1, 1), ("next", 1, 1)):
        assert [passes_and_syncs(pool, two_batches, name, batch)[0] for batch in (1, None)] == [
            batched,
            whole,
        ]
    assert [passes_and_syncs(pool, two_batches, "next", batch)[1] for batch in (1, None)] == [6, 3]
    assert [passes_and_syncs(pool, two_batches, "linux-6.1", batch)[1] for batch in (1, None)] == [
        6,
        6,
    ]


@pytest.mark.parametrize("name", ["calls", "cpus"])
def test_a_scenario_in_which_nobody_calls_anything_is_refused_with_one_line(name):
    with pytest.raises(InputError, match=f"{name}=0"):
        make_scenario(image="x", call="x", **{name: 0})


def with_batch(one: Scenario, batch: int | None) -> Scenario:
    """The scenario with batches of another size."""
    return replace(one, request=replace(one.request, batch=batch))


def passes_and_syncs(pool, scenario, profile, batch):
    """Of the control task alone, up to where both jumps are in."""
    case = experiment_of(with_batch(scenario, batch), profile_named(profile))
    bench = Workbench(case.image, pool=pool, profile=case.profile)
    try:
        for offset in (0, 8):
            bench.kprobes.register_kprobe(Kprobe(symbol_name="work", offset=offset))
        before = bench.plane.stats.syncs
        bench.kprobes.wait_for_kprobe_optimizer()
        return bench.kprobes.optimizer.passes, bench.plane.stats.syncs - before
    finally:
        bench.close()


def test_a_batch_is_part_of_a_schedules_fingerprint_where_it_is_set():
    marks = [
        fingerprint(experiment_of(with_batch(two_batches, batch), LINUX_2010))
        for batch in (None, 1, 2)
    ]
    assert len(set(marks)) == 3
    with pytest.raises(InputError, match="batch=0"):
        make_scenario(image="x", call="x", batch=0)


class TestFinds:
    """What the kernels do wrong that nobody had told us."""

    def test_a_task_preempted_in_a_detour_behind_a_breakpoint_is_not_awaited_by_6_1(self, pool):
        """unregister_kprobe() waits by synchronize_rcu(), which a preempted task does not hold up,
        and frees the detour buffer.
        """
        case = experiment_of(
            life.register, without(LINUX_6_1, frozenset(), preempt=True), preempt=True
        )
        segments = segments_from("c0*4,0*103,p0,0*47,p0,0*4,c0*4")
        violation, lines = replay_experiment(case, Schedule(fingerprint(case), segments), pool=pool)
        assert violation is not None
        assert violation.kind is ViolationKind.USE_AFTER_FREE
        assert "detour buffer" in violation.explain
        assert "-- interrupt; on its return the task is preempted --" in "".join(lines)

    @both_sizes
    def test_a_wait_for_tasks_mends_that_in_next(self, pool, most):
        """By a schedule that breaks ``next`` without that wait, and by a search."""
        for profile, kind in (
            (NEXT, None),
            (replace(NEXT, unregisters_behind_tasks=False), ViolationKind.USE_AFTER_FREE),
        ):
            ablated = without(profile, frozenset(), preempt=True)
            case = replace(experiment_of(life.register, ablated, preempt=True), reduce=False)
            with closing(open_experiment(case, pool)) as system:
                replay(system, segments_from("c0*5,0*47,p0,c0*12"))
                assert (system.violation and system.violation.kind) is kind
        if most is None:
            assert run(pool, life.register, "linux-6.1", preempt=True).verdict == "violation"
        assert is_sound(run(pool, life.register, "next", preempt=True, most=most), most)

    def test_a_breakpoint_removed_and_put_back_during_one_hit_is_nobodys_in_2010(self, pool):
        """The hit finds no probe; another task registers one there before it looks at the byte,
        which is a breakpoint again.

        In 6.1 a core sync comes before the probe leaves the table, and a CPU in the trap holds that
        up.
        """
        case = experiment_of(life.two_control_tasks, without(LINUX_2010, frozenset()))
        segments = segments_from("c1*4,0*21,c1*4,0,c0*4,0")
        violation, lines = replay_experiment(case, Schedule(fingerprint(case), segments), pool=pool)
        assert violation is not None
        assert violation.kind is ViolationKind.GUEST_FAULT
        assert "the breakpoint of a probe or of a poke, which nobody handles" in violation.explain
        assert "second: write arm" in "".join(lines)

    def test_a_probe_joining_a_disabled_one_while_all_disarm_leaves_int3_in_6_1(self, pool):
        """The pass that undoes the jump takes the breakpoint away for disabled aggregators only,
        and this one is enabled again.
        """
        case = experiment_of(code_goes_away.joined_while_disarming, without(LINUX_6_1, frozenset()))
        segments = segments_from("c0*5,c2*14,c0*7,c1*3,c2*11,c0*5,c1")
        violation, _ = replay_experiment(case, Schedule(fingerprint(case), segments), pool=pool)
        assert violation is not None
        assert violation.kind is ViolationKind.INVARIANT
        assert "all probes are disarmed, and cc" in violation.explain

    @both_sizes
    def test_stop_machine_does_not_cover_an_nmi_in_probed_text_and_text_poke_bp_does(
        self, pool, most
    ):
        if most is None:
            assert run(pool, life.nmi, "linux-2010").verdict == "violation"
        else:
            case = experiment_of(life.nmi, without(LINUX_2010, frozenset()))
            segments = segments_from("c0*3,c1*5,n0,0*57")
            violation, _ = replay_experiment(case, Schedule(fingerprint(case), segments), pool=pool)
            assert violation is not None
            assert violation.kind is ViolationKind.TORN
        for profile in ("linux-6.1", "next"):
            assert is_sound(run(pool, life.nmi, profile, most=most), most)


def test_every_step_has_a_scenario_in_each_profile_where_it_means_something():
    for step in STEPS:
        for name in step.profiles:
            assert any(name in one.profiles for one in scenarios_for(step.name)), (step.name, name)
            assert step in steps_of(profile_named(name))


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        (None, ""),
        ("x = 1", ""),
        ("raise ValueError('no')", ""),
        ("def", ""),
        ("from arch_x86.explore.scenarios.life import register", "::other"),
    ],
)
def test_a_file_without_the_scenario_is_refused_with_one_line(tmp_path, text, spec):
    file = tmp_path / "scenarios.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError) as refused:
        load_scenarios(f"{file}{spec}")
    assert "\n" not in str(refused.value)


def test_a_scenario_of_a_file_is_found_by_name_and_is_the_one_that_is_imported(tmp_path):
    file = tmp_path / "scenarios.py"
    file.write_text("from arch_x86.explore.scenarios.life import register, optimize\n")
    assert [one.name for one in load_scenarios(str(file))] == ["register", "optimize"]
    (one,) = load_scenarios(f"{life.__file__}::optimize")
    assert fingerprint(experiment_of(one, LINUX_6_1)) == fingerprint(
        experiment_of(life.optimize, LINUX_6_1)
    )


def test_a_scenario_that_says_something_else_has_another_fingerprint(tmp_path):
    marks = set()
    for offset in (4, 7):
        file = tmp_path / f"at{offset}.py"
        file.write_text(
            "from arch_x86.explore.scenario import scenario\n"
            "@scenario(image='.globl f; f: mov eax, edi; ret', call='f')\n"
            f"def one(setup):\n    setup.control(lambda k: k.kprobe('f', {offset}))\n"
        )
        (one,) = load_scenarios(str(file))
        marks.add(fingerprint(experiment_of(one, LINUX_6_1)))
    assert len(marks) == 2
