"""Tasks that share nothing: one at a time in the middle of its call. What a search finds stays the
same; what it costs does not.
"""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arch_x86.explore.open_experiment import open_experiment
from arch_x86.explore.scenarios import life
from arch_x86.images.asmtext import load_asm
from engine.core.ablation import without
from engine.core.profiles import LINUX_6_1, LINUX_2010, profile_named
from engine.patching.experiment import Experiment
from engine.patching.independence import own_writes
from engine.patching.parked_task import Mode
from engine.search.actor import ActorKind
from engine.search.conduct import explore
from engine.search.drawn import Drawn
from engine.search.exhaustive import Exhaustive
from engine.search.explorable import ViolationKind
from engine.search.random_walk import RandomWalk
from engine.syntax.arguments import parse_argument
from tests.conftest import asm_image
from tests.explore.experiments import experiment_of


def every_violation(case, pool, bound):
    """What breaks, whichever CPU it is on; and how many schedules it took."""
    with closing(open_experiment(case, pool)) as system:
        outcome = explore(Exhaustive(bound=bound, recheck_every=0, violations_max=10**9), system)
    told = {
        (
            found.violation.kind,
            re.sub(r"CPU \d|call \d|0x[0-9a-f]{6,}", "_", found.violation.explain),
        )
        for found in outcome.found
    }
    return told, outcome.schedules


@pytest.mark.parametrize(
    ("step", "profile", "bound"),
    [
        (None, "linux-2010", 1),
        pytest.param("free-wait", "linux-2010", 2, marks=pytest.mark.slow),
        ("unregister-wait", "linux-6.1", 2),
    ],
)
def test_what_breaks_with_any_number_of_tasks_in_flight_breaks_with_one(pool, step, profile, bound):
    """With two preemptions two tasks can be in flight at once. Two vCPUs, a call each."""
    scenario = {"unregister-wait": life.boosted, "free-wait": life.optimize}.get(
        step, life.register
    )
    case = replace(
        experiment_of(
            scenario, without(profile_named(profile), frozenset({step} - {None})), cpus=2
        ),
        calls=1,
        interrupts=False,
    )
    apart, few = every_violation(case, pool, bound)
    together, many = every_violation(replace(case, apart=False), pool, bound)
    assert apart == together
    assert bool(apart) is (step is not None)
    assert few < many


def test_no_two_tasks_are_in_the_middle_of_a_call_while_a_control_task_goes_on(pool):
    seen = []
    for apart in (True, False):
        case = replace(experiment_of(life.register, LINUX_2010, cpus=2), apart=apart, calls=1)
        with closing(open_experiment(case, pool)) as system:
            most = 0

            def take(actor, *args, system=system, real=system.take, **kwargs):
                nonlocal most
                if actor.kind is ActorKind.CONTROL:
                    most = max(most, sum(vcpu.mode is Mode.CALL for vcpu in system.vcpus))
                return real(actor, *args, **kwargs)

            system.take = take
            explore(Drawn(RandomWalk(seed=1), schedules=300, bound=2, recheck_every=0), system)
            seen.append(most)
    assert seen == [1, 2]


def case_of(code: str, *, preempt: bool = False, **fields) -> Experiment:
    def main(k):
        p = k.kprobe("f")
        k.register(p)
        k.unregister(p)

    fields.setdefault("arguments", (parse_argument("5"),))
    profile = without(LINUX_2010, frozenset(), preempt=preempt)
    return Experiment(
        image=asm_image(code),
        call="f",
        calls=1,
        cpus=2,
        profile=profile,
        preempt=preempt,
        code=[("main", main)],
        tag="t",
        **fields,
    )


OWN_STACK = "push rdi; mov [rsp], rsi; pop rax; ret"
OWN_BUFFER = "mov byte ptr [rdi], 1; mov byte ptr [rdi + 8191], 2; xor eax, eax; ret"
BEHIND_IT = "mov byte ptr [rdi + 200], 2; xor eax, eax; ret"
PER_CPU = "mov qword ptr gs:[256], rdi; ret"


