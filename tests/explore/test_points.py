"""Where choices are, and which states are one: laws of the choice points and of the names of
states.
"""

from __future__ import annotations

import re
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial

import pytest

from arch_x86.explore.open_experiment import open_experiment
from arch_x86.explore.scenarios import life
from arch_x86.explore.scenarios.steps import scenarios_for
from engine.control.stepped_plane import WaitKind
from engine.core.ablation import without
from engine.core.profiles import LINUX_6_1, LINUX_2010
from engine.hit_phases import HitPhase
from engine.patching.expectations import Life
from engine.patching.experiment import Experiment
from engine.patching.operations import BETWEEN_OPERATIONS
from engine.patching.parked_task import Mode
from engine.patching.passes import Seen
from engine.patching.search_options import Search
from engine.search.actor import ActorKind, actor_from
from engine.search.conduct import explore
from engine.search.exhaustive import Exhaustive
from engine.search.explorable import ViolationKind
from engine.search.schedule import replay, text_of
from engine.syntax.arguments import parse_argument
from tests.conftest import asm_image
from tests.explore.experiments import check, experiment_of

PROFILES = pytest.mark.parametrize("profile", [LINUX_2010, LINUX_6_1], ids=lambda p: p.name)


def idle(k):
    k.kprobe("f")
    k.settle()


@contextmanager
def opened(pool, code: str, control=idle, **fields):
    fields.setdefault("arguments", (parse_argument("5"),))
    fields.setdefault("profile", LINUX_2010)
    case = Experiment(
        image=asm_image(code),
        call="f",
        calls=fields.pop("calls", 1),
        code=[("main", control)],
        tag="t",
        **fields,
    )
    with closing(open_experiment(case, pool)) as system:
        yield system


def walk(system):
    """On as before, to the end of the call; before each step where the vCPU is, and what can be
    chosen there.
    """
    while True:
        actors = [str(choice.actor) for choice in system.choices()]
        if "0" not in actors:
            return
        if system.vcpus[0].mode is Mode.CALL:
            cpu = system.port.machine.cpus[0]
            yield system.where(cpu.rip), cpu.registers(), actors
        system.take(actor_from("0"), 1)


def test_no_interrupt_comes_behind_sti_and_mov_ss_and_no_nmi_behind_mov_ss(pool):
    code = "cli; nop; sti; nop; mov eax, ss; mov ss, eax; nop; ret"
    with opened(pool, code, reduce=False, nmis=True) as system:
        at = {place: actors for place, _, actors in walk(system)}
    held_back = {
        place for place, actors in at.items() if place.startswith("f+") and "i0" not in actors
    }
    # IF clear twice; behind STI; behind MOV SS
    assert held_back == {
        "f+0x1",
        "f+0x2",
        "f+0x3",
        "f+0x8",
    }
    assert {
        place for place, actors in at.items() if place.startswith("f+") and "n0" not in actors
    } == {"f+0x8"}


def test_a_preempted_task_goes_on_behind_the_shadow_of_sti(pool):
    """An interrupt that is held back preempts nobody: nothing of the function runs in its place."""
    with opened(pool, "cli; sti; inc eax; ret", reduce=False, preempt=True) as system:
        at = {place: actors for place, _, actors in walk(system)}
    assert "p0" not in at["f+0x2"]
    assert "p0" in at["f+0x4"]


def test_between_calls_either_task_of_a_vcpu_may_go_on(pool):
    with opened(pool, "inc eax; ret", preempt=True) as system:
        assert {"0", "s0"} <= {str(choice.actor) for choice in system.choices()}
        system.take(actor_from("s0"))
        assert (system.vcpus[0].task, system.vcpus[0].mode) == (1, Mode.CALL)
        while system.vcpus[0].mode is Mode.CALL:
            system.take(actor_from("0"))
        system.take(actor_from("s0"))
        assert (system.vcpus[0].task, system.vcpus[0].mode) == (0, Mode.CALL)


