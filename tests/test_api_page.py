"""docs/api.md is true: its examples run, in their order, and print what their last lines say."""

from __future__ import annotations

import re
from pathlib import Path

import optprobe
from engine.commands.cli import main

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
BLOCKS = [
    "\n".join(line[4:] for line in block.splitlines())
    for block in re.findall(r"^(?:    .*\n)(?:    .*\n|\n+(?=    ))*", TEXT, re.MULTILINE)
]


def split(block: str) -> tuple[str, str]:
    """The code of an example, and what it is said to print."""
    code, _, output = block.partition("\n# Output:\n")
    return code, "".join(f"{line.removeprefix('# ')}\n" for line in output.splitlines())


def test_the_examples_of_the_page_run_and_print_what_they_show(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    session: dict[str, object] = {"__name__": "__main__"}
    assert len(BLOCKS) > 10
    for block in BLOCKS:
        code, output = split(block)
        exec(compile(code, "<docs/api.md>", "exec"), session)
        assert capsys.readouterr().out == output, code


def test_the_page_names_what_is_there_and_all_of_the_commands():
    first = TEXT[: TEXT.index("\n## ")]
    named = {
        word
        for line in first.splitlines()
        if line.startswith("| `")
        for word in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    assert named <= set(optprobe.__all__)
    assert {
        "Machine",
        "run",
        "verify",
        "inspect",
        "check",
        "explore",
        "scenario",
        "Kretprobe",
        "profile",
    } <= named


def test_the_schedule_that_the_page_shows_replays_on_the_command_line(
    capsys, monkeypatch, tmp_path
):
    source = re.search(r'    work = optprobe\.load_asm\("""\n(.*?)    """', TEXT, re.DOTALL)
    schedule = re.search(r"# (v3:\S+)", TEXT)
    command = re.search(r"`optprobe replay SCHEDULE -- ([^`]+)`", TEXT)
    assert source is not None
    assert schedule is not None
    assert command is not None
    monkeypatch.chdir(tmp_path)
    Path("work.s").write_text(source[1], encoding="utf-8")
    assert main(["replay", schedule[1], "--", *command[1].split()]) == 1
    assert "torn-instruction" in capsys.readouterr().out
