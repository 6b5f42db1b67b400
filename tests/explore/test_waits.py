"""Waits end by those they wait for, each for itself: what the search takes for granted of tasks
that share nothing.
"""

from __future__ import annotations

from contextlib import closing

from hypothesis import given
from hypothesis import strategies as st

from arch_x86.explore.open_experiment import open_experiment
from arch_x86.explore.scenarios import life
from engine.control.stepped_plane import MachineWait, WaitKind
from engine.core.profiles import LINUX_2010
from engine.patching.parked_task import Mode
from engine.patching.vcpu import VcpuState
from engine.patching.waits import Waits
from engine.search.actor import ActorKind, actor_from
from tests.explore.experiments import experiment_of

CPUS = 3
EVENTS = st.tuples(st.sampled_from(["quiescent", "task_passed", "ran"]), st.integers(0, CPUS - 1))


def passes(waits: Waits, vcpus: list[VcpuState], boundary: set[int], event: str, cpu: int) -> None:
    if event == "quiescent":
        waits.quiescent(cpu)
    elif event == "task_passed":
        waits.task_passed(2 * cpu)
    else:
        boundary.add(cpu)
        waits.ran(vcpus[cpu])


@given(
    st.sampled_from([WaitKind.SCHED, WaitKind.TASKS, WaitKind.SYNC]),
    st.sets(st.integers(0, CPUS - 1)),
    st.lists(EVENTS, max_size=12),
)
def test_a_wait_is_over_when_each_that_it_began_with_has_come_by_and_not_before(kind, busy, events):
    vcpus = [VcpuState(index) for index in range(CPUS)]
    for index in busy:
        vcpus[index].mode = Mode.CALL
    boundary = set(range(CPUS)) - busy  # who would take an interrupt where it stands
    waits = Waits(
        vcpus,
        boundary.__contains__,
        lambda cpu: frozenset({2 * cpu} if cpu in busy else ()),
        lambda _: False,
        lambda _: False,
        lambda: False,
        lambda: False,
        lambda _: False,
    )
    waits.entered({0: MachineWait(kind, "", 0)}, 0)
    ends = {WaitKind.SCHED: "quiescent", WaitKind.TASKS: "task_passed", WaitKind.SYNC: "ran"}[kind]
    left = set(busy)
    assert waits.over(0) is (not left)
    for event, cpu in events:
        passes(waits, vcpus, boundary, event, cpu)
        left -= {cpu} if event == ends else set()
        assert waits.over(0) is (not left)


@given(st.lists(EVENTS, max_size=8), st.lists(EVENTS, max_size=8))
def test_a_later_wait_does_not_count_who_came_by_before_it_began(before, after):
    vcpus = [VcpuState(index) for index in range(CPUS)]
    for vcpu in vcpus:
        vcpu.mode = Mode.CALL
    waits = Waits(
        vcpus,
        lambda _: False,
        lambda cpu: frozenset({2 * cpu}),
        lambda _: False,
        lambda _: False,
        lambda: False,
        lambda: False,
        lambda _: False,
    )
    first, second = MachineWait(WaitKind.SCHED, "", 0), MachineWait(WaitKind.SCHED, "", 1)
    waits.entered({0: first}, 0)
    for event, cpu in before:
        passes(waits, vcpus, set(), event, cpu)
    waits.entered({0: first, 1: second}, 1)
    for event, cpu in after:
        passes(waits, vcpus, set(), event, cpu)
    came = {cpu for event, cpu in before if event == "quiescent"}
    came_later = {cpu for event, cpu in after if event == "quiescent"}
    assert waits.over(0) is (came | came_later == set(range(CPUS)))
    assert waits.over(1) is (came_later == set(range(CPUS)))


def test_neither_stop_machine_nor_a_grace_period_ends_while_a_cpu_is_in_an_nmi(pool):
    """linux-2010: the NMI comes on a CPU between calls, while stop_machine has it."""
    with closing(open_experiment(experiment_of(life.nmi, LINUX_2010), pool)) as system:
        system.reset()
        while not system.node.stopped:
            system.take(
                next(one.actor for one in system.choices() if one.actor.kind is ActorKind.CONTROL)
            )
        system.take(actor_from("n0"))
        while system.vcpus[0].nmi:
            assert not system.vcpus[0].quiescent
            while controls := [
                one.actor for one in system.choices() if one.actor.kind is ActorKind.CONTROL
            ]:
                system.take(controls[0])
                assert system.node.stopped
            system.take(actor_from("0"))
        while system.node.stopped:
            system.take(
                next(one.actor for one in system.choices() if one.actor.kind is ActorKind.CONTROL)
            )
        assert system.violation is None
