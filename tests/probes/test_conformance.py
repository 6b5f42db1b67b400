"""Agreement with a real Linux 6.1: every byte of every function in tests/data/oracle."""

from __future__ import annotations

import pytest

from tests.probes.conformance import main, measure
from tests.probes.oracle_data import FILES, load


@pytest.mark.parametrize("file", FILES)
def test_every_answer_is_the_kernels(file: str) -> None:
    asked, mismatches = measure(file)
    assert not mismatches
    assert asked["rc"] == sum(len(function.verdicts) for function in load(file))
    assert all(
        asked[question] > 500 for question in ("boost", "emul", "opt", "osz", "slot", "copy")
    )


def test_the_table_names_each_file_and_question(capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 0
    printed = capsys.readouterr().out
    assert all(file in printed for file in FILES)
