"""``inspect``: the processor time of a MiB of code, as JSON and as a listing; and of a short start.

The code is a MiB of the functions of the shipped ``sha256.o``, one behind the other. With two
processes the time is that of all of them, so that half of it is what two idle cores take. A start
is that of a process which does next to nothing, against ``python -c pass``.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING, Any, Final

import pytest

from arch_x86.lab.inspect_image import inspect_image
from bench.images import shipped
from engine.image import Image, Segment, Symbol

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.figures import Figures

_MIB: Final = 1 << 20
_BASE: Final = 0x1000_0000
_ROOT: Final = Path(__file__).resolve().parents[1]
_ROUNDS: Final = 3
_STARTS: Final = {
    "python -c pass": ("-c", "pass"),
    "import optprobe": ("-c", "import optprobe"),
    "optprobe --help": ("-m", "engine", "--help"),
    "optprobe inspect, one function": (
        *("-m", "engine", "inspect"),
        *("workloads/elf/shapes_jcc.o", "shape_jcc_short_o"),
    ),
}


def _mib() -> Image:
    """An image with a MiB of code in functions of 4 to 5 KiB."""
    source = shipped("sha256.o")
    first = source.functions[0]
    code = source.read(first.addr, sum(symbol.size for symbol in source.functions))
    count = -(-_MIB // len(code))
    return Image(
        name="a MiB",
        segments=(Segment(_BASE, code * count, len(code) * count),),
        symbols=tuple(Symbol(f"f{i}", _BASE + i * len(code), len(code)) for i in range(count)),
    )


def _seconds(work: Callable[[], object]) -> float:
    """The processor time of ``work``, and of the processes that it starts and waits for."""
    before = os.times()
    work()
    after = os.times()
    return sum(after[:4]) - sum(before[:4])


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("form", ["JSON", "listing"])
def test_a_mib_of_code(benchmark: Any, figures: Figures, form: str, jobs: int) -> None:
    """All functions of a MiB of code."""
    image = _mib()
    laps: list[float] = []

    def inspect() -> None:
        laps.append(
            _seconds(lambda: inspect_image(io.StringIO(), image, as_json=form == "JSON", jobs=jobs))
        )

    benchmark.pedantic(inspect, rounds=_ROUNDS, iterations=1)
    figures.add(
        benchmark, f"{form} of a MiB of code, {jobs} processes, all of them", min(laps), "s"
    )


@pytest.mark.parametrize("name", _STARTS)
def test_a_start(benchmark: Any, figures: Figures, name: str) -> None:
    """A process from its start to its end."""
    laps: list[float] = []

    def start() -> None:
        words = [sys.executable, *_STARTS[name]]
        laps.append(
            _seconds(lambda: subprocess.run(words, cwd=_ROOT, capture_output=True, check=True))
        )

    benchmark.pedantic(start, rounds=20, warmup_rounds=1, iterations=1)
    figures.add(benchmark, name, quantiles(laps, n=4)[0] * 1e3, "ms")
