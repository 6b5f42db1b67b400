"""Exploring probes that are made of ftrace: safe as they are, a violation without each step that
they need, whatever stands at the site.
"""

from __future__ import annotations

import pytest

from arch_x86.explore.open_experiment import open_experiment
from engine.core.profiles import LINUX_6_1, LINUX_2010, NEXT
from engine.patching.experiment import Experiment
from engine.patching.search_options import Search
from engine.search.explorable import ViolationKind
from tests.engine.traced import traced
from tests.explore.experiments import check, experiment, replay_experiment
from tests.explore.laws import outcomes

NEW = pytest.mark.parametrize("profile", [LINUX_6_1, NEXT], ids=lambda profile: profile.name)


def once(k):
    p = k.kprobe("f")
    k.register(p)
    k.unregister(p)


def life(k):
    older, newer, rp = k.kprobe("f"), k.kprobe("f", post=True), k.kretprobe("f", 2)
    k.register(older)
    k.register(newer)
    k.disable(older)
    k.disable(newer)
    k.enable(newer)
    k.register_return(rp)
    k.unregister(older)
    k.unregister(newer)
    k.unregister_return(rp)


def switched(k):
    p = k.kprobe("f")
    k.register(p)
    k.switch(on=False)
    k.switch(on=True)
    k.unregister(p)


def case(code=once, site="nop", *, profile=LINUX_6_1, **fields) -> Experiment:
    return experiment(traced(site), code, profile=profile, **fields)


def verdict(pool, *args, bound=1, **kwargs):
    return check(case(*args, **kwargs), Search(preemptions=bound), pool=pool)


@pytest.mark.parametrize("site", ["nop", "call through a word"])
def test_it_is_safe_and_its_hits_come_from_ftrace_alone(pool, site):
    result = verdict(pool, once, site)
    assert (result.verdict, result.outcome.exhaustive, result.missing) == ("safe", True, ())
    coverage = result.coverage.to_json()
    assert (
        coverage["int3"],
        coverage["jump"],
        coverage["ftrace"] > 0,
        coverage["in_flight_at_write"] > 0,
    ) == (0, 0, True, True)


@NEW
@pytest.mark.parametrize(
    ("bound", "fields"),
    [(1, {"nmis": True}), (0, {"preempt": True}), (0, {"cpus": 2, "points": "stores"})],
    ids=["NMIs", "preemption", "two CPUs, each store a step"],
)
def test_it_is_safe_under_nmis_preemption_and_on_two_cpus(pool, profile, bound, fields):
    assert verdict(pool, profile=profile, bound=bound, **fields).verdict == "safe"


@NEW
@pytest.mark.parametrize("code", [life, switched])
def test_it_is_safe_with_all_operations_several_probes_and_a_return_probe(pool, profile, code):
    result = verdict(pool, code, profile=profile, bound=0)
    assert (result.verdict, result.coverage.ftrace > 0) == ("safe", True)


@pytest.mark.parametrize(
    ("kind", "step"),
    [
        (ViolationKind.GUEST_FAULT, "bp-handler"),
        (ViolationKind.TORN, "bp-int3-first"),
        (ViolationKind.USE_AFTER_FREE, "unregister-wait"),
    ],
)
def test_without_a_step_that_it_needs_it_is_not(pool, kind, step):
    result = verdict(pool, steps=(step,))
    assert {report.violation.kind for report in result.violations} == {kind}


@pytest.mark.parametrize(("steps", "count"), [((), 1), (("bp-handler",), 2)])
def test_what_the_reduction_leaves_out_changes_no_outcome(pool, steps, count):
    found = [outcomes(case(steps=steps), pool, bound=0, reduce=reduce) for reduce in (True, False)]
    assert (found[0] == found[1], len(found[0])) == (True, count)


def test_a_timeline_names_the_trampoline_and_the_hit(pool):
    result = verdict(pool, steps=("unregister-wait",))
    _, lines = replay_experiment(
        case(steps=("unregister-wait",)), result.violations[0].schedule, pool=pool
    )
    told = "\n".join(lines)
    assert (
        "stub ftrace_caller+0x0  pushfq" in told,
        "hit by ftrace: runs the first handler" in told,
    ) == (True, True)


def test_hits_at_breakpoints_are_not_asked_of_sites_that_have_none(pool):
    made = []
    for profile in (LINUX_2010, LINUX_6_1):
        system = open_experiment(case(profile=profile), pool)
        made.append(system.allowed_methods())
        system.close()
    assert made == [("int3", "boosted"), ("ftrace",)]
