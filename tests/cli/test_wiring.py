"""Laws of where the command line reaches into arch_x86: in one file, and not before a command
needs it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from engine.commands import wiring
from engine.commands.cli import HELPS, load_command

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", wiring.__all__)
def test_every_name_of_the_wiring_is_there(name):
    assert getattr(wiring, name) is not None


def test_a_name_that_the_wiring_lacks_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'run_nothing'"):
        _ = wiring.run_nothing


def test_one_file_of_the_engine_imports_the_arch_layer():
    """import-linter does not see what is imported by the name of a module, as the wiring does
    it.
    """
    named = [
        str(file.relative_to(ROOT))
        for file in sorted((ROOT / "engine").rglob("*.py"))
        if re.search(
            r"(from|import) arch_x86|[\"']arch_x86\.(?!explore\.scenarios[\"'])",
            file.read_text(encoding="utf-8"),
        )
    ]
    assert named == ["engine/commands/wiring.py"]


EMULATING = ("unicorn", "capstone", "keystone", "elftools")


def loads_none_of(words: list[str], *packages: str) -> subprocess.CompletedProcess[str]:
    """The command, which fails if it has loaded a module of one of the packages."""
    script = (
        "import sys; from engine.commands.cli import main\n"
        f"status = main({words!r})\n"
        f"loaded = [name for name in sys.modules if f'{{name}}.'.startswith({packages!r})]\n"
        "sys.exit(f'{status} {loaded}' if status or loaded else 0)"
    )
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT
    )


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["check", "--help"], ["steps"]])
def test_what_executes_nothing_loads_no_emulator(words):
    done = loads_none_of(words, *(f"{name}." for name in ("arch_x86", *EMULATING)))
    assert (done.returncode, done.stderr) == (0, "")


def test_the_list_of_commands_loads_no_command():
    done = loads_none_of(["--help"], *(f"engine.commands.{name}_command." for name in HELPS))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("options", [[], ["--json"], ["--buffers"]])
def test_inspect_loads_no_emulator_no_assembler_and_no_pool_of_processes(options):
    words = ["inspect", "workloads/elf/sha256.o", *options]
    done = loads_none_of(
        words,
        *(f"{name}." for name in EMULATING),
        *("multiprocessing.", "arch_x86.text.", "arch_x86.emu.", "engine.core."),
        *("arch_x86.images.asmtext.", "arch_x86.images.codeimage.", "arch_x86.images.elf_dyn."),
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_command_is_called_as_its_file_and_its_line_in_the_table_say():
    for name in HELPS:
        assert load_command(name).name == name
    files = {file.stem for file in (ROOT / "engine" / "commands").glob("*_command.py")}
    assert files == {f"{name}_command" for name in HELPS}
