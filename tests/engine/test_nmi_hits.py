"""Laws of probes that an NMI hits, which depend on what the NMI came into."""

from __future__ import annotations

import pytest

from arch_x86.emu.fault import FaultKind, GuestFaultError
from arch_x86.explore.scenarios import life
from engine.core.profiles import LINUX_2010, NEXT, PROFILES
from engine.image import ExceptionEntry
from engine.kprobe import Kprobe, KprobeStatus, Method
from engine.patching.search_options import Search
from tests.conftest import BASE, asm_image
from tests.explore.experiments import check, experiment_of

F, G = BASE, BASE + 256
PLAIN = "mov eax, edi; nop; nop; nop; nop; add rax, rsi; ret"
METHODS = ("stepped", "boosted", "jump")


@pytest.fixture
def make(bench_of, profile):
    """Makes a workbench with PLAIN as f, g and h."""
    return lambda: bench_of(profile, asm_image(PLAIN, PLAIN, PLAIN))


def put(bench, method: str, symbol: str, pre_handler=lambda *_: 0) -> Kprobe:
    """A probe at the start of ``symbol`` whose hits run by ``method``."""
    bench.kprobes.kprobes_allow_optimization = method == "jump"
    p = Kprobe(
        symbol_name=symbol,
        pre_handler=pre_handler,
        post_handler=(lambda *_: None) if method == "stepped" else None,
    )
    bench.kprobes.register_kprobe(p)
    bench.kprobes.wait_for_kprobe_optimizer()
    assert (
        bench.method(p)
        is {"stepped": Method.INT3, "boosted": Method.BOOSTED, "jump": Method.OPTIMIZED}[method]
    )
    return p


def status(bench) -> KprobeStatus | None:
    block = bench.arch.ctlblk[0]
    return None if block.current is None else block.status


@pytest.mark.parametrize("inner", METHODS)
@pytest.mark.parametrize("outer", METHODS)
def test_one_hit_in_a_hit_is_missed_but_a_breakpoint_in_a_step_stops_2010(
    make, profile, outer, inner
):
    bench = make()
    hits: list[int] = []
    answers: list[int] = []
    p = put(bench, outer, "f", lambda *_: hits.append(0))
    q = put(bench, inner, "g", lambda *_: hits.append(1))
    bench.machine.nmi_handler = lambda cpu, _regs: answers.append(bench.call_nested(cpu, G, 5, 6))
    bench.start_call(0, F, (1, 2))
    length = bench.executor.advance(0, 1_000)
    met: list[KprobeStatus | None] = []
    for boundary in range(length):
        hits.clear()
        answers.clear()
        before = q.nmissed
        bench.start_call(0, F, (1, 2))
        if boundary:
            bench.executor.advance(0, boundary)
        met.append(status(bench))
        assert bench.executor.deliver_nmi(0)
        fault = bench.executor.run_call(0, 1_000)
        if met[-1] is not None and inner != "jump" and profile is LINUX_2010:
            assert (fault.kind, fault.place, answers) == (FaultKind.KPROBE_REENTRY, "g+0x0", [])
            assert "reenter_kprobe() is BUG()" in fault.explain
            continue
        assert fault is None
        assert (bench.machine.cpus[0].registers()[0], answers, hits.count(0), p.nmissed) == (
            3,
            [11],
            1,
            0,
        ), boundary
        assert (hits.count(1), q.nmissed - before) == ((0, 1) if met[-1] else (1, 0)), boundary
    # Handlers take no time here, so of a hit in progress an NMI finds only the single step, up to
    # the end of the trap behind it.
    steps = [boundary for boundary, found in enumerate(met) if found is not None]
    assert {met[boundary] for boundary in steps} == (
        {KprobeStatus.HIT_SS} if outer == "stepped" else set()
    )
    assert steps == list(range(min(steps, default=0), max(steps, default=-1) + 1))


class NmiInStepOfMiss:
    """A plan of one NMI and no interrupts.

    The NMI comes when the CPU steps the instruction of a hit that was missed.
    """

    def __init__(self, bench) -> None:
        self.bench = bench
        self.done = False

    def due(self, cpu: int, retired: int) -> int:
        del retired
        if not self.done and status(self.bench) is KprobeStatus.REENTER:
            self.done = self.bench.executor.deliver_nmi(cpu)
        return 1 + self.done * 1_000_000


