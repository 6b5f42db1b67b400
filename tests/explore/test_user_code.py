"""Code of a user's is told from other code of the same name, so that nothing is taken for what it
is not.
"""

from __future__ import annotations

import runpy
from functools import partial

import pytest

from engine.core.profiles import LINUX_2010
from engine.patching.search_options import Search
from engine.patching.user_code import identity_of
from engine.search.explorable import ViolationKind
from tests.conftest import asm_image
from tests.explore.experiments import check, experiment


def called(now, complains=False):
    return now, complains


def function(value):
    return lambda now: called(now, value)


def default(value):
    return lambda now, complains=value: called(now, complains)


class Instance:
    def __init__(self, value):
        self.value = value

    def __call__(self, now):
        return called(now, self.value)


WAYS = [function, default, Instance, lambda value: partial(called, complains=value)]


@pytest.mark.parametrize("way", WAYS, ids=["closure", "default", "instance", "partial"])
def test_what_is_made_with_other_values_is_other_code(way):
    assert identity_of(way(True)) == identity_of(way(True))
    assert identity_of(way(True)) != identity_of(way(False))


def test_a_function_that_refers_to_itself_has_an_identity():
    def again(now):
        return again(now)

    assert identity_of(again) == identity_of(again)


def probe(k):
    p = k.kprobe("f", 2)
    k.register(p)
    k.unregister(p)


ORACLE = """
from engine.patching.oracles.oracle import Oracle
from engine.search.explorable import Violation, ViolationKind

class Mine(Oracle):
    def call_ended(self, vcpu, outcome):
        if COMPLAINS:
            return Violation(ViolationKind.INVARIANT, vcpu.index, None, "a call has ended")
"""


def test_a_checkpoint_with_another_oracle_of_the_same_name_is_not_taken(pool, tmp_path):
    kinds = []
    for complains in ("False", "True"):
        file = tmp_path / f"{complains}.py"
        file.write_text(ORACLE.replace("COMPLAINS", complains))
        mine = runpy.run_path(str(file))["Mine"]
        case = experiment(
            asm_image("mov eax, edi; inc eax; ret"), probe, profile=LINUX_2010, oracles=(mine,)
        )
        result = check(case, Search(preemptions=0, checkpoints=tmp_path / "found"), pool=pool)
        kinds.append([report.violation.kind for report in result.violations])
    assert kinds == [[], [ViolationKind.INVARIANT]]


TEXT = """
class Mine:
    limit = LIMIT
    def call_ended(self, vcpu, outcome):
        return OTHER
"""


def test_a_class_of_a_file_that_was_run_and_has_changed_is_other_code(tmp_path):
    """Such a class has no text for Python, but its functions have."""

    def load(name, limit, other):
        file = tmp_path / name
        file.write_text(TEXT.replace("LIMIT", limit).replace("OTHER", other))
        return runpy.run_path(str(file))["Mine"]

    classes = [load("a.py", "1", "None"), load("b.py", "2", "None"), load("c.py", "1", "outcome")]
    assert len({repr(one) for one in classes}) == 1
    assert len({identity_of(one) for one in classes}) == 3
    assert identity_of(classes[0]) == identity_of(load("d.py", "1", "None"))


def test_what_was_typed_in_is_told_by_its_code_with_its_constants():
    def typed(text):
        names = {}
        exec(text, names)
        return names["f"]

    assert identity_of(typed("f = lambda now: 1")) == identity_of(typed("f = lambda now: 1"))
    assert identity_of(typed("f = lambda now: 1")) != identity_of(typed("f = lambda now: 2"))
