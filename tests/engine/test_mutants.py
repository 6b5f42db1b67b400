"""The faults that ``make mutants`` plants are still in place, and tried where they can show."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.engine.mutants import MUTANTS
from tests.faults.fault import Fault, Kind
from tests.faults.lines import ROOT, LineLog, changed_lines, may_find
from tests.faults.suite import FAULTS, looked_at_by


@pytest.mark.parametrize("faults", [MUTANTS, FAULTS], ids=["state machine", "suite"])
def test_the_text_of_each_planted_fault_is_there_once_and_stays_a_program(faults):
    sources = {
        name: (ROOT / name).read_text(encoding="utf-8") for name in {one.file for one in faults}
    }
    assert [one for one in faults if sources[one.file].count(one.old) != 1] == []
    for one in faults:
        compile(sources[one.file].replace(one.old, one.new), one.file, "exec")


def test_each_planted_fault_has_a_name_of_its_own_and_tests_that_are_there():
    assert [
        name for name, times in Counter(fault.name for fault in FAULTS).items() if times > 1
    ] == []
    assert [
        name for fault in FAULTS for name in looked_at_by(fault) if not (ROOT / name).is_file()
    ] == []


SOURCE = """LIMIT = 3
def f(x):
    y = g(
        x,
    )
    if y:
        return 1
    return 2
"""


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ("LIMIT = 3", "LIMIT = 4", None),
        ("        x,\n", "        -x,\n", {3, 4, 5}),
        ("    if y:\n        return 1\n", "", {6, 7}),
        ("        return 1\n", "        return 1\n        return 3\n", {7}),
    ],
)
def test_the_lines_of_a_fault_are_those_of_the_statements_that_it_changes(old, new, lines):
    found = changed_lines(Fault("", "f.py", old, new, Kind.HITS), SOURCE)
    assert found is None if lines is None else lines <= set(found)


def test_a_fault_is_tried_where_its_lines_run_and_nowhere_else():
    fault = Fault("", "f.py", "        return 1\n", "        return 3\n", Kind.HITS)
    run = {"one": {"f.py": [3]}, "two": {"f.py": [3, 6, 7]}, "three": {"g.py": [7]}}
    assert may_find(fault, SOURCE, run) == ["two"]
    everywhere = Fault("", "f.py", "LIMIT = 3", "LIMIT = 4", Kind.HITS)
    assert may_find(everywhere, SOURCE, run) == ["one", "two", "three"]


def test_the_lines_that_run_are_seen_in_control_tasks_too(pool):
    from arch_x86.explore.scenarios.life import stepped
    from engine.core.profiles import LINUX_2010
    from engine.patching.search_options import Search
    from tests.explore.experiments import check, experiment_of

    names = ("engine/core/kprobes.py", "engine/core/unregistration.py")
    source = {name: (ROOT / name).read_text(encoding="utf-8").splitlines() for name in names}
    with LineLog({name: range(1, len(source[name])) for name in names}) as log:
        check(experiment_of(stepped, LINUX_2010), Search(preemptions=0), pool=pool)
    run = {source[name][line - 1].strip() for name in names for line in log.lines()[name]}
    assert "self.arch.arch_prepare_kprobe(p)" in run  # register_kprobe() runs it, on a greenlet
    assert "return Bottom.INDEPENDENT" in run
    assert "return Bottom.LAST_CHILD" not in run
