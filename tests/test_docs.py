"""The documents are true: what they list is what the code has, and what they link to is there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from engine.commands.cli import main
from engine.core.safety_steps import MENDS, STEPS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
NAMES = {"linux-2010", "linux-6.1", "next"}


def rows(text: str) -> dict[str, list[str]]:
    """The cells of each row of a table whose first cell is a name in backticks."""
    found = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| `")
    ]
    return {cells[0].strip("`"): cells[1:] for cells in found}


def test_every_safety_step_is_explained_with_its_profiles_and_no_other():
    text = (DOCS / "steps.md").read_text(encoding="utf-8")
    explained = rows(text)
    assert set(explained) == {one.name for one in (*STEPS, *MENDS)}
    for step in STEPS:
        said = explained[step.name][0]
        assert (NAMES if said == "all" else set(said.split(", "))) == set(step.profiles), step.name


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", target):
            continue
        name, _, heading = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), target
        if heading and there.suffix == ".md":
            assert heading in anchors(there), target


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda page: page.name
)
def test_every_source_file_that_a_page_names_is_there(page):
    for name in re.findall(
        r"`((?:engine|arch_x86|optprobe|tests|bench)/[\w/]+\.py)`", page.read_text(encoding="utf-8")
    ):
        assert (ROOT / name).is_file(), name


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as they are made of their words."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


def keys(document: object) -> set[str]:
    """All keys of a document, at any depth."""
    if isinstance(document, dict):
        return set(document) | {key for value in document.values() for key in keys(value)}
    return (
        {key for value in document for key in keys(value)} if isinstance(document, list) else set()
    )


COMMANDS = {
    "run": (
        "workloads/elf/qsort.o",
        "--call",
        "sort_i32",
        "--arg",
        "buf:0200000001000000",
        "--arg",
        "2",
        "--probe",
        "sort_i32",
    ),
    "verify": ("workloads/elf/shapes_jcc.o", "--call", "shape_jcc_short_o", "--arg", "1"),
    "inspect": ("workloads/elf/shapes_jcc.o", "shape_jcc_short_o", "--buffers"),
    "check": (
        "workloads/elf/qsort.o",
        "--call",
        "sort_i32",
        "--arg",
        "buf:0200000001000000",
        "--arg",
        "2",
        "--probe",
        "sort_i32",
        "--calls",
        "1",
        "--without",
        "stop-machine",
    ),
    "explore": ("arch_x86/explore/scenarios/life.py::register", "--preemptions", "0"),
    "steps": (),
    "museum": ("2aebf5ee43bf", "--max-schedules", "50"),
    "litmus": ("--seconds", "1"),
}


@pytest.mark.parametrize("command", list(COMMANDS))
def test_the_keys_of_a_json_document_are_those_of_its_page(command, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    status = main([command, *COMMANDS[command], "--json"])
    printed, refused = capsys.readouterr()
    if command == "litmus" and status == 2:
        pytest.skip(refused)
    page = (DOCS / "json.md").read_text(encoding="utf-8")
    section = next(
        part
        for part in page.split("\n## ")[1:]
        if re.search(rf"\b{command}\b", part.partition("\n")[0])
    )
    told = set(re.findall(r'"(\w+)":', section))
    listed = {
        word
        for group in re.findall(r"\{(\"[^{}]*\")\}", section)
        for word in re.findall(r'"(\w+)"', group)
    }
    assert keys(json.loads(printed)) <= told | listed
