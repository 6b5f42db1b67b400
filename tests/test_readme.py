"""The README and the page of fetch models are true: their examples print what is shown there."""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path

import pytest

from arch_x86.emu.fault import FaultKind
from engine.commands.cli import main

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
LATE = (ROOT / "docs" / "fetch-models.md").read_text(encoding="utf-8")
BLOCKS = [
    "\n".join(line[4:] for line in block.splitlines())
    for block in re.findall(r"(?:^    .*\n(?:(?:    .*)?\n(?=    ))*)+", TEXT + LATE, re.MULTILINE)
]
COMMANDS = [block for block in BLOCKS if block.startswith("$ optprobe")]


def split(block: str) -> tuple[list[str], str]:
    """The command's words and what it is said to print."""
    command, _, output = block.replace("\\\n", " ").partition("\n")
    return shlex.split(command)[2:], output


@pytest.mark.parametrize("block", COMMANDS, ids=lambda block: shlex.split(block)[2])
def test_a_command_of_the_pages_prints_what_they_show(block, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    argv, expected = split(block)
    image = next(word for word in argv[1:] if "/" in word)
    if image.startswith("/lib") and not Path(image).exists():
        argv[
            argv.index(image)
        ] = (  # another distribution: at least the form of the command is tried
            "workloads/elf/dyn.so"
        )
        assert main([*argv[:2], "--call", "dyn_step", "--arg", "5"]) == 0
        return
    assert main(argv) == (
        argv[0] in ("patch", "replay") or "--without" in argv
    )  # what breaks is shown
    printed = capsys.readouterr().out.rstrip("\n")
    if expected:
        assert printed == expected.rstrip("\n")


PIPES = re.findall(
    r"^    \$ (printf .*)$",
    TEXT + (ROOT / "docs" / "script.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


@pytest.mark.parametrize("line", PIPES)
def test_a_script_piped_in_runs_and_says_no_error(line, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    printed, _, command = line.partition(" | ")
    monkeypatch.setattr("sys.stdin", io.StringIO(shlex.split(printed)[1].replace("\\n", "\n")))
    assert main(shlex.split(command)[1:]) == 0
    out, err = capsys.readouterr()
    assert len([one for one in out.splitlines() if not one.startswith(" ")]) == 4
    assert "rc=-" not in out
    assert '"rc": -' not in out
    assert err == ""


def test_the_python_example_runs_and_prints_what_its_comments_say(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    source = next(block for block in BLOCKS if block.startswith("import optprobe"))
    exec(compile(source, "<README.md>", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(" 3")
    assert lines[1] == "optimized 01000000 02000000 03000000"
    assert lines[2] == "<RunResult linux-2010 -> 0x5, hits: 1>"


def test_there_are_at_least_three_commands_and_every_linked_file_exists():
    assert len(COMMANDS) >= 3
    assert len(PIPES) == 2
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / target).exists(), target


def test_every_kind_of_guest_fault_is_explained_and_no_other():
    text = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z-]+)` \|", text, re.MULTILINE)) == {
        str(kind) for kind in FaultKind
    }
