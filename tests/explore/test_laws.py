"""The law of the search: what is merged, put off or left out changes no set of outcomes. And: each
reduction that is broken breaks it.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from itertools import permutations

import pytest

from arch_x86.explore.open_experiment import open_experiment
from arch_x86.explore.scenarios import life, load
from arch_x86.images.asmtext import load_asm
from engine.control.stepped_plane import SteppedPlane
from engine.core.ablation import without
from engine.core.kretprobes import Kretprobes
from engine.core.profiles import LINUX_6_1, LINUX_2010
from engine.patching.choices import Choices
from engine.patching.control_state import ControlState
from engine.patching.control_steps import ControlSteps
from engine.patching.experiment import Experiment
from engine.patching.local_state import LocalState
from engine.patching.places import Places
from engine.patching.states import States
from engine.search.conduct import explore
from engine.search.exhaustive import Exhaustive
from engine.syntax.arguments import parse_argument
from tests.conftest import asm_image
from tests.explore.experiments import experiment_of
from tests.explore.laws import merged_states_differ, outcomes


def in_and_out(k):
    p = k.kprobe("f")
    k.register(p)
    k.settle()
    k.unregister(p)
    k.settle()


def in_before_the_optimizer_and_out(k):
    p = k.kprobe("f")
    k.register(p)
    k.unregister(p)


def one_of_two(number: int, offset: int = 0):
    def task(k):
        p = k.kprobe("f", offset, number=number)
        if k.register(p):
            k.unregister(p)

    return task


def returns(k):
    rp = k.kretprobe("f", 1)
    k.register_return(rp)
    k.unregister_return(rp)


def switches(k):
    k.switch(on=False)
    k.switch(on=True)


def small(
    *code,
    text: str = "ret",
    steps=(),
    profile=LINUX_2010,
    preempt: bool = False,
    interrupts: bool = False,
    **fields,
) -> Experiment:
    """One call of ``text`` on each vCPU and the control tasks ``code``."""
    return Experiment(
        image=asm_image(text),
        call="f",
        arguments=(parse_argument("5"),),
        calls=1,
        profile=without(profile, frozenset(steps), preempt=preempt),
        preempt=preempt,
        interrupts=interrupts,
        code=[(f"task{n}", one) for n, one in enumerate(code)],
        tag="t",
        **fields,
    )


JUMP = "lea eax, [rdi + rdi]; lea ecx, [rax + 1]; ret"
RESCHED = 0x1000_0001
CASES = {
    "two tasks at one address": (small(one_of_two(0), one_of_two(1)), 0),
    "a switch and an operation": (small(one_of_two(0), switches), 0),
    "two vCPUs": (small(in_before_the_optimizer_and_out, cpus=2), 1),
    "two vCPUs, no wait": (
        small(in_before_the_optimizer_and_out, cpus=2, text="nop; ret", steps=["unregister-wait"]),
        0,
    ),
    "a jump": (small(in_and_out, text=JUMP), 1),
    "a jump, no stop_machine": (small(in_and_out, text=JUMP, steps=["stop-machine"]), 1),
    "a return probe": (small(returns, text="nop; ret"), 1),
    "NMIs": (small(in_before_the_optimizer_and_out, text="nop; ret", nmis=True), 1),
    "preemption": (small(in_before_the_optimizer_and_out, preempt=True, interrupts=True), 1),
    "preemption, no wait": (
        small(in_and_out, preempt=True, interrupts=True, steps=["unregister-wait"]),
        1,
    ),
    "interrupts": (small(in_before_the_optimizer_and_out, interrupts=True), 1),
    "schedule() in a call": (
        small(
            in_before_the_optimizer_and_out, text="nop; nop; ret", preempt=True, resched=(RESCHED,)
        ),
        1,
    ),
}
BROKEN = {"two vCPUs, no wait": False, "a jump, no stop_machine": True, "preemption, no wait": True}
"""Cases without one of their safety steps, and whether that shows within their bound."""


@pytest.mark.parametrize("name", CASES)
def test_a_reduced_search_has_the_outcomes_of_the_unreduced_one(pool, name):
    case, bound = CASES[name]
    found = outcomes(case, pool, bound=bound, reduce=True)
    assert found == outcomes(case, pool, bound=bound, reduce=False)
    assert any(kind != "end" for kind, *_ in found) is BROKEN.get(name, False)


# Orders of what control tasks do ------------------------------------------------------------------


def parts(k, log, name):
    """``0`` in front of a lock, ``1`` and ``2`` under it with a point between them, ``3`` behind
    it.
    """
    log.append(f"{name}0")
    k.core.kprobe_mutex.acquire("test")
    log.append(f"{name}1")
    k.core.plane.point("between")
    log.append(f"{name}2")
    k.core.kprobe_mutex.release()
    log.append(f"{name}3")


def orders(pool, *, reduce: bool) -> set[tuple[str, ...]]:
    """Each order in which the parts of two control tasks can come, by a search."""
    logs: list[list[str]] = []

    def tasks():
        log: list[str] = []
        logs.append(log)
        return [("a", lambda k: parts(k, log, "a")), ("b", lambda k: parts(k, log, "b"))]

    case = replace(small(), code=tasks, restores=False, reduce=reduce)
    with closing(open_experiment(case, pool)) as system:
        explore(Exhaustive(bound=0, recheck_every=0), system)
    return {tuple(log) for log in logs if len(log) == 8}


def all_orders() -> set[tuple[str, ...]]:
    """Each order that the lock allows: the two parts under it have nothing of the other task's
    critical section between them.
    """
    found = set()
    for places in permutations(range(8), 4):
        if list(places) != sorted(places):
            continue
        a, b = iter("0123"), iter("0123")
        order = tuple(f"a{next(a)}" if at in places else f"b{next(b)}" for at in range(8))
        first, second = sorted((order.index(f"{who}1"), order.index(f"{who}2")) for who in "ab")
        if first[1] < second[0]:
            found.add(order)
    return found


@pytest.mark.parametrize("reduce", [True, False], ids=["reduced", "unreduced"])
def test_two_tasks_that_take_a_lock_are_explored_in_each_order_that_it_allows(pool, reduce):
    assert orders(pool, reduce=reduce) == all_orders()


# What tasks tell each other by variables ----------------------------------------------------------


def first_probe(k) -> list[int]:
    """The probes at the first address of the table that has several, newest first."""
    entries = k.core.kprobe_table.values()
    return next(
        (
            [k.number_of(child) for child in entry.children]
            for entry in entries
            if hasattr(entry, "children")
        ),
        [],
    )


def by_a_list(heard):
    """One task registers a probe and looks whether the other one has said that it has registered
    another one there.
    """
    said: list[int] = []

    def listens(k):
        k.register(k.kprobe("f", number=0))
        times = len(said)
        k.settle()
        heard.append((times, first_probe(k)))

    def says(k):
        k.register(k.kprobe("f", number=1))
        said.append(1)

    return [("listens", listens), ("says", says)]


def by_a_class(heard):
    class Said:
        times = 0

    def listens(k):
        k.optimization(on=False)
        heard.append((Said.times, k.core.kprobes_allow_optimization))

    def says(k):
        k.optimization(on=True)
        Said.times += 1

    return [("listens", listens), ("says", says)]


def by_a_variable(heard):
    """What the one task has said the other one keeps in an expression that is not finished while it
    waits for a lock.
    """
    said = 0

    def listens(k):
        heard.append([said, k.register(k.kprobe("f"))])

    def says(k):
        nonlocal said
        said = 1
        k.settle()

    return [("listens", listens), ("says", says)]


def all_heard(pool, tasks, *, reduce: bool) -> set[str]:
    """What the one task has heard in some schedule of a search."""
    logs: list[list[object]] = []

    def code():
        logs.append([])
        return tasks(logs[-1])

    with closing(
        open_experiment(replace(small(), code=code, restores=False, reduce=reduce), pool)
    ) as system:
        explore(Exhaustive(bound=0, recheck_every=0), system)
    return {str(log) for log in logs if log}


HEARD = {
    by_a_list: {"[(0, [])]", "[(0, [0, 1])]", "[(0, [1, 0])]", "[(1, [0, 1])]", "[(1, [1, 0])]"},
    by_a_class: {"[(0, False)]", "[(0, True)]", "[(1, False)]", "[(1, True)]"},
    by_a_variable: {"[[0, True]]", "[[1, True]]"},
}


@pytest.mark.parametrize("tasks", HEARD, ids=lambda tasks: tasks.__name__)
@pytest.mark.parametrize("reduce", [True, False], ids=["reduced", "unreduced"])
def test_what_control_tasks_tell_each_other_comes_at_each_moment_that_it_can(pool, tasks, reduce):
    assert all_heard(pool, tasks, reduce=reduce) == HEARD[tasks]


WINDOW = (
    ".globl f\nf: cli\n call g\n sti\n ret\n.globl g\ng: nop\n call h\n nop\n nop\n sti\n nop\n"
    " cli\n nop\n ret\n.globl h\nh: ret\n"
)
"""In ``g`` IF is set at two instructions only, far from where a probe can be and from where a call
returns.
"""


def test_where_a_core_sync_ends_is_a_choice_point_wherever_it_is(pool, monkeypatch):
    """The fault shows only if an operation is over, core sync and all, between the entry of a call
    and its return.
    """
    real = Kretprobes.trampoline_handler

    def forgets_who_is_disabled(self, regs, frame):
        for ri in (ri for stack in self.open_stacks.values() for ri in stack):
            ri.rp = None if ri.rp is None or ri.rp.kp.disabled else ri.rp
        return real(self, regs, frame)

    def disables(k):
        rp = k.kretprobe("g", 4)
        k.register_return(rp)
        k.disable(rp.kp)
        k.unregister_return(rp)

    monkeypatch.setattr(Kretprobes, "trampoline_handler", forgets_who_is_disabled)
    case = replace(small(disables, profile=LINUX_6_1), image=load_asm(WINDOW, "t"))
    found = outcomes(case, pool, bound=2, reduce=True)
    assert found == outcomes(case, pool, bound=2, reduce=False)
    assert any(kind == "lost-hit" for kind, *_ in found)


# Broken on purpose --------------------------------------------------------------------------------


def not_watched(slots: bool):
    real = Places.learn

    def learn(self, node):
        watch = self.watch
        self.watch = lambda start, end: (
            None if (start in self._text.buffers) is slots else watch(start, end)
        )
        try:
            real(self, node)
        finally:
            del self.watch

    return learn


def always(value):
    return lambda *_, **__: value


def glued(*, drops: bool):
    """No stop behind a lock that was dropped, or in front of one that is free."""

    def goes_on(self, task):
        return self._now.node.just_dropped(task) if drops else self._now.node.takes_lock(task)

    return goes_on


BREAKS = {
    "what follows a lock is glued to it": (ControlSteps, "goes_on", glued(drops=True), "orders"),
    "what precedes a lock is glued to it": (ControlSteps, "goes_on", glued(drops=False), "orders"),
    "the last drop of a lock is no point": (
        SteppedPlane,
        "lock_dropped",
        lambda self, _: self._count(-1),
        "orders",
    ),
    "who holds no lock is put off": (ControlSteps, "only_waits", always(True), "orders"),
    "local variables are no part of a state": (LocalState, "value", always(0), "orders"),
    "where a control task stands is no part of a state": (
        ControlState,
        "_task",
        always(0),
        "a jump, no stop_machine",
    ),
    "the bytes of a jump are no choice points": (
        Places,
        "learn",
        not_watched(False),
        "a jump, no stop_machine",
    ),
    "slots are no choice points": (Places, "learn", not_watched(True), "preemption, no wait"),
    "all calls are made whole": (Choices, "goes_whole", always(True), "preemption, no wait"),
    "what the vCPUs do is no part of a state": (
        States,
        "vcpu_names",
        always(()),
        "a jump, no stop_machine",
    ),
    "a vCPU that is not running never goes on": (
        Choices,
        "other",
        always(()),
        "a jump, no stop_machine",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_the_law_fails_where_a_reduction_is_broken(pool, monkeypatch, name):
    where, what, broken, shows = BREAKS[name]
    if shows == "orders":
        monkeypatch.setattr(where, what, broken)
        assert orders(pool, reduce=True) < all_orders()
        return
    case, bound = CASES[shows]
    # which are those of the unreduced search, as the law has it
    right = outcomes(case, pool, bound=bound, reduce=True)
    monkeypatch.setattr(where, what, broken)
    assert outcomes(case, pool, bound=bound, reduce=True) != right


# Control states that are taken for one ------------------------------------------------------------


@pytest.mark.parametrize("profile", [LINUX_2010, LINUX_6_1], ids=lambda p: p.name)
@pytest.mark.parametrize(
    "scenario",
    [life.two_control_tasks, life.aggregation, load.enable_and_join],
    ids=lambda one: one.name,
)
def test_control_states_that_are_taken_for_one_go_on_alike(pool, profile, scenario):
    """Whichever way the control tasks came to a state, each of their next steps leads to the same
    one.
    """
    assert (
        merged_states_differ(
            experiment_of(scenario, without(profile, frozenset())), pool, nodes_max=120
        )
        == []
    )
