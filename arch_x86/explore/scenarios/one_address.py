"""Scenarios of several probes at one address: disabled, joined and taken over."""

from __future__ import annotations

from arch_x86.explore.scenario import Control, Setup, scenario
from arch_x86.explore.scenarios.images import TOY

__all__ = (
    "disabled_children",
    "joins_disabled",
    "registered_disabled",
    "taken_over",
    "taken_over_disabled",
    "two_post_handlers",
)

_NEW = ("linux-6.1", "next")


@scenario(image=TOY, call="work", arguments=("5",), calls=1)
def disabled_children(setup: Setup) -> None:
    """Of two probes at one address each is disabled in turn, then both, and both are enabled
    again.
    """

    @setup.control
    def main(k: Control) -> None:
        first, second = k.kprobe("work", 2), k.kprobe("work", 2)
        k.register(first)
        k.register(second)
        k.disable(first)
        k.disable(second)
        k.enable(first)
        k.enable(second)
        k.disable(second)
        k.unregister(first)
        k.unregister(second)


@scenario(image=TOY, call="work", arguments=("5",), calls=1)
def joins_disabled(setup: Setup) -> None:
    """A probe joins one that is disabled, and that one is enabled later, both optimized then."""

    @setup.control
    def main(k: Control) -> None:
        first, second = k.kprobe("work", 4), k.kprobe("work", 4)
        k.register(first)
        k.disable(first)
        k.register(second)
        k.settle()
        k.enable(first)
        k.unregister(second, first)
        k.settle()


@scenario(image=TOY, call="work", arguments=("5",), calls=1)
def registered_disabled(setup: Setup) -> None:
    """A probe comes disabled, and is enabled later."""

    @setup.control
    def main(k: Control) -> None:
        p = k.kprobe("work", 4, disabled=True)
        k.register(p)
        k.settle()
        k.enable(p)
        k.settle()
        k.unregister(p)
        k.settle()


@scenario(image=TOY, call="work", arguments=("5",), calls=1)
def two_post_handlers(setup: Setup) -> None:
    """Two probes with post_handlers at one address: one is disabled, one goes, the other one is
    called all the time.
    """

    @setup.control
    def main(k: Control) -> None:
        first, second = k.kprobe("work", 9, post=True), k.kprobe("work", 9, post=True)
        k.register(first)
        k.register(second)
        k.disable(first)
        k.enable(first)
        k.unregister(second)
        k.unregister(first)
        k.settle()


@scenario(image=TOY, call="work", arguments=("5",), calls=1, profiles=_NEW)
def taken_over(setup: Setup) -> None:
    """A probe comes where the last one has just gone, whose jump still stands: it takes that
    over.
    """

    @setup.control
    def main(k: Control) -> None:
        first, second = k.kprobe("work", 4), k.kprobe("work", 4)
        k.register(first)
        k.settle()
        k.unregister(first)
        k.register(second)
        k.settle()
        k.unregister(second)
        k.settle()


@scenario(image=TOY, call="work", arguments=("5",), calls=1, profiles=("next",))
def taken_over_disabled(setup: Setup) -> None:
    """The same by a probe that comes disabled: no handler runs, and all goes when it goes."""

    @setup.control
    def main(k: Control) -> None:
        first, second = k.kprobe("work", 4), k.kprobe("work", 4, disabled=True)
        k.register(first)
        k.settle()
        k.unregister(first)
        k.register(second)
        k.settle()
        k.unregister(second)
        k.settle()
