"""What all benchmarks share: a pool of emulator instances, and a table of figures.

The table at the end of the run has each measured figure beside its target.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    # This is for the package bench. It is appended, so that an installed wheel's packages come
    # first.
    sys.path.append(str(ROOT))

from arch_x86.emu.machine import new_pool  # noqa: E402
from bench.figures import Figures  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _pytest.terminal import TerminalReporter

    from arch_x86.emu.uc import UcPool

FIGURES = pytest.StashKey[Figures]()


def pytest_configure(config: pytest.Config) -> None:
    """Begin a table of figures for this run."""
    config.stash[FIGURES] = Figures()


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Collect ``bench_*.py``, which pytest does not take for tests by itself."""
    named = file_path.name.startswith("bench_") and file_path.suffix == ".py"
    if parent.session.isinitpath(file_path):  # pytest takes a file that is given by name anyway
        return None
    if not named or any(
        file_path.match(pattern) for pattern in parent.config.getini("python_files")
    ):
        return None
    return pytest.Module.from_parent(parent, path=file_path)  # pyright: ignore[reportUnknownMemberType]


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    """Print the table of figures below the timings."""
    lines = config.stash[FIGURES].lines()
    if lines:
        terminalreporter.write_sep("-", "figures")
        terminalreporter.write_line("\n".join(lines))


@pytest.fixture
def figures(pytestconfig: pytest.Config) -> Figures:
    """The table to which a benchmark adds what it found: ``figures.add(...)``."""
    return pytestconfig.stash[FIGURES]


@pytest.fixture(scope="session")
def pool() -> Iterator[UcPool]:
    """Emulator instances, whose private offsets are measured once."""
    made = new_pool()
    yield made
    made.close()