@pytest.mark.parametrize("site", [6, 3], ids=["probed", "not probed"])
def test_a_rep_instruction_can_be_left_between_its_iterations_where_it_is_watched(pool, site):
    """With a probe on it, or with every boundary a choice."""

    def control(k):
        p = k.kprobe("f", site)
        k.register(p)
        k.unregister(p)

    code = "push 3; pop rcx; mov rsi, rdi; rep lodsb; xor esi, esi; ret"
    with opened(
        pool, code, control, reduce=site == 6, arguments=(parse_argument("buf:010203"),)
    ) as system:
        left = [
            registers[1]
            for place, registers, actors in walk(system)
            if place == "f+0x6" and {"i0", "c0"} <= {*actors}
        ]
    assert left == [3, 2, 1, 0]


THREE = "mov eax, edi; inc eax; lea ecx, [rax + rax*2]; add eax, ecx; ret"


def three_probes(k, *, settle: bool):
    for _ in range(3):
        k.register(k.kprobe("f", 4))
    if settle:
        k.settle()
    k.unregister(k.probes[1])
    k.unregister(k.probes[0], k.probes[2])
    k.settle()


def all_three_wait_for_the_next_operation(node, *, jump: bool) -> bool:
    state = node.state
    armed = sum(now is Life.ON for now, _ in node.lives) == 3 and (
        state.core.optimizer.idle or not jump
    )
    return armed and state.plane.tasks[0].at == BETWEEN_OPERATIONS


@contextmanager
def all_in_place(pool, profile, *, jump: bool):
    """The control tasks have gone on alone until all three are in place, and one is about to be
    unregistered.
    """
    with opened(pool, THREE, partial(three_probes, settle=jump), profile=profile) as system:
        system.reset()
        while not all_three_wait_for_the_next_operation(system.node, jump=jump):
            system.take(system.choices()[0].actor)
        yield system


@PROFILES
@pytest.mark.parametrize("jump", [False, True], ids=["int3", "jump"])
def test_each_handler_of_a_hit_is_a_piece_of_its_own(pool, profile, jump):
    """By breakpoint and by jump: others go on in between."""
    with all_in_place(pool, profile, jump=jump) as system:
        phases, counts = [], []
        while system.vcpus[0].mode is not Mode.DONE:
            hit = system.vcpus[0].hit
            if hit is not None and hit.phase is not HitPhase.TRAP:
                phases.append(hit.phase)
                counts.append([n for _, n in system.vcpus[0].passing.seen])
                assert any(choice.actor.kind is ActorKind.CONTROL for choice in system.choices())
            system.take(actor_from("0"))
    assert phases == [HitPhase.FOUND, HitPhase.BETWEEN, HitPhase.BETWEEN, HitPhase.HANDLED]
    assert counts == [[], [2], [2, 1], [2, 1, 0]]  # newest first


@PROFILES
@pytest.mark.parametrize("jump", [False, True], ids=["int3", "jump"])
def test_a_probe_that_leaves_between_two_handlers_of_a_hit_is_not_called_by_it(pool, profile, jump):
    with all_in_place(pool, profile, jump=jump) as system:
        while system.vcpus[0].hit is None or system.vcpus[0].hit.phase is not HitPhase.BETWEEN:
            system.take(actor_from("0"), 1)
        while "c0" in [str(choice.actor) for choice in system.choices()]:
            system.take(actor_from("c0"))
        assert system.node.waits[0].kind is WaitKind.SCHED  # for this hit
        seen = ()
        while system.vcpus[0].mode is Mode.CALL:
            system.take(actor_from("0"))
            seen = system.vcpus[0].passing.seen if system.vcpus[0].passing is not None else seen
        assert seen == ((Seen.HIT, 2), (Seen.HIT, 0))
        assert system.violation is None


@PROFILES
def test_a_vcpu_between_calls_is_the_same_however_its_last_call_went(pool, profile):
    """Registers, stack and what the kprobes layer kept of the last hit are dead; how many calls are
    made is not.
    """
    case = replace(experiment_of(life.boosted, profile), calls=2)
    with closing(open_experiment(case, pool)) as system:

        def armed_and_called():
            system.reset()
            while not system.node.lives or system.node.lives[0][0] is not Life.ON:
                system.take(actor_from("c0"))

        def call():
            system.take(actor_from("0"))
            while system.vcpus[0].mode is Mode.CALL:
                system.take(actor_from("0"))

        armed_and_called()
        call()
        hit = system.key()
        system.reset()
        call()
        while not system.node.lives or system.node.lives[0][0] is not Life.ON:
            system.take(actor_from("c0"))
        assert system.key() == hit
        call()
        assert system.key() != hit


