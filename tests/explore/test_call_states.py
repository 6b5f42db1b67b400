"""What is part of a state's name of calls and memory: for each part the smallest case that goes
wrong without it.

Without a part two states are taken for one, and what follows from the second is never seen. What
registers, stacks and memory hold is shown by two schedules of calls that share data, behind which
the calls leave different things.
"""

from __future__ import annotations

import pytest

from tests.conftest import BASE
from tests.explore.open_systems import (
    BOOSTED,
    follow,
    go_on,
    in_and_out,
    left,
    opened,
    sharing,
    two_states,
)

STORE = "mov qword ptr [G], 7; cmp qword ptr [G], 7"
"""Behind it two calls that have loaded different things stand at the same place, at an access of
what they share.
"""
KEPT = {
    "a register": f"mov rax, [G]; {STORE}; ret",
    "a vector register": f"movq xmm0, [G]; {STORE}; movq rax, xmm0; pxor xmm0, xmm0; ret",
    "an x87 register": (
        f"fild qword ptr [G]; {STORE}; sub rsp, 8; fistp qword ptr [rsp]; pop rax; ret"
    ),
    "the stack": f"push qword ptr [G]; {STORE}; pop rax; ret",
}
"""By where a call keeps what it loads while others come in between: a function that returns it."""
BRANCH = (
    "mov rsi, G; mov rcx, [rsi]; mov qword ptr [rsi], 7; jrcxz z; "
    "mov ecx, 0; cmp [rsi], ecx; mov eax, 7; jmp out; z: cmp [rsi], ecx; mov eax, 0; out: ret"
)
SHADOW = (
    "mov rsi, G; mov rcx, [rsi]; mov qword ptr [rsi], 7; mov eax, ss; jrcxz z; mov ecx, 0; "
    "mov ss, eax; z: mov edx, [rsi]; ret"
)
LOST = "mov rax, [G]; inc rax; mov [G], rax; mov eax, 0; cmp qword ptr [G], 0; ret"


@pytest.mark.parametrize("text", KEPT.values(), ids=KEPT)
def test_what_a_call_has_loaded_is_part_of_a_state_wherever_it_keeps_it(pool, text):
    """vCPU 1 makes its call before vCPU 0 loads, or between that and the store."""
    with sharing(pool, text, cpus=2) as system:
        keys = []
        for schedule, loaded in (("1*3 0*2", 7), ("0 1*3 0", 0)):
            keys.append(follow(system, schedule))
            assert left(system) == {2: (0,)}
            go_on(system, "0")
            assert left(system) == {2: (0,), 0: (loaded,)}
    assert keys[0] != keys[1]


@pytest.mark.parametrize("text", KEPT.values(), ids=KEPT)
def test_what_a_preempted_call_has_loaded_is_part_of_a_state_wherever_it_keeps_it(pool, text):
    """The other task makes a call before it loads, or between that and the store."""
    with sharing(pool, text, preempt=True, calls=2) as system:
        keys = []
        for schedule, loaded in (("0*3 s0 0*2 p0", 7), ("s0 0 p0 0*3 s0 0*2 p0", 0)):
            keys.append(follow(system, schedule))
            assert left(system) == {0: (0,)}
            go_on(system, "s0 0*2")
            assert left(system) == {0: (0,), 1: (loaded,)}
    assert keys[0] != keys[1]


