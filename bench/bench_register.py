"""What a probe costs to register and to unregister, beside few others and beside many.

The target is that the 10,000th registration costs at most 1.5 times the 100th. Both are taken from
machines of the same image, one registration here, one there. Unregistering goes in batches of 256
probes a pass of the optimizer, each pass with one ``stop_machine``, which is an exact count; the
cost a probe must not depend on how many there are either.
"""

from __future__ import annotations

from statistics import median
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any, Final

import pytest

from arch_x86.lab.bench import Workbench
from arch_x86.lab.demo import many_functions
from arch_x86.text.poke import MAX_POKE_BATCH
from engine.kprobe import Kprobe, Method

if TYPE_CHECKING:
    from arch_x86.emu.uc import UcPool
    from bench.figures import Figures

_FEW: Final = 100
_MANY: Final = 10_000
_AROUND: Final = 100
_TARGET: Final = 1.5
_CROWDS: Final = (256, 16_384)


def _ignore(_p: Kprobe, _regs: Any) -> int:
    return 0


def _register(bench: Workbench, number: int) -> float:
    probe = Kprobe(symbol_name=f"f{number}", pre_handler=_ignore)
    began = perf_counter()
    bench.kprobes.register_kprobe(probe)
    return perf_counter() - began


def _windows(pool: UcPool, *, optimize: bool) -> tuple[list[float], list[float]]:
    """The seconds of registrations 0 to 199, and of registrations 9,900 to 10,099."""
    image = many_functions(_MANY + _AROUND)
    empty, full = (Workbench(image, pool=pool) for _ in range(2))
    for bench in (empty, full):
        bench.kprobes.kprobes_allow_optimization = optimize
    for number in range(_MANY - _AROUND):
        _register(full, number)
    few: list[float] = []
    many: list[float] = []
    for number in range(2 * _AROUND):
        few.append(_register(empty, number))
        many.append(_register(full, _MANY - _AROUND + number))
    empty.close()
    full.close()
    return few, many


@pytest.mark.parametrize(
    "optimize", [True, False], ids=["optimization-allowed", "breakpoints-only"]
)
def test_ten_thousandth_probe(
    benchmark: Any, figures: Figures, pool: UcPool, optimize: bool
) -> None:
    """Medians of 200 registrations around the 100th and around the 10,000th.

    Beside them are those of 20. The benchmark's own time is that of all 10,000.
    """
    few, many = benchmark.pedantic(
        _windows, args=(pool,), kwargs={"optimize": optimize}, rounds=1, iterations=1
    )
    how = "optimizable" if optimize else "breakpoint only"
    close = slice(_FEW - 10, _FEW + 10)
    figures.add(
        benchmark,
        f"{how}: 10,000th / 100th probe, medians of 200",
        median(many) / median(few),
        "x",
        ("<=", _TARGET),
    )
    figures.add(
        benchmark,
        f"{how}: the same, medians of 20",
        median(many[close]) / median(few[close]),
        "x",
        ("<=", _TARGET),
    )
    figures.add(benchmark, f"{how}: the 10,000th", median(many) * 1e6, "us")


def _crowd(pool: UcPool, number: int) -> tuple[float, float, int]:
    """Optimize ``number`` probes, and unregister them.

    :returns: the processor seconds a probe of each, and how many ``stop_machine`` the second took.
    """
    bench = Workbench(many_functions(number), pool=pool)
    kprobes, stats = bench.kprobes, bench.plane.stats
    probes = [Kprobe(symbol_name=f"f{i}", pre_handler=_ignore) for i in range(number)]
    kprobes.register_kprobes(probes)
    began = process_time()
    kprobes.wait_for_kprobe_optimizer()
    optimizing = process_time() - began
    assert all(bench.method(probe) is Method.OPTIMIZED for probe in probes)
    stops = stats.stop_machine
    began = process_time()
    assert kprobes.unregister_kprobes(probes) == number
    kprobes.wait_for_kprobe_optimizer()
    undoing = process_time() - began
    stops = stats.stop_machine - stops
    assert not kprobes.kprobe_table
    segment = bench.image.segments[0]
    assert bench.machine.text.read(segment.addr, segment.size) == segment.data
    bench.close()
    return optimizing / number, undoing / number, stops


def test_unregistering_in_crowds(benchmark: Any, figures: Figures, pool: UcPool) -> None:
    """256 optimized probes, before and after, and 16,384 of them at once.

    The benchmark's own time is that of the large crowd, from its registration on.
    """
    small, large = _CROWDS
    laps = [_crowd(pool, small) for _ in range(8)]
    optimizing, undoing, stops = benchmark.pedantic(
        _crowd, args=(pool, large), rounds=1, iterations=1
    )
    laps += [_crowd(pool, small) for _ in range(8)]
    for number, counted in ((small, laps[0][2]), (large, stops)):
        figures.add(
            benchmark,
            f"stop_machine to unregister {number:,}",
            counted,
            "",
            ("==", -(-number // MAX_POKE_BATCH)),
        )
    figures.add(
        benchmark,
        f"unregister, a probe: {large:,} / {small:,} at once",
        undoing / median(lap[1] for lap in laps),
        "x",
        ("<=", _TARGET),
    )
    figures.add(benchmark, f"unregister, a probe of {large:,}", undoing * 1e6, "us")
    figures.add(benchmark, f"optimize, a probe of {large:,}", optimizing * 1e6, "us")
