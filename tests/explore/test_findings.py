"""The schedules of docs/findings.md are of this code: each shows its violation again."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from arch_x86.explore.open_experiment import open_experiment
from arch_x86.explore.scenarios.code_goes_away import joined_while_disarming
from arch_x86.explore.scenarios.history import HISTORY
from arch_x86.explore.scenarios.life import SCENARIOS
from arch_x86.explore.scenarios.steps import scenarios_for
from engine.core.ablation import without
from engine.core.profiles import profile_named
from engine.core.safety_steps import STEPS
from engine.patching.experiment import fingerprint
from engine.search.schedule import parse_schedule, replay
from tests.explore.experiments import experiment_of, replay_experiment

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "findings.md").read_text(encoding="utf-8")
ROWS = re.findall(
    r"^\| (\S+?)(?:, anyway)? \| (\S+?)(, preemptible)? \| (\S+) \| `(v\S+)` \|$",
    TEXT,
    re.MULTILINE,
)
SHOWN = [one for step in (None, *(step.name for step in STEPS)) for one in scenarios_for(step)]
BY_NAME = {one.name: one for one in (*SCENARIOS, *HISTORY, *SHOWN, joined_while_disarming)}
TOLD = [text for text in re.findall(r"`(v\d:\S+)`", TEXT) if text not in {row[-1] for row in ROWS}]
"""Schedules outside of the tables: of the kernels as they are."""


@pytest.mark.parametrize("profile", ["linux-2010", "linux-6.1", "next"])
def test_each_schedule_of_the_findings_shows_a_violation(pool, profile):
    rows = [row for row in ROWS if row[1] == profile]
    assert len(rows) > 10
    for step, _, preempt, scenario, text in rows:
        steps = frozenset() if step == "nothing" else frozenset({step.strip("`")})
        case = experiment_of(
            BY_NAME[scenario],
            without(profile_named(profile), steps, preempt=bool(preempt)),
            preempt=bool(preempt),
        )
        violation, lines = replay_experiment(case, parse_schedule(text), pool=pool)
        assert violation is not None, (step, scenario, text)
        assert lines[-1].startswith(str(violation.kind))


@pytest.mark.parametrize("scenario", HISTORY, ids=lambda one: one.name)
def test_what_shows_a_fault_of_the_history_breaks_nothing_with_its_commit(pool, scenario):
    """The same schedule, as far as it can be followed there."""
    rows = [row for row in ROWS if row[3] == scenario.name and not row[2]]
    assert {profile for _, profile, *_ in rows} == {*scenario.profiles}
    for _, profile, _, _, text in rows:
        case = experiment_of(scenario, without(profile_named(profile), frozenset()))
        with closing(open_experiment(replace(case, reduce=False), pool)) as system:
            replay(system, parse_schedule(text).segments)
            assert system.violation is None, (profile, text)


def test_each_schedule_in_the_text_is_of_a_scenario_and_shows_a_violation(pool):
    found = (
        experiment_of(
            one, without(profile_named(name), frozenset(), preempt=preempt), preempt=preempt
        )
        for one in BY_NAME.values()
        for name in one.profiles
        for preempt in (False, True)
    )
    cases = {fingerprint(case): case for case in found}
    assert len(TOLD) > 2
    for text in TOLD:
        schedule = parse_schedule(text)
        assert schedule.fingerprint in cases, text
        assert replay_experiment(cases[schedule.fingerprint], schedule, pool=pool)[0] is not None, (
            text
        )
