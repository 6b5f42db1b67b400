"""The exhibits: each faulty variant is caught as told, and each mended one is clean."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from arch_x86.explore.exhibits.designs import COLUMNS, DESIGNS
from arch_x86.explore.exhibits.museum import EXHIBITS
from arch_x86.explore.exhibits.probe_faults import BRANCH_FAULTS, PROBE_FAULTS
from arch_x86.explore.x86_setup import X86Setup
from engine.patching.search_options import Search
from engine.patching.verdict import check, replay_experiment

SHOWN_ELSEWHERE = {one.name for one in (*PROBE_FAULTS, *BRANCH_FAULTS)}
"""Other tests run the scenarios of these."""
CHOICES_MAX = 8
SCHEDULES_MAX = 2_500
FOUND_LATE = {"285a54efe386": 300, "efd608fa7403": 300}
"""So many schedules show what is wrong if the mend of these is broken; of the others, 150."""
CASES = [
    pytest.param(one, marks=[pytest.mark.slow] if one.name in SHOWN_ELSEWHERE else [], id=one.name)
    for one in EXHIBITS
]
REFUTED = [one for one in DESIGNS if one.refuted]


def searched(pool, case, preemptions, schedules):
    port = X86Setup(pool)
    search = Search(preemptions=preemptions, max_schedules=schedules)
    return check(case.experiment(port), search, port)


@pytest.mark.parametrize("exhibit", CASES)
def test_the_faulty_variant_breaks_as_told_on_a_short_schedule(pool, exhibit):
    result = searched(pool, exhibit.faulty, exhibit.preemptions, SCHEDULES_MAX)
    (report,) = result.violations
    assert report.violation.kind is exhibit.kind
    assert report.schedule.choices <= CHOICES_MAX


@pytest.mark.parametrize("exhibit", EXHIBITS, ids=lambda one: one.name)
def test_what_is_said_of_the_two_variants_says_what_was_mended(exhibit):
    assert exhibit.faulty.how != exhibit.mended.how


@pytest.mark.parametrize("exhibit", CASES)
def test_the_mended_variant_is_clean(pool, exhibit):
    schedules = FOUND_LATE.get(exhibit.name, 150)
    result = searched(pool, exhibit.mended, exhibit.preemptions, schedules)
    assert result.violations == []
    assert result.outcome.schedules > 20


@pytest.mark.slow
@pytest.mark.parametrize("exhibit", EXHIBITS, ids=lambda one: one.name)
def test_the_mended_variant_is_clean_in_thousands_of_schedules(pool, exhibit):
    result = searched(pool, exhibit.mended, exhibit.preemptions, 20_000)
    assert result.violations == []
    assert result.outcome.exhaustive or result.outcome.schedules >= 20_000


@pytest.mark.slow
@pytest.mark.parametrize("column", COLUMNS, ids=lambda one: one.name)
@pytest.mark.parametrize("design", DESIGNS, ids=lambda one: one.name)
def test_a_design_is_refuted_in_the_fetch_models_that_are_told_and_in_no_other(
    pool, design, column
):
    result = searched(pool, design.case(column), 1, None)
    assert bool(result.violations) == (column.name in design.refuted)
    assert all(one.schedule.choices <= CHOICES_MAX for one in result.violations)
    assert result.violations or result.outcome.exhaustive


def test_the_schedule_of_an_exhibit_replays_to_the_same_violation(pool):
    exhibit = next(one for one in EXHIBITS if one.name == "2aebf5ee43bf")
    (report,) = searched(pool, exhibit.faulty, 1, None).violations
    port = X86Setup(pool)
    violation, lines = replay_experiment(exhibit.faulty.experiment(port), report.schedule, port)
    assert violation == report.violation
    assert lines[-1].strip().startswith("guest-fault:")


def test_exhibits_have_names_of_their_own_and_two_sentences():
    assert len({one.name for one in EXHIBITS}) == len(EXHIBITS)
    for one in EXHIBITS:
        assert len(one.told) == 2
        assert all(told[0].isupper() and told.endswith(".") for told in one.told), one.name


def test_a_design_tells_what_is_wrong_with_it_exactly_where_it_is_refuted():
    for one in DESIGNS:
        assert (one.told is not None) == (one.mended is not None) == bool(one.refuted)
        assert one.refuted <= {column.name for column in COLUMNS}
    assert {one.name for one in REFUTED} <= {one.name for one in EXHIBITS}


PAGE = Path(__file__).resolve().parents[2] / "docs" / "tribunal.md"


def test_the_tribunal_page_has_the_verdict_of_each_design_in_each_fetch_model():
    text = PAGE.read_text(encoding="utf-8").partition("## The verdicts")[2]
    head, *rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert [word.strip(" |") for word in head[1:]] == [one.name for one in COLUMNS]
    found = {cells[0].strip("| `"): cells[1:] for cells in rows if cells[0].startswith("| `")}
    assert list(found) == [one.name for one in DESIGNS]
    for design in DESIGNS:
        for column, cell in zip(COLUMNS, found[design.name], strict=True):
            told = re.match(r"\*\*[a-z-]+\*\* \((\d) choices, (\d+\.\d) s\)", cell)
            assert (told is not None) == (column.name in design.refuted)
            if told is None:
                assert cell.startswith("safe (")
            else:
                assert int(told[1]) <= CHOICES_MAX
                assert float(told[2]) < 5
        assert design.told is None or f"### {design.name}\n" in text