@pytest.mark.parametrize("inner", METHODS)
def test_one_hit_in_the_step_of_a_miss_stops_both_kernels_and_is_missed_in_next(
    make, profile, inner
):
    """f's handler calls g, whose probe is missed and stepped; the NMI that comes then calls h."""
    bench = make()
    answers: list[int] = []
    put(bench, "boosted", "f", lambda *_: answers.append(bench.call_nested(0, G, 5, 6)))
    q = put(bench, "stepped", "g")
    r = put(bench, inner, "h")
    bench.machine.nmi_handler = lambda cpu, _regs: answers.append(
        bench.call_nested(cpu, G + 256, 7, 8)
    )
    plan = NmiInStepOfMiss(bench)
    bench.start_call(0, F, (1, 2))
    fault = bench.executor.run_call(0, 10_000, plan)
    assert plan.done
    if inner == "jump" or profile is NEXT:
        assert (fault, bench.machine.cpus[0].registers()[0], answers) == (None, 3, [15, 11])
        assert (q.nmissed, r.nmissed) == (1, 1)
        assert status(bench) is None
    else:
        end = "takes it for nobody's breakpoint" if profile is LINUX_2010 else "is BUG()"
        assert (fault.kind, fault.place, answers) == (FaultKind.KPROBE_REENTRY, "h+0x0", [])
        assert f"a hit that was itself missed (at {G:#x}): reenter_kprobe() {end}" in fault.explain


def test_one_that_stops_the_kernel_ends_a_call_whose_value_is_asked_for(make, profile):
    bench = make()
    put(bench, "stepped", "f")
    bench.machine.nmi_handler = lambda cpu, _regs: bench.call_nested(cpu, F, 5, 6)

    class NmiInStep(NmiInStepOfMiss):
        def due(self, cpu: int, retired: int) -> int:
            del retired
            if not self.done and status(self.bench) is KprobeStatus.HIT_SS:
                self.done = self.bench.executor.deliver_nmi(cpu)
            return 1

    bench.interrupts = NmiInStep(bench)
    if profile is LINUX_2010:
        with pytest.raises(GuestFaultError, match="kprobe-reentry"):
            bench.call("f", 1, 2)
        bench.interrupts = None
        assert bench.call("f", 1, 2) == 3
    else:
        assert bench.call("f", 1, 2) == 3


def test_a_fault_in_an_nmi_is_taken_for_one_of_the_step_it_came_into_in_2010(bench_of, profile):
    """A kernel that looks where the fault was goes on at its fixup.

    One that looks at the hit's status alone goes back to the probe, which has no fixup.
    """
    image = asm_image(
        PLAIN,
        "mov rax, [rdi]; ret",
        "mov eax, 7; ret",
        exception_table=(ExceptionEntry(G, G + 256),),
    )
    bench = bench_of(profile, image)
    put(bench, "stepped", "f")
    answers: list[int] = []
    bench.machine.nmi_handler = lambda cpu, _regs: answers.append(bench.call_nested(cpu, G, 0))
    bench.start_call(0, F, (1, 2))
    while status(bench) is not KprobeStatus.HIT_SS:
        bench.executor.advance(0, 1)
    assert bench.executor.deliver_nmi(0)
    fault = bench.executor.run_call(0, 1_000)
    if profile is LINUX_2010:
        assert (fault.kind, fault.place, answers) == (FaultKind.UNMAPPED_ACCESS, "f+0x0", [])
    else:
        assert (fault, bench.machine.cpus[0].registers()[0], answers) == (None, 3, [7])


def test_only_the_int3_behind_the_copy_ends_a_step(bench_of, profile):
    """An int3 in the code that an NMI runs meanwhile has no probe, and the CPU dies of it."""
    bench = bench_of(profile, asm_image(PLAIN, "nop; int3; ret"))
    put(bench, "stepped", "f")
    bench.machine.nmi_handler = lambda cpu, _regs: bench.call_nested(cpu, G)
    bench.start_call(0, F, (1, 2))
    while status(bench) is not KprobeStatus.HIT_SS:
        bench.executor.advance(0, 1)
    assert bench.executor.deliver_nmi(0)
    fault = bench.executor.run_call(0, 1_000)
    assert (fault.kind, fault.place) == (FaultKind.BREAKPOINT, "g+0x1")


@pytest.mark.parametrize("scenario", [life.nmi_stepped, life.nmi_boosted], ids=lambda one: one.name)
@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_the_explorer_finds_what_2010_can_not_take_and_nothing_else(pool, profile, scenario):
    result = check(experiment_of(scenario, profile), Search(preemptions=1), pool=pool)
    if profile is LINUX_2010 and scenario is life.nmi_stepped:
        assert (result.verdict, [str(one.violation.kind) for one in result.violations]) == (
            "violation",
            ["guest-fault"],
        )
        assert "kprobe-reentry" in result.violations[0].violation.explain
    else:
        assert (result.verdict, result.outcome.exhaustive) == ("safe", True)
