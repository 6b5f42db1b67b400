"""The table of ``make necessity NECESSITY=--protocols``: what its cells are made of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.protocol_cases import SUBJECTS, Cell
from bench.protocol_reasons import NOTES, reason
from bench.protocol_table import COLUMNS, Cells, Found, cells, searched, table
from engine.patching.search_options import Search

CHEAP = ("text_poke", "text_poke_smp", "text_poke_smp_batch")
BY_NAME = {one.name: one for one in SUBJECTS}
FOUND = Found(
    subject="text_poke_bp",
    step="refs",
    preempt=False,
    column="torn",
    kind=None,
    choices=0,
    anyway=False,
    schedules=525,
    exhaustive=True,
    seconds=0.5,
)


@pytest.mark.parametrize("name", CHEAP)
def test_a_cell_has_what_a_search_of_its_cases_shows(name):
    for subject, column, cell in cells([name]):
        if not cell.preempt and column in ("coherent", "torn"):
            found = searched(subject, column, cell, Search(preemptions=1))
            broken = name == "text_poke" or cell.step is not None
            assert (found.kind, found.exhaustive) == (
                ("torn-instruction", False) if broken else (None, True)
            )


def test_each_cell_of_each_row_has_experiments():
    for subject in SUBJECTS:
        for step in (None, *subject.steps):
            cell = Cell("torn", COLUMNS[0].at, False, step)
            assert subject.of(cell)
            assert subject.of(replace(cell, preempt=True))


def test_a_step_that_shows_in_a_case_of_its_own_is_found_there():
    cell = Cell("coherent", 3, False, "count-first")
    found = searched(BY_NAME["text_poke_bp_5_4"], "coherent", cell, Search(preemptions=1))
    assert (found.kind, found.anyway) == ("guest-fault", False)


def test_a_file_keeps_cells_of_one_bound_and_a_table_shows_them(tmp_path):
    file = tmp_path / "cells.jsonl"
    Cells(file, 1).add(FOUND)
    assert not Cells(file, 2).found
    lines = table(Cells(file, 1).found)
    number = list(NOTES).index("sync refuses") + 1
    row = "| text_poke_bp | `refs` | no |  |  |  |  | not needed (525 schedules, exhaustive)"
    assert lines[2] == f"{row} [{number}] |"
    assert lines[3] == ""
    assert len(lines) == 4 + len(NOTES)


def test_what_was_cut_off_is_never_said_to_be_not_needed():
    cut = replace(FOUND, exhaustive=False)
    assert cut.text == "not found in 525 schedules"
    broken = replace(FOUND, kind="guest-fault", choices=4, anyway=True)
    assert broken.text == "guest-fault anyway: 4 choices"
    assert replace(FOUND, step=None).text == "safe (525 schedules, exhaustive)"


def test_each_reason_is_one_of_the_list_and_each_of_the_list_is_given():
    given = {
        reason(subject.name, step, column.name)
        for subject in SUBJECTS
        for step in subject.steps
        for column in COLUMNS
    }
    assert given - {None} == set(NOTES)
