"""docs/protocols.md is true: its walk prints what it shows, and it has all protocols and steps."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from arch_x86.protocols.protocol import Patcher
from arch_x86.protocols.protocol_names import PROTOCOLS
from engine.commands.cli import main

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "protocols.md").read_text(encoding="utf-8")
BLOCKS = [
    "\n".join(line[4:] for line in block.splitlines())
    for block in re.findall(r"^(?:    .*\n)(?:    .*\n|\n+(?=    ))*", TEXT, re.MULTILINE)
]
JIT = next(block for block in BLOCKS if block.startswith("old:"))
MINE = next(block for block in BLOCKS if block.startswith("import optprobe"))
RUNS = [block for block in BLOCKS if block.startswith("$ optprobe")]


@pytest.mark.parametrize("block", RUNS, ids=range(len(RUNS)))
def test_the_walk_prints_what_it_shows(block, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    moved = "unit:32" in block
    Path("jit.s").write_text(JIT.replace(".skip 26", ".skip 29") if moved else JIT)
    Path("mine.py").write_text(MINE)
    command, _, shown = block.partition("\n")
    assert main(shlex.split(command)[2:]) == ("violation" in shown)
    printed = capsys.readouterr().out
    for part in shown.split("\n  ...\n"):
        assert part.strip("\n") in printed


def test_each_protocol_that_comes_along_has_a_row_with_its_steps():
    rows = {
        cells[1].strip().strip("`"): cells[3]
        for cells in (line.split("|") for line in TEXT.splitlines() if line.startswith("| `"))
        if len(cells) == 5
    }
    above: set[str] = set()
    for one in PROTOCOLS:
        steps = rows[one.name]
        if steps.strip() != "the same":
            above = set(re.findall(r"`([\w-]+)`", steps))
        assert above == set(one.steps), one.name


def test_each_operation_of_a_patcher_is_on_the_page():
    operations = {name for name in vars(Patcher) if not name.startswith("_")}
    assert operations <= set(re.findall(r"`p\.(\w+)\(", TEXT))
