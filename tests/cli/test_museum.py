"""``optprobe museum``: the list, an exhibit, and its page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from arch_x86.explore.exhibits.museum import EXHIBITS
from engine.commands import wiring
from engine.commands.cli import main

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "museum.md").read_text(encoding="utf-8")
ONE = next(one for one in EXHIBITS if one.name == "9e298e860408")


def test_the_list_has_every_exhibit_with_its_year_violation_and_title(capsys):
    assert main(["museum"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    for one in EXHIBITS:
        assert f"{one.year}  {one.kind}" in lines[one.name]
        assert lines[one.name].endswith(one.title)


def test_the_list_as_json_has_what_the_exhibits_have(capsys):
    assert main(["museum", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [(one["name"], tuple(one["told"])) for one in document["exhibits"]] == [
        (one.name, one.told) for one in EXHIBITS
    ]


def test_an_exhibit_shows_what_went_wrong_the_timeline_and_the_clean_mend(capsys):
    assert main(["museum", ONE.name, "--max-schedules", "20"]) == 0
    out = capsys.readouterr().out
    assert " ".join(ONE.told) in re.sub(r"\s+", " ", out)
    assert re.search(r"^ +v3:[0-9a-f]{8}:", out, re.MULTILINE)
    assert "k+0x3  int3" in out or "f+0x3  int3" in out
    assert out.rstrip().endswith("clean: 20 schedules with at most 1 preemption, there are more")


@pytest.mark.parametrize(
    "changed",
    [
        replace(ONE, mended=ONE.faulty),
        replace(ONE, faulty=ONE.mended),
        replace(ONE, kind="deadlock"),
    ],
    ids=["the-mended-one-breaks", "the-faulty-one-does-not", "it-breaks-in-another-way"],
)
def test_an_exhibit_that_is_not_as_told_exits_with_1(changed, capsys, monkeypatch):
    monkeypatch.setattr(wiring, "EXHIBITS", (changed,), raising=False)
    assert main(["museum", ONE.name, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["as_told"] is False


def test_an_unknown_exhibit_is_one_line(capsys):
    assert main(["museum", "nothing"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "optprobe museum lists the names" in err


def test_the_page_has_every_exhibit_as_it_is_told_and_no_other():
    rows = {
        name: (year, title, told)
        for name, year, title, told in re.findall(
            r"^\| `(\S+)` \| (\d+) \| (.*?) \| (.*?) \|$", PAGE, re.MULTILINE
        )
    }
    assert rows == {one.name: (str(one.year), one.title, " ".join(one.told)) for one in EXHIBITS}
