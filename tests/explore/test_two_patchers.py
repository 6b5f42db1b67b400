"""Two patchers of one text: kprobes keep out of static branches, and both take turns."""

from __future__ import annotations

from dataclasses import replace

import pytest

from arch_x86.explore.scenarios.two_patchers import TWO_PATCHERS
from arch_x86.explore.x86_setup import X86Setup
from arch_x86.lab.bench import Workbench
from engine.control.sync import Mutex, OpenMutex
from engine.core.ablation import without
from engine.core.profiles import LINUX_6_1
from engine.errors import KprobeError
from engine.image import Reserved, ReservedKind
from engine.kprobe import Kprobe
from engine.patching.search_options import Search
from engine.patching.verdict import check

FEW = 150
"""Most schedules of a search in `make test`; `make slow` searches to the end."""
CASES = [
    pytest.param(one, profile, marks=() if profile == "linux-6.1" else pytest.mark.slow)
    for one in TWO_PATCHERS
    for profile in one.profiles
]
BROKEN = [
    pytest.param(*case.values, marks=() if turn == 1 else pytest.mark.slow)
    for turn, case in enumerate(CASES)
]
"""Of the others `make test` follows the schedules of docs/findings.md."""
FOUND = {
    "probe-on-branch": ("invariant", "is registered and enabled, but e9"),
    "jump-over-branch": ("wrong-result", "though the protocol has said that e9"),
    "probe-beside-branch": ("guest-fault", "breakpoint that no probe put there"),
}
cases = pytest.mark.parametrize(
    ("one", "profile"), CASES, ids=lambda value: getattr(value, "name", value)
)


def explored(pool, one, profile, *, most=None, **changes):
    port = X86Setup(pool)
    experiment = one.experiment(one.asked({"profile": profile, **changes}), port)
    return check(experiment, Search(preemptions=0, max_schedules=most), port)


@pytest.mark.parametrize(
    "most", [pytest.param(FEW, id="few"), pytest.param(None, id="all", marks=pytest.mark.slow)]
)
@cases
def test_a_probe_and_a_static_branch_keep_out_of_each_others_way(pool, one, profile, most):
    result = explored(pool, one, profile, most=most)
    assert result.violations == []
    assert result.outcome.exhaustive or result.outcome.schedules == most


@pytest.mark.parametrize(
    ("one", "profile"), BROKEN, ids=lambda value: getattr(value, "name", value)
)
def test_without_the_rule_that_keeps_them_apart_one_breaks_the_other(pool, one, profile):
    (report,) = explored(pool, one, profile, without=one.steps).violations
    kind, says = FOUND[one.name]
    assert report.violation.kind == kind
    assert says in report.violation.explain
    assert report.schedule.choices <= 8


def test_a_probe_on_a_static_branch_is_refused_as_one_on_a_jump_label(pool):
    (line,) = explored(pool, TWO_PATCHERS[0], "linux-6.1", most=1).refused
    assert line.endswith("jump-label")


def bench_without(*names, reserved=()):
    image = X86Setup().scenario_image(TWO_PATCHERS[0].request.image)
    profile = without(LINUX_6_1, frozenset(names))
    return Workbench(replace(image, reserved=reserved), profile=profile)


def test_only_without_its_step_text_mutex_keeps_nobody_out():
    assert type(bench_without().kprobes.text_mutex) is Mutex
    nobody = bench_without("text-mutex").kprobes.text_mutex
    assert type(nobody) is OpenMutex
    nobody.assert_held()
    with nobody, nobody:
        nobody.assert_held()


@pytest.mark.parametrize("kind", [one for one in ReservedKind if "ftrace" not in one.value])
def test_without_reserved_text_a_probe_goes_to_text_of_any_other_patcher(kind):
    addr = bench_without().image.by_name["work"].addr + 2
    reserved = (Reserved(addr, 3, kind),)
    with pytest.raises(KprobeError, match=str(kind.value).replace("_", "-")):
        bench_without(reserved=reserved).kprobes.register_kprobe(Kprobe(addr=addr))
    bench_without("reserved-text", reserved=reserved).kprobes.register_kprobe(Kprobe(addr=addr))
