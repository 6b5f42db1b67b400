"""Static branches: the count of a key, in each of the kernel's versions, against what is needed."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from arch_x86.explore.scenario import Control
from arch_x86.explore.scenarios import static_keys
from arch_x86.explore.scenarios.static_keys import BRANCH, static_key
from arch_x86.explore.x86_setup import X86Setup
from engine.control.sync import ControlPlane
from engine.core.jump_label import Decrement, StaticKey
from engine.errors import InputError
from engine.patching.control_state import NoTime
from engine.patching.experiment import fingerprint
from engine.patching.request import Request
from engine.patching.scenario_decorator import scenario
from engine.patching.search_options import Search
from engine.patching.verdict import check, replay_experiment
from engine.search.actor import Actor, ActorKind
from engine.search.schedule import Schedule

MENDED = Decrement.COMMIT_1D7F856C2CA4


def explored(pool, one, *, bound=0, **changes):
    port = X86Setup(pool)
    experiment = one.experiment(one.asked(changes), port)
    return check(experiment, Search(preemptions=bound), port)


@pytest.mark.parametrize("model", ["coherent", "torn"])
def test_two_tasks_that_need_a_branch_find_it_taken(pool, model):
    result = explored(pool, static_key, fetch=model)
    assert result.verdict == "safe"
    assert result.coverage.in_flight_at_write == 0
    assert explored(pool, static_key, fetch=model, profile="next").verdict == "safe"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["coherent", "stale", "unit:8", "torn"])
@pytest.mark.parametrize("profile", ["linux-6.1", "next"])
def test_they_do_in_the_middle_of_calls_too(pool, profile, model):
    result = explored(pool, static_key, bound=1, fetch=model, profile=profile)
    assert result.verdict == "safe"
    assert result.coverage.in_flight_at_write


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("x224fa3552029", "e9"), ("x1d7f856c2ca4", "e9"), ("x83ab38ef0a0b", "0f 1f 44 00 00")],
)
def test_each_count_before_it_was_mended_leaves_the_wrong_branch(pool, name, wrong):
    (report,) = explored(pool, getattr(static_keys, name)).violations
    assert report.violation.kind == "wrong-result"
    assert report.violation.explain.startswith(f"CPU 0 executes {wrong}")
    assert report.schedule.choices <= 8


@scenario(
    image=BRANCH,
    call="work",
    arguments=("5",),
    calls=1,
    branches=("work+0x2:taken",),
    profiles=("linux-6.1",),
)
def off_twice(setup):
    """Who switches off what is off changes nothing for who switches it on behind that."""

    @setup.control
    def switch(k: Control) -> None:
        k.static_key_slow_dec(MENDED)
        k.static_key_slow_inc()


def test_a_key_that_is_off_can_be_switched_off_since_83ab38ef0a0b(pool):
    result = explored(pool, off_twice, bound=1)
    assert result.verdict == "safe"
    assert result.refused == ("the kernel warns: static_key_slow_dec() of a key that is 0",)


@scenario(
    image=BRANCH,
    call="work",
    arguments=("5",),
    calls=1,
    branches=("work+0x2:taken",),
    profiles=("linux-6.1",),
)
def off_without_need(setup):
    """One task switches on, and another one, which has no need of the branch, off."""

    @setup.control
    def on(k: Control) -> None:
        k.static_key_slow_inc()

    @setup.control
    def off(k: Control) -> None:
        k.static_key_slow_dec(MENDED)


def test_who_takes_back_what_another_task_is_asking_for_is_found(pool):
    (report,) = explored(pool, off_without_need).violations
    assert report.violation.kind == "wrong-result"
    assert report.violation.explain.startswith("CPU 0 executes 0f 1f 44 00 00")


def test_a_timeline_has_what_the_kernel_warns_of(pool):
    port = X86Setup(pool)
    experiment = off_twice.experiment(off_twice.asked({}), port)
    mark = Schedule(fingerprint(experiment), ((Actor(ActorKind.CONTROL, 0), 5),))
    lines = replay_experiment(experiment, mark, port)[1]
    assert lines.count("  the kernel warns: static_key_slow_dec() of a key that is 0") == 1


class Meanwhile(StaticKey):
    """A key whose count another task has changed by the time that the lock is held."""

    count = 0

    def _point(self, what):
        if what == "takes 1 from the key under the lock":
            self.enabled = self.count


@pytest.mark.parametrize(("before", "under_lock", "after"), [(1, 0, 0), (-1, 1, 0), (1, 2, 1)])
def test_under_the_lock_a_count_above_0_goes_down_and_0_stays(before, under_lock, after):
    patched = []
    key = Meanwhile(ControlPlane(NoTime()), patched.append)
    key.enabled, key.count = before, under_lock
    key.slow_dec(MENDED)
    assert (key.enabled, patched) == (after, [False] if under_lock == 1 else [])
    assert (key.warned is None) == (before > 0 and under_lock > 0)


@given(st.lists(st.booleans(), max_size=12), st.sampled_from(Decrement))
def test_alone_each_count_is_what_was_asked_for_and_not_taken_back(steps, how):
    """A task that never takes back what it has not asked for finds all versions alike."""
    text = [False]
    key = StaticKey(ControlPlane(NoTime()), lambda taken: text.__setitem__(0, taken))
    count = 0
    for inc in steps:
        if inc:
            key.slow_inc()
            count += 1
        elif count:
            key.slow_dec(how)
            count -= 1
        assert (key.enabled, text[0], key.warned) == (count, count > 0, None)


@pytest.mark.parametrize("branch", ["work+0x2", "work:taken", "work+0x2:nowhere", "none+0x2:taken"])
def test_a_branch_that_is_none_is_refused_in_one_line(pool, branch):
    request = Request(image=BRANCH, call="work", branches=(branch,), profile="linux-6.1")
    with pytest.raises(InputError) as refused:
        static_key.experiment(request, X86Setup(pool))
    assert "\n" not in str(refused.value)
