"""Scenarios of what a handler may rely on, and of hits in NMIs within a hit."""

from __future__ import annotations

from arch_x86.explore.scenario import Control, Setup, scenario
from arch_x86.explore.scenarios.images import DIRECTION, TOY

__all__ = ("direction", "nmi_boosted", "nmi_post_handler")

_NEW = ("linux-6.1", "next")


@scenario(image=DIRECTION, call="work", arguments=("5",), calls=1)
def direction(setup: Setup) -> None:
    """DF is set where a probe is hit, by breakpoint and by jump: its handler has it clear, and the
    code goes on with it set.
    """

    @setup.control
    def main(k: Control) -> None:
        p = k.kprobe("work", 2)
        k.register(p)
        k.settle()
        k.unregister(p)
        k.settle()


@scenario(image=TOY, call="work", arguments=("5",), calls=1, nmis=True, interrupts=False)
def nmi_boosted(setup: Setup) -> None:
    """NMIs whose handler runs a function with a boosted probe, in its handlers and in its copy,
    too.
    """

    @setup.control
    def main(k: Control) -> None:
        p = k.kprobe("work", 9)
        k.register(p)
        k.unregister(p)


@scenario(
    image=TOY,
    call="work",
    arguments=("5",),
    calls=1,
    nmis=True,
    interrupts=False,
    preemptions=1,
    profiles=_NEW,
)
def nmi_post_handler(setup: Setup) -> None:
    """NMIs that hit a stepped probe in its handlers and in its step: its post_handler is called for
    the hits, and not for the misses.
    """

    @setup.control
    def main(k: Control) -> None:
        p = k.kprobe("work", 2, post=True)
        k.register(p)
        k.unregister(p)
