"""Each oracle of what an operation promises, of the table and of what is left behind finds a
one-line fault of the core that is planted in a running system, and is silent without it.
"""

from __future__ import annotations

import pytest

from arch_x86.probes.x86_arch import X86Arch
from engine.core import global_switches
from engine.core.aggregation import Aggregation
from engine.core.kprobes import Kprobes
from engine.core.optimizer import Optimizer
from engine.core.optprobes import Optprobes
from engine.core.profiles import LINUX_6_1, LINUX_2010
from engine.core.transitions import ClearedAtOnce
from engine.core.unregistration import Unregistration
from engine.kprobe import KprobeFlag, Queue
from engine.patching.expectations import Life
from tests.explore.planted import (
    BROKEN,
    INSIDE,
    NO_ROOM,
    SITE,
    STEPPED,
    Fault,
    case,
    found,
    in_and_out,
    nothing,
    shows,
    two_at_once,
)


def takes_over(k):
    first, second = k.kprobe("f", 0), k.kprobe("f", 0)
    k.register(first)
    k.settle()
    k.unregister(first)
    k.register(second)
    k.unregister(second)
    k.settle()


def neighbours(k):
    """The inner one keeps the jump away as long as it is there."""
    outer, inner = k.kprobe("f", SITE), k.kprobe("f", INSIDE)
    k.register(inner)
    k.register(outer)
    k.unregister(inner)
    k.settle()
    k.unregister(outer)
    k.settle()


def switched_off(k):
    p = k.kprobe("f", SITE)
    k.register(p)
    k.settle()
    k.switch(on=False)
    k.unregister(p)
    k.settle()


def switched_off_and_on(k):
    p = k.kprobe("f", SITE)
    k.register(p)
    k.switch(on=False)
    k.switch(on=True)
    k.settle()
    k.unregister(p)
    k.settle()


def registered_while_off(k):
    p = k.kprobe("f", SITE)
    k.switch(on=False)
    k.register(p)
    k.unregister(p)


def not_optimizing(k):
    p = k.kprobe("f", SITE)
    k.register(p)
    k.settle()
    k.optimization(on=False)
    k.unregister(p)
    k.settle()


def two_disabled(k):
    first, second = k.kprobe("f", NO_ROOM), k.kprobe("f", NO_ROOM)
    k.register(first)
    k.register(second)
    k.disable(first)
    k.disable(second)
    k.enable(first)
    k.unregister(first, second)


def without_waiting(real):
    def switch(core, *, on):
        core.wait_for_kprobe_optimizer = nothing
        real(core, on=on)
        del core.wait_for_kprobe_optimizer

    return switch


def set_behind_the_loop(core, *, on):
    with core.locked("kprobes enabled"):
        for p in tuple(core.kprobe_table.values()):
            core.optprobes.arm_kprobe(p) if on else core.optprobes.disarm_kprobe(p)
        core.kprobes_all_disarmed = not on
    if not on:
        core.wait_for_kprobe_optimizer()


def arms_all_the_same(core, p, real=Kprobes._register):
    off, core.kprobes_all_disarmed = core.kprobes_all_disarmed, False
    real(core, p)
    core.kprobes_all_disarmed = off


def disabled_and_enabled(k):
    p = k.kprobe("f", STEPPED)
    k.register(p)
    k.disable(p)
    k.enable(p)
    k.unregister(p)


def leaves_it_disabled(core, p, real=Kprobes.enable_kprobe):
    real(core, p)
    core.kprobe_table[p.at].flags |= KprobeFlag.DISABLED


def leaves_it_in_the_table(unregistration, p, entry, real=Unregistration.unregister_top):
    bottom = real(unregistration, p, entry)
    unregistration._host.kprobe_table[entry.at] = entry
    return bottom


def forgets_a_parent(aggregation, old, p, real=Aggregation.register_aggr_kprobe):
    real(aggregation, old, p)
    p.parent = None


def never_says_optimized(self, op, queues, real=ClearedAtOnce.optimize):
    real(self, op, queues)
    if op.queue is Queue.OPTIMIZING:
        queues.dequeue(op)


def keeps_it_disabled(aggregation, ap, _p):
    aggregation._optprobes.optimize_kprobe(ap)


CONTROL = "engine.patching.operations"

