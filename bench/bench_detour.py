"""How long it takes to prepare a detour buffer, and to decode and inspect code.

The target is below 60 us for a buffer whose function is decoded. Preparing one means to decide
whether a jump fits (``can_optimize``) and to make the buffer's bytes (``build_detour``). Both are
timed on all sites of a shipped function that can be optimized. Decoding and inspecting are measured
on functions of the C library that this process runs on or, where none is found, on the shipped
workloads over and over.
"""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import pytest

from arch_x86.images import load_image
from arch_x86.isa.constants import MAX_INSN_SIZE
from arch_x86.isa.decode import decode
from arch_x86.probes.code import CodeCache
from arch_x86.probes.detour import build_detour
from arch_x86.probes.inspect import inspect_function
from arch_x86.probes.optimize import OptimizePlan, can_optimize
from bench.images import shipped
from bench.race import seconds
from engine.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.figures import Figures
    from engine.image import Image, Symbol

_TARGET_US: Final = 60
_BUFFERS_AT: Final = 0x1100_0000
_CALLBACK: Final = 0x1000_8000
_BYTES: Final = 300_000
_SHIPPED: Final = ("interp.so", "lz.so", "qsort.so", "sha256.so", "sse2.so")


def _prepare(cache: CodeCache, addr: int) -> None:
    """Decide whether a jump fits at ``addr``, and build its detour buffer."""
    plan = can_optimize(cache, addr)
    assert isinstance(plan, OptimizePlan)
    build_detour(plan, _BUFFERS_AT, op_id=7, callback=_CALLBACK, red_zone=cache.image.red_zone)


@pytest.fixture(params=["sha256.o", "qsort.so"])
def optimizable(request: pytest.FixtureRequest) -> tuple[CodeCache, list[int]]:
    """An image, its functions decoded, and all its sites that can be optimized.

    Of the two images, ``qsort.so`` has a red zone.
    """
    cache = CodeCache(shipped(request.param))
    starts = [
        addr for symbol in cache.functions for addr in range(symbol.addr, symbol.addr + symbol.size)
    ]
    return cache, [addr for addr in starts if isinstance(can_optimize(cache, addr), OptimizePlan)]


def test_preparing_a_detour_buffer(
    benchmark: Any, figures: Figures, optimizable: tuple[CodeCache, list[int]]
) -> None:
    """One site after the other is planned and built; ``build_detour`` alone is timed beside it."""
    cache, sites = optimizable
    plans = [plan for addr in sites if isinstance(plan := can_optimize(cache, addr), OptimizePlan)]
    next_site, next_plan = cycle(sites), cycle(plans)
    building: list[float] = []
    for _ in range(2_000):
        plan = next(next_plan)
        began = perf_counter()
        build_detour(plan, _BUFFERS_AT, op_id=7, callback=_CALLBACK, red_zone=cache.image.red_zone)
        building.append(perf_counter() - began)
    benchmark(lambda: _prepare(cache, next(next_site)))
    name = cache.image.name
    figures.add(
        benchmark,
        f"{name}: plan and build a detour buffer",
        seconds(benchmark) * 1e6,
        "us",
        ("<", _TARGET_US),
    )
    figures.add(
        benchmark, f"{name}: of it, build_detour", median(building) * 1e6, "us", ("<", _TARGET_US)
    )


# Decoding and inspecting --------------------------------------------------------------------------


def _mapped_libraries() -> Iterator[Path]:
    """The shared objects that this process has mapped, the C library first."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    paths = {
        Path(words[5])
        for line in lines
        if len(words := line.split(maxsplit=5)) == 6 and ".so" in words[5]
    }
    yield from sorted(paths, key=lambda path: (not path.name.startswith("libc"), path.name))


def _sample(image: Image) -> list[Symbol]:
    """Functions of an image from its first quarter on, up to 300,000 bytes."""
    symbols = [
        symbol
        for symbol in CodeCache(image).functions
        if symbol.size and image.is_text(symbol.addr)
    ]
    chosen: list[Symbol] = []
    size = 0
    for symbol in symbols[len(symbols) // 4 :]:
        chosen.append(symbol)
        size += symbol.size
        if size >= _BYTES:
            break
    return chosen


@pytest.fixture(scope="module")
def work() -> list[tuple[Image, list[Symbol]]]:
    """Images, and the functions of each to look at: 300,000 bytes in all."""
    for path in _mapped_libraries():
        try:
            image = load_image(path)
        except InputError:
            continue
        chosen = _sample(image)
        if sum(symbol.size for symbol in chosen) >= _BYTES:
            return [(image, chosen)]
    images = [shipped(name) for name in _SHIPPED]
    samples = [(image, _sample(image)) for image in images]
    once = sum(symbol.size for _, chosen in samples for symbol in chosen)
    return samples * (_BYTES // once + 1)


def _size(work: list[tuple[Image, list[Symbol]]]) -> int:
    """The bytes of all functions in ``work``."""
    return sum(symbol.size for _, chosen in work for symbol in chosen)


def test_decoding(benchmark: Any, figures: Figures, work: list[tuple[Image, list[Symbol]]]) -> None:
    """A linear sweep of every function."""

    def sweep() -> int:
        found = 0
        for image, chosen in work:
            for symbol in chosen:
                code, offset = image.read(symbol.addr, symbol.size), 0
                while offset < len(code):
                    insn = decode(code[offset : offset + MAX_INSN_SIZE], symbol.addr + offset)
                    if insn is None:
                        break
                    found += 1
                    offset += insn.length
        return found

    found = benchmark.pedantic(sweep, rounds=3, warmup_rounds=1, iterations=1)
    spent = seconds(benchmark)
    figures.add(benchmark, "decode: instructions a second", found / spent, "/s")
    figures.add(benchmark, "decode: KB a second", _size(work) / spent / 1e3, "KB/s")


def test_inspecting(
    benchmark: Any, figures: Figures, work: list[tuple[Image, list[Symbol]]]
) -> None:
    """``inspect`` without buffers, of every byte offset of every function, decoding included."""

    def inspect() -> int:
        sites = 0
        for image, chosen in work:
            cache = CodeCache(image)
            sites += sum(len(inspect_function(cache, symbol).sites) for symbol in chosen)
        return sites

    sites = benchmark.pedantic(inspect, rounds=3, iterations=1)
    spent = seconds(benchmark)
    figures.add(benchmark, "inspect: byte offsets a second", sites / spent, "/s")
    figures.add(benchmark, "inspect: KB a second", _size(work) / spent / 1e3, "KB/s")
