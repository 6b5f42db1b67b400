"""The table of patch protocols by offset, at some offsets; ``make laws`` tries all of them."""

from __future__ import annotations

import pytest

from tests.explore.patch_laws import CASES, expected, found
from tests.explore.patched_functions import LINE, MODELS

UPROBE_CASES = [one for one in CASES if one[0].startswith("uprobe")]


def at(case: tuple[str, str | None], offset: int, *fetches: str) -> None:
    for fetch in fetches:
        assert found(*case, offset, fetch) == expected(*case, offset, fetch), (case, offset, fetch)


@pytest.mark.parametrize("case", UPROBE_CASES, ids=str)
def test_an_optimized_uprobe_comes_to_what_the_table_says(case):
    at(case, 0, "coherent", "unit:64", "torn")
    at(case, 56, "unit:64")  # The ten bytes cross the border, and the five of the lea do not.


@pytest.mark.slow
@pytest.mark.parametrize("case", UPROBE_CASES, ids=str)
def test_an_optimized_uprobe_comes_to_that_at_more_offsets(case):
    for offset in (0, 7, 22, 54, 57, 61):
        at(case, offset, *MODELS)


def test_the_table_is_complete_and_a_wider_unit_never_breaks_more():
    order = ("safe", "torn", "fault")
    for case in CASES:
        for offset in range(LINE):
            told = [expected(*case, offset, fetch) for fetch in MODELS]
            assert set(told) <= set(order)
            units = told[MODELS.index("unit:8") : MODELS.index("torn")]
            assert sorted(units, key=order.index, reverse=True) == units, (case, offset)
