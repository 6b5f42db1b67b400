"""What is part of a state's name of fetches and of replaced code: for each part the smallest case
that goes wrong without it.
"""

from __future__ import annotations

from contextlib import closing

import pytest

from arch_x86.explore.open_experiment import open_experiment
from arch_x86.explore.scenarios.static_call_keys import static_call
from arch_x86.explore.scenarios.static_keys import static_key
from arch_x86.explore.x86_setup import X86Setup
from engine.core.profiles import LINUX_6_1
from engine.patching.fetch_model import NOTHING_LEFT
from engine.patching.patched_sites import TextIs
from tests.explore.open_systems import actors, follow, in_and_out, opened

LATE = {"fetch": "torn", "profile": LINUX_6_1}


def seen(vcpu):
    vcpu.view = NOTHING_LEFT


def chosen(vcpu):
    vcpu.chosen = 1


@pytest.mark.parametrize(
    ("schedule", "change", "behind", "without"),
    [
        pytest.param("c0*3", seen, "0", "f0", id="what a vCPU between calls has not seen"),
        pytest.param("c0*3 0", seen, "", "f0", id="what a vCPU in a call has not seen"),
        pytest.param("c0*3 0", chosen, "", "f0", id="the way in which a vCPU fetches next"),
    ],
)
def test_a_state_s_name_has(pool, schedule, change, behind, without):
    with opened(pool, "nop; ret", in_and_out, **LATE) as system:
        name = follow(system, schedule)
        follow(system, f"{schedule} {behind}")
        assert without in actors(system)
        follow(system, schedule)
        change(system.vcpus[0])
        assert system.key() != name
        for word in behind.split():
            system.take(next(one.actor for one in system.choices() if str(one.actor) == word))
        assert without not in actors(system)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda k: setattr(k, "text_is", TextIs.NEW), id="what code has to be there"),
        pytest.param(lambda k: setattr(k.branches.key, "enabled", 2), id="the count of a key"),
    ],
)
def test_a_control_state_s_name_has(pool, change):
    has_in_its_name(pool, static_key, change)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda k: setattr(k.static_calls.key, "func", "other"), id="the function"),
        pytest.param(lambda k: k.static_calls.begins(), id="updates under way"),
    ],
)
def test_a_control_state_of_static_calls_has_in_its_name(pool, change):
    has_in_its_name(pool, static_call, change)


def has_in_its_name(pool, one, change):
    experiment = one.experiment(one.request, X86Setup(pool))
    with closing(open_experiment(experiment, pool)) as system:
        state = system.tree.root.state
        name = state.name()
        change(state.control)
        assert state.name() != name
