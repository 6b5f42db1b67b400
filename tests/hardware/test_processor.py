"""The machine leaves behind what a real processor does, or refuses; the rest is listed in
docs/processor.md.
"""

from __future__ import annotations

import pytest

from tests.conftest import ROOT
from tests.hardware.compare import Laboratory
from tests.hardware.document import document, outcomes
from tests.hardware.records import load, load_found


@pytest.fixture(scope="module")
def results():
    return outcomes()


def test_no_record_is_silently_different_in_what_code_computes(results):
    assert [
        (one.record.code, one.record.raw.hex(), sorted(one.wrong)) for one in results if one.wrong
    ] == []


def test_what_records_of_other_seeds_found_wrong_is_right_or_refused():
    laboratory = Laboratory(load()[0])
    results = [laboratory.run(record) for record in load_found()]
    laboratory.close()
    assert [
        (one.record.code, one.record.raw.hex(), sorted(one.wrong)) for one in results if one.wrong
    ] == []


def test_the_page_is_what_the_records_say(results):
    assert (ROOT / "docs" / "processor.md").read_text(encoding="utf-8") == document(results)
