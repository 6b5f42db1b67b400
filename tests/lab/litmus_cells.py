"""Cells and native loops for the tests of ``optprobe litmus``."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest

from arch_x86.lab.litmus import cpu_pair
from arch_x86.lab.litmus_threads import Loops, two_threads
from arch_x86.lab.litmus_verdict import Cell
from engine.errors import InputError

__all__ = ("cell", "loops", "refusal")


def cell(width: int = 8, offset: int = 0, *, serialized: bool = False, **counts: Any) -> Cell:
    """A cell with these counts; ``borders`` maps offsets to torn calls."""
    return Cell(
        width, offset, serialized, **{**counts, "borders": Counter(counts.get("borders", {}))}
    )


def refusal() -> str | None:
    """Why this machine can't be measured, or None."""
    try:
        cpu_pair(os.sched_getaffinity(0))
        with two_threads((0, 0)):
            return None
    except InputError as error:
        return str(error)


@contextmanager
def loops() -> Generator[Loops]:
    """The native loops, on one CPU or on several; skips where they can't run."""
    try:
        cpu = min(os.sched_getaffinity(0))
        with two_threads((cpu, cpu)) as threads:
            yield threads.loops
    except InputError as error:
        pytest.skip(str(error))
