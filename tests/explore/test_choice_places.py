"""Where vCPUs and tasks can be chosen: inside of slots and detour buffers, and while others wait
for them.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.control.stepped_plane import MachineWait, WaitKind
from engine.core.profiles import LINUX_6_1
from engine.hit_phases import HitPhase
from engine.patching.parked_task import Mode
from engine.search.actor import actor_from
from tests.conftest import BASE
from tests.explore.open_systems import (
    BOOSTED,
    PREEMPT,
    actors,
    follow,
    go_on,
    in_and_out,
    opened,
    sharing,
    waits_for_tasks,
)


def jumped(k):
    p = k.kprobe("f", 4)
    k.register(p)
    k.settle()
    k.unregister(p)
    k.settle()


def places(system, schedule: str) -> set[tuple[str, int]]:
    """From ``schedule`` on vCPU 0 alone goes on, to the end of its call: where it stops in buffers,
    as offsets into them.
    """
    follow(system, schedule)
    seen = set()
    while system.vcpus[0].mode is not Mode.DONE:
        system.take(actor_from("0"))
        rip = system.port.machine.cpus[0].rip
        if rip in system.port.text.buffers and "c0" in actors(system):
            kind = system.where(rip).split(" 0x")[0]
            seen.add(
                (
                    kind,
                    (
                        rip % 0x100
                        if kind == "slot"
                        else rip - next(start for start, _ in system.node.state.arch.watch_ranges())
                    ),
                )
            )
    return seen


def test_each_instruction_of_a_slot_is_a_choice_point(pool):
    with opened(pool, BOOSTED, in_and_out) as system:
        assert places(system, "c0*3") == {("slot", 0), ("slot", 1)}  # the copy, and the jump back


def test_the_copies_in_a_detour_buffer_are_choice_points_each(pool):
    text = "mov eax, edi; inc eax; lea ecx, [rax + rax*2]; add eax, ecx; ret"
    with opened(pool, text, jumped) as system:
        system.reset()
        while system.port.machine.text.store.read(system.node.version, BASE + 4, 1) != b"\xe9":
            system.take(actor_from(min(actors(system) - {"0"})))
        (op,) = system.node.state.core.kprobe_table.values()
        copied = op.optinsn.copied - op.optinsn.detour.addr
        seen = set()
        while system.vcpus[0].mode is not Mode.DONE:
            rip = system.port.machine.cpus[0].rip
            if rip in system.port.text.buffers:
                seen.add(rip - op.optinsn.detour.addr)
            system.take(actor_from("0"))
    assert {0, copied, copied + 3, copied + 5} <= seen  # its entry, two copies, and the jump back


def test_a_preempted_task_is_waited_for_and_in_flight(pool):
    """By synchronize_rcu_tasks(), and by who counts the writes that found somebody in flight."""
    with opened(pool, BOOSTED, waits_for_tasks, **PREEMPT, reduce=False) as system:
        follow(system, "c0 0*2 p0 c0")
        assert "c0" not in actors(system)
        go_on(system, "s0 0*5")
        assert (system.vcpus[0].mode, "c0" in actors(system)) == (Mode.DONE, True)
    with opened(pool, BOOSTED, in_and_out, **PREEMPT) as system:
        follow(system, "c0*3 0*6 p0")
        before = system.coverage.in_flight_at_write
        go_on(system, "c0*2")
        assert system.coverage.in_flight_at_write == before + 1


def test_traps_over_waits_for_a_trap_that_has_not_read_its_poke(pool):
    with opened(pool, BOOSTED, in_and_out, profile=LINUX_6_1) as system:
        follow(system, "c0*3 0*2")
        vcpu = system.vcpus[0]
        for phase in HitPhase:
            vcpu.hit = replace(vcpu.hit, phase=phase)
            system.waits.left = {0: (MachineWait(WaitKind.TRAPS, "test", 0), frozenset())}
            assert system.waits.over(0) is (phase is not HitPhase.POKE)


@pytest.mark.parametrize(
    ("text", "shares"),
    [("push rdi; pop rax; ret", False), ("mov rax, [G]; ret", False), ("mov [G], rdi; ret", True)],
)
def test_who_writes_where_others_read_shares(pool, text, shares):
    with sharing(pool, text, cpus=2) as system:
        assert system.shares is shares
