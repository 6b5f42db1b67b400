"""``--version``, ``--help`` with its examples, and ``steps``."""

from __future__ import annotations

import io
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from engine.commands.cli import HELPS, load_command, main, parse
from engine.core.safety_steps import MENDS, STEPS
from engine.version import __version__

ROOT = Path(__file__).resolve().parents[2]
WORK = """
.globl work
work:
    lea eax, [rdi + rdi*2]
    add eax, edi
    ret
"""
SCENARIOS = f"""
import optprobe

@optprobe.scenario(image={WORK!r}, call="work", arguments=("5",), calls=1, preemptions=0)
def register(setup):
    @setup.control
    def main(k):
        k.register(k.kprobe("work"))
        k.settle()
"""
EXAMPLES = {name: load_command(name).example for name in HELPS}
LONG = ("demo", "matrix", "litmus")
"""Their examples take long; that of litmus is also refused on some machines."""
BREAKS = {"check", "explore", "patch", "replay"}
"""Their examples find a violation: exit status 1."""


def test_the_version_is_printed_and_stands_in_one_place(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"optprobe {__version__}\n"
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in project["project"]
    assert project["tool"]["hatch"]["version"]["path"] == "engine/version.py"
    assert f"\n## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_command_has_an_example_and_its_help_ends_with_it(capsys):
    for command, example in EXAMPLES.items():
        assert main([command, "--help"]) == 0
        assert capsys.readouterr().out.endswith(f"\nexample:\n  {example}\n")


@pytest.fixture
def _files(tmp_path, monkeypatch):
    """What the examples name: a function in work.o, and a scenario that breaks, so that there is
    something to save.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scenarios.py").write_text(SCENARIOS, encoding="utf-8")
    (tmp_path / "work.s").write_text(WORK, encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))


@pytest.mark.usefixtures("_files")
@pytest.mark.parametrize("command", [one for one in EXAMPLES if one not in LONG])
def test_an_example_runs(command, capsys, monkeypatch):
    if command == "replay":
        main(words("explore"))
        capsys.readouterr()
    if command == "script":
        text = re.match(r"printf '(.*)' \| ", EXAMPLES[command])
        assert text is not None
        monkeypatch.setattr("sys.stdin", io.StringIO(text[1].replace("\\n", "\n")))
    argv = words(command)
    if command == "replay":
        (argv[1],) = map(str, Path("found").glob("violation-*-0.json"))
    assert main(argv) == (command in BREAKS)
    out, err = capsys.readouterr()
    assert out
    assert "usage" not in err


def words(command: str) -> list[str]:
    """The arguments of an example, behind ``optprobe``."""
    said = shlex.split(EXAMPLES[command].rpartition(" | ")[2])
    assert said[0] == "optprobe"
    return ["work.s" if word == "work.o" else word for word in said[1:]]


def test_the_examples_that_take_long_are_understood():
    for command in LONG:
        assert parse(words(command)).command == command


def test_steps_lists_every_step_and_mend_with_its_profiles(capsys):
    assert main(["steps"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    for step in (*STEPS, *MENDS):
        assert step.what in lines[step.name]
        assert (
            all(name in lines[step.name] for name in step.profiles) or " all " in lines[step.name]
        )


def test_steps_of_a_profile_are_those_that_mean_something_there(capsys):
    assert main(["steps", "--profile", "linux-6.1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1
    assert [one["name"] for one in document["steps"]] == [
        step.name for step in STEPS if "linux-6.1" in step.profiles
    ]
    assert {one["mend"] for one in document["steps"]} == {False}
    assert main(["steps", "--profile", "linux-6.1"]) == 0
    assert "stop-machine" not in capsys.readouterr().out


def test_steps_of_an_unknown_profile_is_one_line(capsys):
    assert main(["steps", "--profile", "linux-7"]) == 2
    assert "give one of linux-2010, linux-6.1, next" in capsys.readouterr().err
