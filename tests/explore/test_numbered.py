"""The law of numbers: an exploration over numbers is the one on the machine. It offers the same
choices, comes to the same states, counts the same, and finds the same. And: what would make two
states one that are not is found by what is made again.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arch_x86.emu.uc import RCX, RSP
from arch_x86.explore.memory_port import X86Memory
from arch_x86.explore.open_experiment import open_experiment
from arch_x86.explore.scenarios import batches, life, load, probed_returns
from arch_x86.explore.x86_setup import X86Setup
from engine.core.ablation import without
from engine.core.profiles import LINUX_6_1, LINUX_2010, PROFILES, profile_named
from engine.patching import verdict
from engine.patching.automata import numbered
from engine.patching.automata.numbered import NumberedExploration
from engine.patching.automata.vcpu_record import Records
from engine.patching.control_tree import ControlNode
from engine.patching.scenario_record import Scenario
from engine.patching.search_options import Search
from engine.search.actor import actor_from
from engine.search.conduct import explore
from engine.search.drawn import Drawn
from engine.search.exhaustive import Exhaustive
from engine.search.parts import ReplayDivergence
from engine.search.pct import Pct
from tests.explore.both_systems import both
from tests.explore.experiments import experiment_of
from tests.explore.shared_functions import SharedFunction, probed
from tests.explore.test_freezing import experiment as suspended
from tests.explore.test_hidden_code import hidden
from tests.explore.test_laws import CASES, JUMP, small

RETURNS = [one for one in vars(probed_returns).values() if isinstance(one, Scenario)][:2]
SHIPPED = {
    f"{one.name} in {profile}": (one, profile_named(profile))
    for one in (
        *life.SCENARIOS[::3],
        *batches.BATCHES[:1],
        *load.LOAD[:2],
        *RETURNS,
    )
    for profile in one.profiles[:: max(1, len(one.profiles) - 1)]
}


def compare(case, pool, *, bound: int, most: int) -> None:
    with both(case, pool) as systems:
        explore(Exhaustive(bound=bound, max_schedules=most, recheck_every=0), systems)
        assert systems.names


@pytest.mark.parametrize("name", CASES)
def test_numbers_and_the_machine_agree_in_each_step_of_small_cases(pool, name):
    case, bound = CASES[name]
    compare(case, pool, bound=bound, most=150)


@pytest.mark.parametrize("name", SHIPPED)
def test_numbers_and_the_machine_agree_in_each_step_of_shipped_scenarios(pool, name):
    one, profile = SHIPPED[name]
    compare(experiment_of(one, profile), pool, bound=1, most=40)


@pytest.mark.parametrize("fetch", ["stale", "unit:8", "torn"])
def test_numbers_and_the_machine_agree_in_each_fetch_model(pool, fetch):
    case = replace(experiment_of(life.optimize, LINUX_6_1, cpus=2, preempt=True), fetch=fetch)
    compare(case, pool, bound=2, most=150)
    compare(replace(case, strict=True), pool, bound=1, most=60)


@pytest.mark.parametrize("preempt", [False, True])
def test_numbers_and_the_machine_agree_where_tasks_share_memory(pool, preempt):
    counter = SharedFunction("counter", "lock inc dword ptr [G]; mov eax, [G]; ret")
    fields = {"preempt": True} if preempt else {"cpus": 2}
    compare(probed(counter, 0, **fields), pool, bound=1, most=150)


@pytest.mark.parametrize("preempt", [False, True])
def test_numbers_and_the_machine_agree_where_code_is_hidden_or_tasks_suspended(pool, preempt):
    compare(hidden(pool, preempt=preempt), pool, bound=1, most=300)
    compare(suspended(pool, back=True, preempt=preempt), pool, bound=1, most=300)


def test_numbers_and_the_machine_agree_on_schedules_that_are_drawn(pool):
    case = experiment_of(load.LOAD[0], LINUX_6_1, cpus=2)
    with both(case, pool) as systems:
        explore(Drawn(Pct(seed=3, depth=3), schedules=40, bound=None, recheck_every=0), systems)


@pytest.mark.parametrize("limit", [30, 60, 90])
def test_numbers_and_the_machine_agree_where_a_call_comes_to_its_limit(pool, limit):
    """With probes a call takes more instructions than it may, at different places."""
    case = small(looping, text=LOOP, profile=LINUX_6_1, max_instructions=limit, interrupts=True)
    with both(case, pool) as systems:
        search = Exhaustive(bound=1, max_schedules=300, violations_max=300, recheck_every=0)
        assert explore(search, systems).found


def test_numbers_and_the_machine_agree_where_transitions_are_forgotten(pool, monkeypatch):
    monkeypatch.setattr(numbered, "ROWS_MOST", 40)
    compare(experiment_of(life.optimize, LINUX_2010, cpus=2), pool, bound=1, most=300)


# Random scenarios ---------------------------------------------------------------------------------

TEXTS = (JUMP, "nop; ret", "push rdi; pop rax; ret", "lea eax, [rdi + 1]; add eax, edi; nop; ret")
OPERATIONS = ("register", "unregister", "disable", "enable", "settle", "switch off", "switch on")
SITES = {TEXTS[0]: (0, 3), TEXTS[1]: (0, 1), TEXTS[2]: (0, 1), TEXTS[3]: (0, 3, 5)}


def task_of(number: int, operations: list[tuple[str, int]], offsets: tuple[int, ...]):
    """A control task that does what it is told to probes of its own, as far as that is allowed."""

    def task(k):
        probes = [k.kprobe("f", at, number=10 * number + n) for n, at in enumerate(offsets)]
        for name, which in operations:
            p = probes[which % len(probes)]
            if name == "settle":
                k.settle()
            elif name.startswith("switch"):
                k.switch(on=name.endswith("on"))
            else:
                getattr(k, name)(p)

    return task


@st.composite
def cases(draw):
    text = draw(st.sampled_from(TEXTS))
    operation = st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 2))
    tasks = draw(st.lists(st.lists(operation, min_size=1, max_size=5), min_size=1, max_size=2))
    profile = draw(st.sampled_from(PROFILES))
    nmis = draw(st.booleans())
    case = small(
        *[task_of(n, operations, SITES[text]) for n, operations in enumerate(tasks)],
        text=text,
        profile=profile,
        preempt=draw(st.booleans()) and not nmis,
        nmis=nmis,
        interrupts=not nmis,
        cpus=draw(st.integers(1, 2)),
        fetch=draw(st.sampled_from(["coherent", "coherent", "stale", "unit:16", "torn"])),
    )
    return case, draw(st.integers(0, 2))


def random_law(examples: int, most: int):
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(drawn=cases())
    def law(pool, drawn):
        case, bound = drawn
        compare(case, pool, bound=bound, most=most)

    return law


test_numbers_and_the_machine_agree_on_random_scenarios = random_law(12, 25)
test_numbers_and_the_machine_agree_on_300_random_scenarios = pytest.mark.slow(random_law(300, 60))


# What is made again -------------------------------------------------------------------------------

LOOP = "mov ecx, 4\n.La: nop; nop; lea ecx, [rcx - 1]; nop; jrcxz .Lb; jmp .La\n.Lb: ret"
"""Its rounds differ in one byte of RCX, and in nothing else."""


def looping(k):
    p = k.kprobe("f", 5)
    k.register(p)
    k.settle()
    k.unregister(p)
    k.settle()


def search_numbers(case, pool) -> None:
    with closing(open_experiment(case, pool)) as plain:
        explore(Exhaustive(bound=2, max_schedules=20_000), NumberedExploration(plain))


def without_a_byte(at: int):
    """``add_cpu`` of the memory port with one byte of the registers left out."""

    def add_cpu(memory, cpu, digest):
        vcpu = memory._machine.cpus[cpu]
        vcpu.uc.load()
        registers = bytes(vcpu.uc.gpr)
        digest.update(registers[:at] + registers[at + 1 :])
        digest.update(vcpu.uc.extended.vector_state() + vcpu.uc.extended.fpu_state())
        top = memory._machine.tasks[cpu].stack_top
        digest.update(memory._live_stack(vcpu.uc.gpr[RSP], top))

    return add_cpu


@pytest.mark.parametrize("seed", range(10))
def test_a_byte_that_is_left_out_of_a_states_name_is_found(pool, monkeypatch, seed):
    monkeypatch.setattr(X86Memory, "add_cpu", without_a_byte(8 * RCX))
    case = small(looping, text=LOOP, cpus=1 + seed % 2, interrupts=True, profile=PROFILES[seed % 3])
    with pytest.raises(ReplayDivergence, match="have one name"):
        search_numbers(case, pool)


def test_a_schedule_of_numbers_ends_on_the_machine_as_it_does_in_numbers(pool):
    """Also where it matters not which address an idle task was left at."""
    case = experiment_of(life.optimize, LINUX_6_1, cpus=2, preempt=True)
    with closing(open_experiment(case, pool)) as plain:
        numbers = NumberedExploration(plain, again_every=1)
        explore(Exhaustive(bound=None, max_schedules=1_500, recheck_every=9), numbers)


def test_a_part_of_a_vcpus_state_that_is_left_out_of_its_name_is_found(pool, monkeypatch):
    identity = Records._identity

    def without_passing(records, vcpu, lives, content):
        kept, vcpu.passing = vcpu.passing, None
        found = identity(records, vcpu, lives, content)
        vcpu.passing = kept
        return found

    monkeypatch.setattr(Records, "_identity", without_passing)
    with pytest.raises(ReplayDivergence):
        search_numbers(experiment_of(life.optimize, LINUX_2010, cpus=2), pool)


def test_a_transition_that_is_taken_for_another_one_is_found(pool, monkeypatch):
    monkeypatch.setattr(ControlNode, "text_class", lambda node: ())
    with pytest.raises(ReplayDivergence):
        search_numbers(experiment_of(life.optimize, LINUX_2010, cpus=2), pool)


# What a user sees ---------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [[], ["free-wait"]])
def test_a_plain_search_finds_the_same_and_says_the_same(pool, steps):
    case = replace(
        experiment_of(life.optimize, LINUX_2010),
        profile=without(LINUX_2010, frozenset(steps), preempt=False),
    )
    numbers, machine, two_processes = (
        verdict.check(case, Search(preemptions=1, **how), X86Setup(pool)).to_json()
        for how in ({}, {"plain": True}, {"jobs": 2})
    )
    assert numbers == machine == two_processes


def test_a_call_with_more_live_stack_than_a_page_is_told_apart_by_all_of_it(pool):
    text = "sub rsp, 0x1800; mov [rsp], rdi; nop; mov rax, [rsp]; add rsp, 0x1800; ret"
    with closing(open_experiment(small(text=text), pool)) as system:
        system.reset()
        system.take(actor_from("0"), 3)
        cpu = system.port.machine.cpus[0]
        cpu.uc.load()
        name = system.key()
        at = system.port.machine.ram.physical(cpu.uc.gpr[RSP])
        system.port.memory.room[at] ^= 1
        assert system.key() != name
