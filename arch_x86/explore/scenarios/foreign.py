"""Breakpoints of another user beside probes, and at their places (arch/x86/kernel/traps.c).

The user has a die notifier, counts its hits and emulates its instruction.
"""

from __future__ import annotations

from arch_x86.explore.scenario import Control, Scenario, Setup, scenario
from arch_x86.explore.scenarios.images import NOPS

__all__ = ("FOREIGN", "foreign_asks", "foreign_unasked")


def _used(k: Control, offset: int, *, asks: bool) -> None:
    """Set a breakpoint of another user in ``work`` and remove it, with the handler around both."""
    b = k.breakpoint("work", offset)
    k.register_die_notifier(b)
    k.set_breakpoint(b, asks=asks)
    k.remove_breakpoint(b)
    k.synchronize_sched()
    k.unregister_die_notifier(b)


@scenario(image=NOPS, call="work", arguments=("5",), calls=1)
def foreign_beside(setup: Setup) -> None:
    """Another user's breakpoint comes and goes in front of a probe's jump."""

    @setup.control
    def main(k: Control) -> None:
        p = k.kprobe("work", 9)
        k.register(p)
        k.settle()
        _used(k, 4, asks=True)
        k.unregister(p)
        k.settle()


@scenario(image=NOPS, call="work", arguments=("5",), calls=1)
def foreign_first(setup: Setup) -> None:
    """Another user's breakpoint stands, so no probe goes to its instruction, and no jump over it.

    The kernel reads the breakpoint where it would copy the instruction, and makes no copy.
    """

    @setup.control
    def main(k: Control) -> None:
        there, before, b = k.kprobe("work", 12), k.kprobe("work", 9), k.breakpoint("work", 12)
        k.register_die_notifier(b)
        k.set_breakpoint(b)
        k.register(there)
        k.register(before)
        k.settle()
        k.unregister(before)
        k.settle()
        k.remove_breakpoint(b)
        k.synchronize_sched()
        k.unregister_die_notifier(b)


@scenario(image=NOPS, call="work", arguments=("5",), calls=1)
def foreign_asks(setup: Setup) -> None:
    """A probe and another user's breakpoint at one place, by two control tasks: who comes second is
    refused.
    """

    @setup.control
    def prober(k: Control) -> None:
        p = k.kprobe("work", 4)
        k.register(p)
        k.settle()
        k.unregister(p)
        k.settle()

    @setup.control
    def debugger(k: Control) -> None:
        _used(k, 4, asks=True)


@scenario(image=NOPS, call="work", arguments=("5",), calls=1, preemptions=0)
def foreign_unasked(setup: Setup) -> None:
    """Another user sets its breakpoint where a probe is, and does not ask, as kgdb does not:
    kprobes take its hits, and write over the breakpoint.
    """

    @setup.control
    def main(k: Control) -> None:
        p = k.kprobe("work", 4)
        k.register(p)
        _used(k, 4, asks=False)
        k.unregister(p)
        k.settle()


FOREIGN: tuple[Scenario, ...] = (foreign_beside, foreign_first, foreign_asks)
"""Those that break nothing."""
