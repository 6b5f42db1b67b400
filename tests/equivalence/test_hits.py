"""A probed instruction does what the unprobed one does, by every method, for every form found in
real code.
"""

from __future__ import annotations

from collections import Counter

import pytest

from arch_x86.probes.boost import can_boost
from arch_x86.probes.prepare_emulation import emulation_of
from engine.core.profiles import LINUX_6_1
from engine.kprobe import Method
from tests.equivalence.forms import form_of, load
from tests.equivalence.hits import HitBench, Trial, reads_dead_stack
from tests.equivalence.world import USER

_STATES = 2
_LEAST = {Method.INT3: 5000, Method.BOOSTED: 2500, Method.OPTIMIZED: 2500}


@pytest.fixture(
    scope="module",
    params=[pytest.param(2, id="half"), pytest.param(1, id="all", marks=pytest.mark.slow)],
)
def every(request) -> int:
    """Of so many forms that lie beside each other one is tried; neighbours differ in little."""
    return request.param


@pytest.fixture(scope="module")
def bench(pool, every):
    made = HitBench([insn.raw for insn in load()[every - 1 :: every]], pool, USER)
    yield made
    made.bench.close()


@pytest.fixture(scope="module")
def trials(bench: HitBench) -> dict[int, list[Trial]]:
    return {
        number: bench.trials(number, _STATES)
        for number in range(len(bench.insns))
        if bench.can_probe(number)
    }


def test_probes_go_on_every_form_but_branches_through_memory(
    bench: HitBench, trials: dict[int, list[Trial]]
):
    refused = [insn for number, insn in enumerate(bench.insns) if number not in trials]
    assert {form_of(insn).opcode for insn in refused} == {b"\xff"}
    assert all(insn.mod != 3 and insn.reg in (2, 4) for insn in refused)
    without = [bench.insns[number] for number, found in trials.items() if not found]
    assert all(reads_dead_stack(insn) or insn.opcode == b"\xc8" for insn in without), [
        insn.text for insn in without
    ]
    assert len(without) < 50


@pytest.mark.parametrize("method", list(_LEAST))
def test_a_hit_changes_nothing(
    bench: HitBench, every: int, trials: dict[int, list[Trial]], method: Method
):
    """From one of two states a form, to save time: of neighbouring forms one from each."""
    text = bench.bench.machine.text.read(USER.cells, 64 * len(bench.insns))
    numbers = bench.register(
        method,
        [number for number in trials if method is Method.INT3 or can_boost(bench.insns[number])],
    )
    found = [
        bench.difference(number, method, trials[number][turn % len(trials[number])])
        for turn, number in enumerate(numbers)
        if trials[number]
    ]
    forms = len([number for number in numbers if trials[number]])
    bench.unregister()
    assert [text for text in found if text] == []
    assert forms >= _LEAST[method] // every
    assert bench.bench.machine.text.read(USER.cells, 64 * len(bench.insns)) == text


def test_faults_are_among_what_is_compared(trials: dict[int, list[Trial]]):
    ends = Counter(trial.want.fault for found in trials.values() for trial in found)
    assert set(ends) == {
        "",
        "divide-error",
        "general-protection",
        "unmapped-access",
        "unsupported-opcode",
    }


def test_a_hit_changes_nothing_where_6_1_steps_by_int3(pool, every):
    """Of every other form, to save time; what 6.1 emulates: test_stepping.py."""
    bench = HitBench(
        [insn.raw for insn in load()[:: 2 * every] if emulation_of(insn) is None],
        pool,
        USER,
        profile=LINUX_6_1,
        seed=2,
    )
    trials = {
        number: bench.trials(number, 1)
        for number in range(len(bench.insns))
        if bench.can_probe(number)
    }
    numbers = bench.register(Method.INT3, list(trials))
    found = [
        bench.difference(number, Method.INT3, trial)
        for number in numbers
        for trial in trials[number]
    ]
    bench.bench.close()
    assert [text for text in found if text] == []
    assert len(numbers) >= 2500 // every
