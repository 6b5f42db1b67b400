"""Workloads with expected outcomes, on which the laws of handlers are tried.

They run on a workbench of any profile.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

from arch_x86.emu.uc import UcPool
from arch_x86.images import load_image
from arch_x86.lab.bench import Workbench
from arch_x86.lab.calls import place_call
from arch_x86.lab.outcome import Outcome, OutcomeReader
from engine.core.profiles import Profile
from engine.image import Image
from engine.syntax.arguments import parse_argument
from workloads.reference import Case, cases

ELF = Path(__file__).parents[2] / "workloads" / "elf"


@cache
def elf(name: str) -> Image:
    return load_image(str(ELF / name))


@cache
def case(name: str) -> Case:
    return next(found for found in cases() if found.name == name)


def workbench_of(
    image: Image, pool: UcPool, profile: Profile, *, optimize: bool, cpus: int = 1
) -> Workbench:
    bench = Workbench(image, cpus=cpus, pool=pool, profile=profile)
    bench.kprobes.kprobes_allow_optimization = optimize
    return bench


def start_case(bench: Workbench, found: Case, cpu: int = 0) -> Callable[[], None]:
    """Begin the call of a workload.

    :returns: a function that checks, once the call is over, that it did what the workload must do.
    """
    frame = place_call(
        bench.machine,
        bench.image.by_name[found.symbol].addr,
        [parse_argument(a) for a in found.args],
    )
    bench.start_call(cpu, frame.addr, frame.integers, frame.floats)

    def check() -> None:
        assert bench.machine.tasks[cpu].fault is None
        if found.result is not None:
            assert bench.machine.cpus[cpu].registers()[0] == found.result
        for (addr, content), want in zip(frame.buffers, found.buffers, strict=True):
            assert bench.machine.ram.read(addr, len(content)) == want

    return check


def run_case(bench: Workbench, found: Case, cpu: int = 0) -> None:
    check = start_case(bench, found, cpu)
    bench.finish_calls()
    check()


def interrupted_everywhere(
    bench: Workbench, begin: Callable[[], object], want: Outcome | None = None
) -> tuple[Outcome, int]:
    """Run a call once as it is, then once with an interrupt at each of its boundaries.

    All of these runs must end alike, in the outcome ``want`` if that is given.

    :returns: that outcome, and how many boundaries took the interrupt.
    """
    machine, executor = bench.machine, bench.executor
    begin()
    reader = OutcomeReader(machine, 0)
    start = machine.snapshot()
    length = executor.advance(0, 1_000_000)
    assert not executor.running(0)
    plain = reader.read()
    if want is not None:
        assert reader.explain(plain, want) is None
    taken = 0
    for boundary in range(length):
        machine.restore(start)
        if boundary:
            executor.advance(0, boundary)
        taken += executor.interrupt(0)
        executor.run_call(0, 1_000_000)
        assert reader.explain(reader.read(), plain) is None, boundary
    machine.restore(start)
    executor.run_call(0, 1_000_000)
    return plain, taken