def test_states_that_differ_in_a_register_stack_x87_or_flags_of_a_call_are_two(pool):
    code = "push rdi; fld1; pop rax; fstp st(0); ret"
    with opened(pool, code, reduce=False) as system:
        system.take(actor_from("0"), 3)
        here = system.save()
        cpu = system.port.machine.cpus[0]
        first = system.key()
        names = {first}
        for change in ("register", "stack", "flags", "x87"):
            system.restore(here)
            uc = cpu.uc
            uc.load()
            if change == "register":
                uc.gpr[3] ^= 1
                uc.store()
            elif change == "stack":
                system.port.machine.ram.write(uc.gpr[4], b"\x77")
            elif change == "flags":
                uc.gpr[16] ^= 1
                uc.store()
            else:
                uc.extended.reset()
            names.add(system.key())
        system.restore(here)
        assert system.key() == first
        uc = cpu.uc
        uc.load()
        # below: dead, where there is no red zone
        system.port.machine.ram.write(uc.gpr[4] - 8, b"\x77")
        assert system.key() == first
    assert len(names) == 5


def test_each_schedule_that_breaks_can_be_followed_step_by_step_without_reduction(pool):
    """Also where stop_machine parks a task in the middle of a call that is otherwise made whole."""
    (scenario,) = scenarios_for("jump-range-check")
    case = experiment_of(
        scenario, without(LINUX_2010, frozenset({"jump-range-check"}), preempt=True), preempt=True
    )
    with closing(open_experiment(case, pool)) as system:
        found = explore(Exhaustive(bound=1, recheck_every=0, violations_max=10**9), system).found
    assert len(found) > 100
    with closing(open_experiment(replace(case, reduce=False), pool)) as system:
        for one in found[::5]:
            assert replay(system, one.segments, strict=True), text_of(one.segments)
            assert system.violation is not None
            assert system.violation.kind is one.violation.kind


def test_per_cpu_memory_is_part_of_a_state_where_calls_write_there(pool):
    for code, seen in (("mov qword ptr gs:[256], rdi; ret", True), ("mov eax, edi; ret", False)):
        with opened(pool, code) as system:
            before = system.key()
            system.port.machine.ram.write(system.port.machine.layout.gs_base(0) + 512, b"\x77")
            assert (system.key() != before) is seen


def test_a_probe_that_only_some_schedules_make_is_counted_from_then_on(pool):
    def first(k):
        p = k.kprobe("f", 0, number=0)
        k.register(p)
        k.unregister(p)
        k.settle()

    def second(k):
        p = k.kprobe("f", 0, number=1)
        if k.register(p):
            k.unregister(p)
        else:
            q = k.kprobe("f", 2, number=2)
            k.register(q)
            k.unregister(q)

    case = Experiment(
        image=asm_image("inc eax; inc eax; nop; ret"),
        call="f",
        calls=1,
        profile=LINUX_2010,
        code=[("a", first), ("b", second)],
        tag="t",
    )
    result = check(case, Search(preemptions=1), pool=pool)
    assert (result.violations, result.outcome.exhaustive) == ([], True)


def test_what_a_scenario_raises_is_a_violation_that_says_where(pool):
    def raises(k):
        k.register(k.kprobe("f"))
        raise ValueError("no such thing")

    case = Experiment(
        image=asm_image("nop; ret"),
        call="f",
        calls=1,
        profile=LINUX_2010,
        code=[("main", raises)],
        tag="t",
    )
    (report,) = check(case, Search(preemptions=0), pool=pool).violations
    assert report.violation.kind is ViolationKind.INVARIANT
    assert re.search(
        r"test_points.py:\d+: control task main: ValueError: no such thing",
        report.violation.explain,
    )
