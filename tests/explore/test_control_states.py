"""What is part of a state's name of the core and its control tasks: for each part two tasks, of
which the one that comes first decides.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest

from arch_x86.explore.open_experiment import open_experiment
from engine.core.profiles import LINUX_6_1
from engine.errors import InputError
from engine.kprobe import KprobeFlag, Queue
from engine.patching.expectations import Effect, Operation
from engine.patching.experiment import Experiment
from engine.search.actor import actor_from
from engine.syntax.arguments import parse_argument
from tests.conftest import BASE, asm_image
from tests.explore.open_systems import (
    BOOSTED,
    actors,
    follow,
    opened,
)

FIRST, SECOND, LAST = BASE + 4, BASE + 9, BASE + 15
TWO = (
    "mov eax, edi; inc eax; lea ecx, [rax + rax*2]; add eax, ecx; mov edx, eax; mov esi, eax; "
    "mov edi, eax; ret"
)


def both(k):
    """Two probes that wait to be optimized; two more at the first one's address, and one on the
    last instruction, are not registered.
    """
    probes = [k.kprobe(None, addr=addr) for addr in (FIRST, SECOND, FIRST, FIRST, LAST)]
    for p in probes[:2]:
        k.register(p)


def aggregators(k):
    return [k.core.kprobe_table[addr] for addr in (FIRST, SECOND)]


def moved(k, n: int) -> None:
    """One of the aggregators comes to the head of its list."""
    op = aggregators(k)[n]
    k.core.optimizer.dequeue(op)
    k.core.optimizer.put(op, Queue.OPTIMIZING)


def ends(k, *operations, done: bool = True) -> None:
    """For the oracles these operations begin and end, of which the core knows nothing."""
    for numbers, effect in operations:
        k.ledger.begin("test", numbers, effect)
        k.ledger.end("test", done=done)


def begin(k, *locked: int) -> None:
    """For the oracles an operation on each of two probes is under way, and they have had the mutex
    in the order ``locked``.
    """
    for number in (0, 1):
        k.ledger.begin(f"on probe {number}", [number], Effect(disabled=True))
    for number in locked:
        k.ledger.locked(k.ledger.under_way[f"on probe {number}"])


def sets(one, name: str, value):
    return lambda k: setattr(one(k), name, value)


def elsewhere(op) -> None:
    """Its detour buffer is said to lie at another address."""
    op.optinsn = replace(
        op.optinsn, detour=replace(op.optinsn.detour, addr=op.optinsn.detour.addr + 16)
    )


def core(k):
    return k.core


def probe(k):
    return k.probes[0]


def aggregator(k):
    return aggregators(k)[0]


def optimizer(k):
    return k.core.optimizer


def schedules(k, name: str) -> None:
    k.core.plane.schedule_delayed_work(lambda: None, 0, name)


def fails(k) -> None:
    raise InputError("no")


def plain(k) -> None:
    """Nothing is done."""


ON, OFF = Effect(optimizing=True), Effect(optimizing=False)
REGISTERED = Effect(registered=True)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(
            lambda k: k._text.write(BASE + 18, b"\x91", reason="a"),
            lambda k: k._text.write(BASE + 18, b"\x92", reason="b"),
            id="text",
        ),
        pytest.param(lambda k: k.core.kprobe_table.pop(FIRST), plain, id="the table"),
        pytest.param(
            lambda k: moved(k, 0), lambda k: moved(k, 1), id="the order of the optimizer's lists"
        ),
        pytest.param(
            lambda k: k.core.arming.waiting.update({FIRST: (k.probes[0], True)}),
            lambda k: k.core.arming.waiting.update({FIRST: (k.probes[0], False)}),
            id="what waits to be armed",
        ),
        pytest.param(
            lambda k: k.core.optprobes.alloc_aggr_kprobe(k.probes[4]),
            plain,
            id="how many aggregators there were",
        ),
        pytest.param(
            sets(core, "kprobes_allow_optimization", False),
            plain,
            id="whether optimization is allowed",
        ),
        pytest.param(
            sets(core, "kprobes_all_disarmed", True), plain, id="whether all are disarmed"
        ),
        pytest.param(sets(optimizer, "_pending", True), plain, id="whether a pass is due"),
        pytest.param(sets(optimizer, "_running", False), plain, id="whether a pass is under way"),
        pytest.param(sets(optimizer, "_completed", True), plain, id="whether a pass is over"),
        pytest.param(sets(probe, "flags", KprobeFlag.DISABLED), plain, id="a probe's flags"),
        pytest.param(sets(probe, "ainsn", None), plain, id="a probe's slot"),
        pytest.param(
            sets(probe, "post_handler", print), plain, id="whether a probe has a post_handler"
        ),
        pytest.param(
            lambda k: elsewhere(aggregators(k)[0]), plain, id="an aggregator's detour buffer"
        ),
        pytest.param(sets(aggregator, "children", []), plain, id="an aggregator's probes"),
        pytest.param(lambda k: k.core.arch.slots.get(), plain, id="which slots are free"),
        pytest.param(
            lambda k: k.core.arch.detours.get(), plain, id="which detour buffers are free"
        ),
        pytest.param(
            sets(lambda k: k.core.arch.poke, "_last", "another"), plain, id="a poke's descriptor"
        ),
        pytest.param(
            lambda k: ends(k, ([], OFF)),
            lambda k: ends(k, ([], ON)),
            id="what operations have left",
        ),
        pytest.param(
            lambda k: ends(k, ([0], Effect()), ([0], Effect()), done=False),
            lambda k: ends(k, ([0], Effect()), done=False),
            id="how many operations there were on a probe",
        ),
        pytest.param(
            lambda k: k.ledger.locked(Operation([0], REGISTERED, everything=False)),
            plain,
            id="how often a probe was registered",
        ),
        pytest.param(lambda k: k.ledger.jumped.add(0), plain, id="which probes had a jump"),
        pytest.param(
            lambda k: k.ledger.rearmed.add(FIRST),
            plain,
            id="where a breakpoint was written again over a jump",
        ),
        pytest.param(
            lambda k: k.ledger.copied_for_post.update({FIRST: True}),
            plain,
            id="whom a copy was made for",
        ),
        pytest.param(
            lambda k: begin(k, 0, 1),
            lambda k: begin(k, 1, 0),
            id="which operation had the mutex last",
        ),
        pytest.param(
            sets(lambda k: k, "broken", "a promise"), plain, id="a promise that was broken"
        ),
        pytest.param(
            lambda k: schedules(k, "one"),
            lambda k: schedules(k, "other"),
            id="the name of delayed work",
        ),
        pytest.param(
            lambda k: schedules(k, "kprobe_optimizer"), plain, id="that work was asked for again"
        ),
        pytest.param(
            lambda k: ends(k, ([2], REGISTERED), ([3], REGISTERED)),
            lambda k: ends(k, ([3], REGISTERED), ([2], REGISTERED)),
            id="which of two probes is older",
        ),
        pytest.param(fails, plain, id="what ended a task"),
    ],
)
def test_what_control_tasks_leave_is_part_of_a_control_state(pool, first, second):
    """Of two tasks the one that comes first does something, the other one nothing; afterwards both
    have ended.
    """

    def if_first(k, do) -> None:
        if not hasattr(k, "decided"):
            k.decided = True
            do(k)

    tasks = [
        ("main", both),
        ("a", lambda k: if_first(k, first)),
        ("b", lambda k: if_first(k, second)),
    ]
    case = Experiment(
        image=asm_image(TWO),
        call="f",
        calls=1,
        profile=LINUX_6_1,
        code=tasks,
        tag="t",
        restores=False,
        reduce=False,
        arguments=(parse_argument("5"),),
    )
    with closing(open_experiment(case, pool)) as system:
        names = []
        for order in ("c1", "c2"), ("c2", "c1"):
            system.reset()
            while "c0" in actors(system):
                system.take(actor_from("c0"))
            assert len(aggregators(system.node.state.control)) == 2
            system.take(actor_from("c3"))  # the optimizer's pass has begun, and has no lock yet
            for actor in order:
                while system.node.state.plane.tasks[int(actor[1])].steppable:
                    system.take(actor_from(actor))
            names.append(system.key())
    assert names[0] != names[1]


def test_the_rounds_of_a_loop_are_control_states_of_their_own(pool):
    """Nothing but how many operations the task has begun tells them apart."""

    def settles(k):
        for same in (k, k, k):
            same.settle()

    with opened(pool, BOOSTED, settles) as system:
        assert len({follow(system, f"c0*{steps}") for steps in range(1, 5)}) == 4
