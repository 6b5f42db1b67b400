"""How fast schedules are explored, and whether memory stays flat.

Targets: 5,000 interrupt points a second on a call of about 160 instructions with the real core in
the loop; 3,000 schedules a second of two vCPUs; memory flat over 1,000,000 schedules, of which
20,000 are measured unless ``OPTPROBE_FULL=1`` is set.
"""

from __future__ import annotations

import os
import resource
from dataclasses import replace
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any, Final

from arch_x86.explore.scenario import Scenario, Setup, scenario
from arch_x86.explore.scenarios import life
from arch_x86.explore.x86_setup import X86Setup
from engine.core.profiles import LINUX_6_1, LINUX_2010
from engine.patching.automata.numbered import NumberedExploration
from engine.patching.exploration import Exploration
from engine.search.conduct import explore
from engine.search.drawn import Drawn
from engine.search.exhaustive import Exhaustive
from engine.search.random_walk import RandomWalk

if TYPE_CHECKING:
    from arch_x86.emu.uc import UcPool
    from bench.figures import Figures
    from engine.search.explorable import System

_LONG: Final = """
.globl work
work:
 mov eax, edi
 mov ecx, 38
.Lagain:
 lea eax, [rax + rax*2]
 add eax, ecx
 sub ecx, 1
 jnz .Lagain
 lea edx, [rax + rax]
 add eax, edx
 ret
"""


@scenario(image=_LONG, call="work", arguments=("5",), calls=1)
def long_call(setup: Setup) -> None:
    """A jump goes in and out beside a call of 158 instructions."""

    @setup.control
    def main(k: Any) -> None:
        p = k.kprobe("work", 17)
        k.register(p)
        k.settle()
        k.unregister(p)
        k.settle()


def _opened(one: Scenario, pool: UcPool, **conditions: Any) -> Exploration:
    """A machine for the scenario in linux-2010."""
    request = replace(one.request, **{"profile": LINUX_2010, **conditions})
    port = X86Setup(pool)
    return port.open(one.experiment(request, port))


def test_interrupt_points(benchmark: Any, figures: Figures, pool: UcPool) -> None:
    """Every boundary of the call against every control state, each of which is one schedule.

    There is one preemption, and no reduction.
    """
    system = _opened(long_call, pool, reduce=False)
    search = Exhaustive(bound=1, hashing=True, recheck_every=0, max_schedules=20_000)

    def run() -> float:
        began = perf_counter()
        outcome = explore(search, system)
        assert not outcome.found
        return outcome.schedules / (perf_counter() - began)

    rate = benchmark.pedantic(run, rounds=1, iterations=1)
    figures.add(
        benchmark, "interrupt points a second, a call of 158 instructions", rate, "", (">=", 5_000)
    )
    system.close()


def test_schedules_of_two_cpus(benchmark: Any, figures: Figures, pool: UcPool) -> None:
    """An exhaustive search of a probe's life on two vCPUs."""
    system = _opened(life.optimize, pool, cpus=2)
    search = Exhaustive(bound=2, recheck_every=0, max_schedules=30_000)

    def run() -> float:
        began = perf_counter()
        outcome = explore(search, system)
        assert not outcome.found
        return outcome.schedules / (perf_counter() - began)

    rate = benchmark.pedantic(run, rounds=1, iterations=1)
    figures.add(benchmark, "schedules a second, two CPUs", rate, "", (">=", 3_000))
    system.close()


def test_schedules_over_numbers(benchmark: Any, figures: Figures, pool: UcPool) -> None:
    """Exhaustive searches over numbers, from a cold start and once all runs were made.

    The ratios are to the same search on the machine, in the same run.
    """

    def seconds(system: System) -> float:
        search = Exhaustive(bound=2, recheck_every=0)
        began = process_time()
        explore(search, system)
        return process_time() - began

    def run() -> list[float]:
        system = _opened(life.two_jumps, pool, profile=LINUX_6_1, cpus=2)
        plain = seconds(system)
        numbers = NumberedExploration(system)
        cold, warm = seconds(numbers), seconds(numbers)
        system.close()
        return [plain / cold, plain / warm]

    cold, warm = benchmark.pedantic(run, rounds=1, iterations=1)
    figures.add(
        benchmark, "search over numbers / on the machine, from the start", cold, "x", (">=", 3)
    )
    figures.add(benchmark, "the same, once all runs were made", warm, "x", (">=", 10))


def test_memory_over_many_schedules(benchmark: Any, figures: Figures, pool: UcPool) -> None:
    """The growth of the process between a tenth of the schedules and all of them."""
    number = 1_000_000 if os.environ.get("OPTPROBE_FULL") else 20_000
    system = _opened(life.register, pool)

    def walk(count: int) -> int:
        explore(Drawn(RandomWalk(seed=1), schedules=count, recheck_every=0), system)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = walk(number // 10)
    after = benchmark.pedantic(walk, args=(number,), rounds=1, iterations=1)
    figures.add(
        benchmark,
        f"growth of the process over {number:,} schedules",
        (after - before) / 1024,
        "MiB",
        ("<=", 4),
    )
    system.close()