@pytest.mark.parametrize(
    ("code", "argument", "apart"),
    [
        (OWN_STACK, "5", True),
        (OWN_BUFFER, "buf:+8192", True),
        (BEHIND_IT, "buf:+100", False),
        (PER_CPU, "5", False),
    ],
    ids=["own stack", "own buffer", "behind it", "per-CPU area"],
)
@pytest.mark.parametrize("preempt", [False, True])
def test_calls_that_write_elsewhere_are_not_taken_for_apart(pool, code, argument, apart, preempt):
    """Also of the tasks of one vCPU, which have its per-CPU area in common."""
    with closing(
        open_experiment(case_of(code, preempt=preempt, arguments=(parse_argument(argument),)), pool)
    ) as system:
        assert system.choice.apart is apart


@pytest.mark.parametrize(("maxactive", "apart"), [(2, True), (1, False)])
def test_return_probes_keep_tasks_apart_if_no_call_can_find_their_instances_taken(
    pool, maxactive, apart
):
    def control(k):
        k.register_return(k.kretprobe("inner", maxactive=maxactive))

    case = replace(
        experiment_of(life.kretprobe_removal, LINUX_6_1, cpus=2),
        code=[("main", control)],
        restores=False,
    )
    with closing(open_experiment(case, pool)) as system:
        assert system.choice.apart is apart


@pytest.mark.parametrize(("maxactive", "apart"), [(4, True), (3, False)])
def test_nmis_may_take_an_instance_of_a_return_probe_on_each_vcpu(pool, maxactive, apart):
    def control(k):
        k.register_return(k.kretprobe("inner", maxactive=maxactive))

    case = replace(
        experiment_of(life.kretprobe_removal, LINUX_6_1, cpus=2),
        code=[("main", control)],
        restores=False,
        nmis=True,
    )
    with closing(open_experiment(case, pool)) as system:
        assert system.choice.apart is apart


def test_a_call_that_enters_a_probed_function_twice_may_take_two_instances(pool):
    def control(k):
        k.register_return(k.kretprobe("g", maxactive=2))

    text = ".globl f\nf:\n call g\n call g\n ret\n.globl g\ng:\n inc eax\n ret\n"
    case = Experiment(
        image=load_asm(text, "t"),
        call="f",
        calls=1,
        cpus=1,
        profile=LINUX_2010,
        code=[("main", control)],
        tag="t",
        restores=False,
    )
    for cpus, apart in ((1, True), (2, False)):
        with closing(open_experiment(replace(case, cpus=cpus), pool)) as system:
            assert system.choice.apart is apart


@given(st.integers(0, 300), st.integers(1, 8))
def test_a_write_is_ones_own_if_each_byte_of_it_is(addr, size):
    spans = [range(10, 50), range(100, 200)]
    whole = any(all(at in span for at in range(addr, addr + size)) for span in spans)
    assert own_writes([(addr, size)], spans) is whole


def test_a_byte_that_no_unprobed_call_writes_and_that_has_changed_is_a_wrong_result(pool):
    buffer = (parse_argument("buf:+100"),)

    def meddles(k, offset):
        def handler(_p, regs):
            k._log.hit(0, regs)
            k.core.arch._memory.write(regs.di + offset, b"\x77")

        p = k.kprobe("f")
        p.pre_handler = handler
        k.register(p)

    # what the call itself writes it writes again
    for offset, seen in ((200, {ViolationKind.WRONG_RESULT}), (0, set())):
        case = case_of("mov byte ptr [rdi], 1; ret", arguments=buffer, restores=False)
        told, _ = every_violation(
            replace(case, code=[("main", lambda k, at=offset: meddles(k, at))]), pool, 0
        )
        assert {kind for kind, _ in told} == seen
        assert all("no unprobed call writes" in explain for _, explain in told)