@pytest.mark.parametrize(
    ("text", "fields", "ways", "told"),
    [
        pytest.param(
            BRANCH,
            {"cpus": 2},
            (("0*2 1*4 0", "0"), ("1*4 0*3", "0")),
            ({0: (0,), 2: (0,)}, {0: (7,), 2: (0,)}),
            id="where a call stands",
        ),
        pytest.param(
            BRANCH,
            {"preempt": True, "calls": 2},
            (("s0 0*2 p0 0*4 s0 0*2 p0", "s0 0*2"), ("0*4 s0 0*3 p0", "s0 0*2")),
            ({0: (0,), 1: (0,)}, {0: (0,), 1: (7,)}),
            id="where a preempted call goes on",
        ),
        pytest.param(
            BRANCH,
            {"preempt": True, "calls": 2, "resched": (BASE + 0x18, BASE + 0x21)},
            (("s0 0*2 p0 0*4 s0 0*2 s0", "0*4 s0 0"), ("0*4 s0 0*3 s0", "0*4 s0 0")),
            ({0: (0, 7), 1: (0,)}, {0: (0, 7), 1: (7,)}),
            id="where a call in schedule() goes on",
        ),
        pytest.param(
            KEPT["a register"],
            {"cpus": 2},
            (("1 0 1 0*2", "1"), ("1*2 0*3", "1")),
            ({0: (0,), 2: (0,)}, {0: (7,), 2: (0,)}),
            id="what a call has left",
        ),
    ],
)
def test_states_from_which_calls_leave_different_things_are_two(pool, text, fields, ways, told):
    with sharing(pool, text, **fields) as system:
        assert tuple(known for _, known, _ in two_states(system, *ways)) == told


def test_memory_is_part_of_a_state(pool):
    """An update is lost or not, and all else is the same."""
    with sharing(pool, LOST, cpus=2) as system:
        keys, ends = [], []
        for schedule in ("0 1*3 0", "1*3 0*2"):
            keys.append(follow(system, schedule))
            go_on(system, "0")
            ends.append((left(system), system.now.data.changed()))
    assert ends[0][0] == ends[1][0]
    assert ends[0][1] != ends[1][1]
    assert keys[0] != keys[1]


def test_the_shadow_of_mov_ss_is_part_of_a_state(pool):
    """One way jumps over it; behind it no interrupt comes."""
    with sharing(pool, SHADOW, cpus=2, reduce=False) as system:
        (one, *_), (other, *_) = two_states(system, ("0*3 1*9 0*3", ""), ("1*9 0*8", ""))
    assert one - other == {"i0"}


@pytest.mark.parametrize(
    ("control", "fields", "ways", "only"),
    [
        pytest.param(
            in_and_out, {"cpus": 2}, (("0 c0", ""), ("c0 0", "")), None, id="who went on last"
        ),
        pytest.param(
            in_and_out,
            {"interrupts": True},
            (("0 c0*2", "0"), ("0 c0*3", "0")),
            "i0",
            id="the control state",
        ),
        pytest.param(
            in_and_out, {}, (("0 c0*5 0", ""), ("c0*5 0*2", "")), None, id="whom a wait waits for"
        ),
        pytest.param(
            in_and_out, {}, (("c0", ""), ("0*3 c0", "")), "0", id="whether calls are made"
        ),
        pytest.param(
            in_and_out,
            {"calls": 2},
            (("0 c0", "0*2"), ("0*4 c0", "0*2")),
            "0",
            id="how many calls are made before the one under way",
        ),
        pytest.param(
            in_and_out,
            {"preempt": True, "interrupts": True},
            (("s0", ""), ("0*3 s0", "")),
            "p0",
            id="what the other task has left to do",
        ),
        pytest.param(
            in_and_out,
            {"nmis": True},
            (("0 c0*3 0 n0", "0*2 c0*2 0*7"), ("0 c0*3 0*2 n0", "0*2 c0*2 0*7")),
            None,
            id="the hit that an NMI has interrupted",
        ),
        pytest.param(
            in_and_out,
            {"interrupts": True},
            (("0 c0*3 0", "0*3"), ("0 c0*3 0*2", "0*3")),
            "i0",
            id="how far a hit has come",
        ),
    ],
)
def test_states_from_which_different_ones_can_go_on_are_two(pool, control, fields, ways, only):
    with opened(pool, BOOSTED, control, **fields) as system:
        (one, *_), (other, *_) = two_states(system, *ways)
        assert one ^ other == {only} if only else True
        costs = []
        for schedule, behind in ways:
            follow(system, schedule)
            go_on(system, behind)
            costs.append(sorted(system.choices()))
    assert costs[0] != costs[1]
