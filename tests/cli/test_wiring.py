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


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["check", "--help"], ["steps"]])
def test_what_executes_nothing_loads_no_emulator(words):
    script = (
        "import sys; from engine.commands.cli import main\n"
        f"status = main({words!r})\n"
        "loaded = [name for name in sys.modules if name.partition('.')[0] in"
        " ('arch_x86', 'unicorn', 'capstone', 'keystone', 'elftools')]\n"
        "sys.exit(f'{status} {loaded}' if status or loaded else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")
