"""The faults that ``make mutants`` plants are still where they are looked for."""

from __future__ import annotations

import pytest

from tests.engine.mutants import MUTANTS as CORE
from tests.engine.mutants import ROOT
from tests.explore.mutants import MUTANTS as EXPLORED


@pytest.mark.parametrize("mutant", [*CORE, *EXPLORED], ids=lambda mutant: mutant.fault)
def test_the_line_of_a_planted_fault_is_there_once(mutant):
    text = (ROOT / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1
