"""Scenarios of the global switches against single operations."""

from __future__ import annotations

from arch_x86.explore.scenario import Control, Setup, scenario
from arch_x86.explore.scenarios.images import TOY, TWO

__all__ = (
    "enabled_while_disarmed",
    "registered_while_disarmed",
    "registered_while_unoptimized",
    "switch_of_two",
)


@scenario(image=TOY, call="work", arguments=("5",), calls=1)
def registered_while_disarmed(setup: Setup) -> None:
    """While all are disarmed a probe comes, another one joins it, and one goes."""

    @setup.control
    def main(k: Control) -> None:
        first, second = k.kprobe("work", 4), k.kprobe("work", 4)
        k.switch(on=False)
        k.register(first)
        k.register(second)
        k.unregister(second)
        k.switch(on=True)
        k.settle()
        k.unregister(first)
        k.settle()


@scenario(image=TOY, call="work", arguments=("5",), calls=1, profiles=("next",))
def enabled_while_disarmed(setup: Setup) -> None:
    """While all are disarmed a probe is disabled and enabled: it is armed when all are."""

    @setup.control
    def main(k: Control) -> None:
        p = k.kprobe("work", 2)
        k.register(p)
        k.switch(on=False)
        k.disable(p)
        k.enable(p)
        k.switch(on=True)
        k.unregister(p)


@scenario(image=TWO, call="work", arguments=("5",), calls=1, preemptions=0)
def switch_of_two(setup: Setup) -> None:
    """enabled off and on with two probes, one of them disabled, and a third one that is on."""

    @setup.control
    def main(k: Control) -> None:
        first, second, third = k.kprobe("work", 3), k.kprobe("work", 11), k.kprobe("work", 13)
        k.register(first)
        k.register(second)
        k.register(third)
        k.disable(second)
        k.switch(on=False)
        k.switch(on=True)
        k.unregister(first, second, third)
        k.settle()


@scenario(image=TOY, call="work", arguments=("5",), calls=1)
def registered_while_unoptimized(setup: Setup) -> None:
    """While kprobes-optimization is 0 a probe comes, and another one joins it; with 1 again they
    are optimized.
    """

    @setup.control
    def main(k: Control) -> None:
        first, second = k.kprobe("work", 4), k.kprobe("work", 4)
        k.optimization(on=False)
        k.register(first)
        k.settle()
        k.register(second)
        k.optimization(on=True)
        k.settle()
        k.unregister(first, second)
        k.settle()
