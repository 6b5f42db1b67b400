"""The schedules of docs/findings.md are of this code: each shows its violation again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from arch_x86.explore.check import replay_case
from arch_x86.explore.scenarios.history import HISTORY
from arch_x86.explore.scenarios.life import SCENARIOS
from arch_x86.explore.scenarios.steps import scenarios_for
from engine.explore.schedule import parse_schedule
from engine.profile import profile_named
from engine.steps import STEPS, without

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "findings.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\S+?)(?:, anyway)? \| (\S+?)(, preemptible)? \| (\S+) \| `(v\S+)` \|$", TEXT, re.MULTILINE)
SHOWN = [one for step in (None, *(step.name for step in STEPS)) for one in scenarios_for(step)]
BY_NAME = {one.name: one for one in (*SCENARIOS, *HISTORY, *SHOWN)}


@pytest.mark.parametrize("profile", ["linux-2010", "linux-6.1", "next"])
def test_each_schedule_of_the_findings_shows_a_violation(pool, profile):
    rows = [row for row in ROWS if row[1] == profile]
    assert len(rows) > 10
    for step, _, preempt, scenario, text in rows:
        steps = frozenset() if step == "nothing" else frozenset({step.strip("`")})
        case = BY_NAME[scenario].case(without(profile_named(profile), steps, preempt=bool(preempt)), preempt=bool(preempt))
        violation, lines = replay_case(case, parse_schedule(text), pool=pool)
        assert violation is not None, (step, scenario, text)
        assert lines[-1].startswith(str(violation.kind))
