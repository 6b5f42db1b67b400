"""What must not grow with the number of probes, and what grows by the batch.

Look-ups and the memory a probe must not grow. ``stop_machine`` comes once a batch.
"""

from __future__ import annotations

import gc
import tracemalloc
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import pytest

from arch_x86.isa.constants import PAGE_SIZE
from arch_x86.lab.bench import Workbench
from arch_x86.lab.demo import many_functions
from arch_x86.text.poke import MAX_POKE_BATCH
from engine.core.profiles import LINUX_2010
from engine.kprobe import Kprobe
from engine.kretprobe import Kretprobe

if TYPE_CHECKING:
    from arch_x86.emu.uc import UcPool
    from bench.figures import Figures

_CROWDS: Final = (1, 16, 256, 257, 4_096, 16_384)
_FEW, _MANY = 16, 16_384
_MEASURED: Final = 16_384
_LIMIT: Final = 4_096
_LOOPS: Final = 20_000
_FLAT: Final = 1.5


def _probes(bench: Workbench, number: int) -> list[Kprobe]:
    probes = [Kprobe(symbol_name=f"f{i}", pre_handler=_ignore) for i in range(number)]
    bench.kprobes.register_kprobes(probes)
    return probes


def _ignore(_p: Kprobe, _regs: Any) -> int:
    return 0


@pytest.mark.parametrize("number", _CROWDS)
def test_stop_machine_calls_to_unregister(
    benchmark: Any, figures: Figures, pool: UcPool, number: int
) -> None:
    """One call of unregister_kprobes() takes exactly ceil(n / 256) of them."""
    bench = Workbench(many_functions(number), pool=pool)
    probes = _probes(bench, number)
    bench.kprobes.wait_for_kprobe_optimizer()
    before = bench.plane.stats.stop_machine

    def undo() -> None:
        bench.kprobes.unregister_kprobes(probes)
        bench.kprobes.wait_for_kprobe_optimizer()

    benchmark.pedantic(undo, rounds=1, iterations=1)
    stops = bench.plane.stats.stop_machine - before
    figures.add(
        benchmark,
        f"stop_machine to unregister {number:,}",
        stops,
        "",
        ("==", -(-number // MAX_POKE_BATCH)),
    )
    bench.close()


def test_look_ups(benchmark: Any, figures: Figures, pool: UcPool) -> None:
    """get_kprobe() and get_optimized_kprobe() among few probes and among many, in turn."""
    image = many_functions(_MANY)
    few, many = (Workbench(image, pool=pool) for _ in range(2))
    last = {bench: _probes(bench, number)[-1].at for bench, number in ((few, _FEW), (many, _MANY))}

    def lap(bench: Workbench, name: str, addr: int) -> float:
        ask = getattr(bench.kprobes, name)
        began = perf_counter()
        for _ in range(_LOOPS):
            ask(addr)
        return perf_counter() - began

    for name, behind in (("get_kprobe", 0), ("get_optimized_kprobe", 1)):
        laps = [
            (lap(few, name, last[few] + behind), lap(many, name, last[many] + behind))
            for _ in range(9)
        ]
        ratio = median(m for _, m in laps) / median(f for f, _ in laps)
        figures.add(benchmark, f"{name}: among {_MANY:,} / among {_FEW}", ratio, "x", ("<=", _FLAT))
    benchmark(many.kprobes.get_kprobe, last[many])
    few.close()
    many.close()


def _traced(bench: Workbench) -> int:
    """The bytes that Python objects, slots and detour buffers take now.

    Slots and detour buffers are counted by whole pages.
    """
    gc.collect()
    return tracemalloc.get_traced_memory()[0] + _guest(bench)


def _guest(bench: Workbench) -> int:
    return PAGE_SIZE * (bench.arch.slots.pages + bench.arch.detours.pages)


@pytest.mark.parametrize("kind", ["plain", "optimized", "kretprobe"])
def test_memory_a_probe(benchmark: Any, figures: Figures, pool: UcPool, kind: str) -> None:
    """The bytes that a probe takes on the host and in the guest.

    Python objects are counted by tracemalloc, and slots and detour buffers by whole pages. What is
    decoded of the probed function, which all probes in it share, is a part of it and is told apart,
    too. A plain probe has neither an aggregator nor a detour buffer.
    """
    profile = LINUX_2010.without_optprobes() if kind == "plain" else LINUX_2010
    bench = Workbench(many_functions(_MEASURED), pool=pool, profile=profile)
    tracemalloc.start()
    before = _traced(bench)
    for i in range(_MEASURED):
        function = bench.arch.code.function_at(bench.image.by_name[f"f{i}"].addr)
        assert function is not None
        assert function.decodable
    decoded = _traced(bench)

    def register() -> list[Any]:
        if kind != "kretprobe":
            return list(_probes(bench, _MEASURED))
        returns = [Kretprobe(symbol_name=f"f{i}", maxactive=1) for i in range(_MEASURED)]
        bench.kprobes.register_kretprobes(returns)
        return returns

    kept = benchmark.pedantic(register, rounds=1, iterations=1)
    bench.kprobes.wait_for_kprobe_optimizer()
    assert len(bench.kprobes.kprobe_table) == len(kept) == _MEASURED
    assert (bench.kprobes.find_optimized(1) is None) == (kind == "plain")
    each = (_traced(bench) - before) / _MEASURED
    tracemalloc.stop()
    figures.add(benchmark, f"memory a probe, {kind}: host and guest", each, "B", ("<", _LIMIT))
    figures.add(
        benchmark,
        f"memory a probe, {kind}: slots and detour buffers of it",
        _guest(bench) / _MEASURED,
        "B",
    )
    if kind == "plain":
        size = bench.image.by_name["f0"].size
        figures.add(
            benchmark,
            f"memory a probe: decoded function of {size} bytes of it",
            (decoded - before) / _MEASURED,
            "B",
        )
    bench.close()
