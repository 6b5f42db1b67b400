"""Scenarios of two control tasks at one address, on neighbours, or against a global switch."""

from __future__ import annotations

from arch_x86.explore.scenario import Control, Setup, scenario
from arch_x86.explore.scenarios.images import TOY

__all__ = ("enable_and_join", "neighbours", "optimization_against_register")


@scenario(image=TOY, call="work", arguments=("5",), calls=1, preemptions=0)
def enable_and_join(setup: Setup) -> None:
    """One task disables and enables a probe, and another one registers a second probe at its
    address meanwhile.
    """

    @setup.control
    def first(k: Control) -> None:
        p = k.kprobe("work", 2, number=0)
        k.register(p)
        k.disable(p)
        k.enable(p)
        k.unregister(p)

    @setup.control
    def second(k: Control) -> None:
        p = k.kprobe("work", 2, number=1)
        k.register(p)
        k.unregister(p)


@scenario(image=TOY, call="work", arguments=("5",), calls=1, preemptions=0, interrupts=False)
def neighbours(setup: Setup) -> None:
    """One task registers a probe that can be optimized, and another one registers a probe inside
    the bytes that a jump would replace.
    """

    @setup.control
    def outer(k: Control) -> None:
        p = k.kprobe("work", 4, number=0)
        k.register(p)
        k.unregister(p)

    @setup.control
    def inner(k: Control) -> None:
        p = k.kprobe("work", 7, number=1, post=True)
        k.register(p)
        k.unregister(p)


@scenario(image=TOY, call="work", arguments=("5",), calls=1, preemptions=0, interrupts=False)
def optimization_against_register(setup: Setup) -> None:
    """kprobes-optimization goes off and on while another task registers and unregisters a probe
    that can be optimized.
    """

    @setup.control
    def main(k: Control) -> None:
        p = k.kprobe("work", 4)
        k.register(p)
        k.unregister(p)

    @setup.control
    def sysctl(k: Control) -> None:
        k.optimization(on=False)
        k.optimization(on=True)
        k.settle()