FAULTS = {
    "kprobes-optimization=0 does not wait": Fault(
        CONTROL,
        "set_kprobes_optimization",
        without_waiting(global_switches.set_kprobes_optimization),
        not_optimizing,
        BROKEN,
        "there is a jump",
    ),
    "enabled=0 does not wait": Fault(
        CONTROL,
        "set_kprobes_enabled",
        without_waiting(global_switches.set_kprobes_enabled),
        switched_off,
        BROKEN,
        "all probes are disarmed, and e9",
    ),
    "enabled=1 says so behind the loop": Fault(
        CONTROL,
        "set_kprobes_enabled",
        set_behind_the_loop,
        switched_off_and_on,
        BROKEN,
        "may be optimized, all is settled",
    ),
    "registering arms while all are disarmed": Fault(
        Kprobes,
        "_register",
        arms_all_the_same,
        registered_while_off,
        BROKEN,
        "all probes are disarmed, and cc",
        profile=LINUX_6_1,
    ),
    "enabling leaves the aggregator disabled": Fault(
        Kprobes,
        "enable_kprobe",
        leaves_it_disabled,
        two_disabled,
        BROKEN,
        "is enabled, and its entry of the table is not",
    ),
    "enabling leaves a probe disabled that is alone at its address": Fault(
        Kprobes,
        "enable_kprobe",
        leaves_it_disabled,
        disabled_and_enabled,
        BROKEN,
        "is enabled, and its entry of the table is not",
    ),
    "unregistering leaves the table as it was": Fault(
        Unregistration,
        "unregister_top",
        leaves_it_in_the_table,
        lambda k: in_and_out(k, STEPPED),
        BROKEN,
        "the table still has it",
    ),
    "waiting for the optimizer ends while a pass is under way": Fault(
        Optimizer,
        "idle",
        property(lambda self: not (self._pending or self.waiting)),
        in_and_out,
        BROKEN,
        "a pass is scheduled or under way",
    ),
    "slots are never free again": Fault(
        X86Arch, "arch_remove_kprobe", nothing, in_and_out, BROKEN, "still in use are 1 slots"
    ),
    "detour buffers are never free again": Fault(
        X86Arch,
        "arch_remove_optimized_kprobe",
        nothing,
        in_and_out,
        BROKEN,
        "still in use are 1 detour buffers",
    ),
    "a child does not know its aggregator": Fault(
        Aggregation,
        "register_aggr_kprobe",
        forgets_a_parent,
        two_at_once,
        BROKEN,
        "and does not say so",
    ),
    "a probe is marked optimized and on no list": Fault(
        ClearedAtOnce,
        "optimize",
        never_says_optimized,
        in_and_out,
        BROKEN,
        "says that it is optimized, and has no jump",
    ),
    "a neighbour that has gone is not asked about": Fault(
        Optprobes,
        "reoptimize_neighbours",
        nothing,
        neighbours,
        BROKEN,
        "may be optimized, all is settled",
    ),
    "6.1: who takes over an aggregator leaves it disabled": Fault(
        Aggregation,
        "_reuse_unused_kprobe",
        keeps_it_disabled,
        takes_over,
        BROKEN,
        "says that it is optimized, and has no jump",
        profile=LINUX_6_1,
        image="lea eax, [rdi + rdi*2]; lea ecx, [rax + 1]; ret",
        most=20,
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_sound_code_is_not_accused(pool, monkeypatch, name):
    shows(pool, monkeypatch, FAULTS[name])


def crossing(*operations: str):
    """Two tasks, each with one operation on a probe that a third one has registered, or on all."""

    def setter(k):
        k.register(k.kprobe("f", STEPPED, number=0))

    def task(name):
        def run(k):
            if not k.probes or not k.core.is_registered(k.probes[0]):
                return
            p = k.probes[0]
            work = {"off": lambda: k.switch(on=False), "on": lambda: k.switch(on=True)}
            work.get(name, lambda: getattr(k, name)(p))()

        return run

    return [setter, *(task(name) for name in operations)]


@pytest.mark.parametrize("profile", [LINUX_2010, LINUX_6_1], ids=lambda p: p.name)
@pytest.mark.parametrize(
    "operations",
    [("disable", "enable"), ("off", "disable"), ("off", "on"), ("enable", "off")],
    ids="-".join,
)
def test_of_two_operations_on_one_probe_the_one_that_had_the_mutex_last_decides(
    pool, profile, operations
):
    one = case(*crossing(*operations), profile=profile, restores=False, interrupts=False)
    assert found(pool, one, 0) == []


def test_a_probe_that_cant_be_registered_twice_stays_what_it_was(pool):
    def main(k):
        p = k.kprobe("f", STEPPED)
        assert k.register(p)
        assert not k.register(p)
        assert k.lives[0][0] is Life.ON
        k.unregister(p)
        assert k.lives[0][0] is Life.OFF

    assert found(pool, case(main), 0) == []


def test_while_all_are_disarmed_a_probe_is_not_to_be_hit(pool):
    def main(k):
        p, q = k.kprobe("f", STEPPED), k.kprobe("f", NO_ROOM)
        k.register(p)
        k.switch(on=False)
        k.register(q)
        k.disable(p)
        assert [life for life, _ in k.lives] == [Life.DISABLED, Life.DISABLED]
        k.enable(p)  # in both kernels it may sleep on
        k.switch(on=True)
        assert [life for life, _ in k.lives] == [Life.CHANGING, Life.ON]
        k.unregister(p, q)

    assert found(pool, case(main), 0) == []
