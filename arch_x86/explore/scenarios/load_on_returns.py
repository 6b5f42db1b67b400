"""What else meets under load, beside control tasks: return probes on one function, flags that a
handler may rely on, and hits within hits. :data:`arch_x86.explore.scenarios.load.LOAD` has them.
"""

from __future__ import annotations

from arch_x86.explore.scenario import Control, Setup, scenario
from arch_x86.explore.scenarios.images import CALLER, DIRECTION, RECURSIVE, STEPPED, TOY

__all__ = (
    "direction",
    "nmi_boosted",
    "nmi_post_handler",
    "return_and_entry",
    "return_of_a_preempted_task",
    "return_of_recursion",
    "two_return_probes",
)

_NEW = ("linux-6.1", "next")


# Return probes ------------------------------------------------------------------------------------


@scenario(image=CALLER, call="work", arguments=("5",), calls=1)
def two_return_probes(setup: Setup) -> None:
    """Two return probes on one function, one of which goes first."""

    @setup.control
    def main(k: Control) -> None:
        first, second = k.kretprobe("inner"), k.kretprobe("inner")
        k.register_return(first)
        k.register_return(second)
        k.unregister_return(first)
        k.unregister_return(second)
        k.settle()


@scenario(image=RECURSIVE, call="work", arguments=("1",), calls=2)
def return_of_recursion(setup: Setup) -> None:
    """A return probe that can follow one call at a time, on a function that calls itself."""

    @setup.control
    def main(k: Control) -> None:
        rp = k.kretprobe("work", maxactive=1)
        k.register_return(rp)
        k.unregister_return(rp)
        k.settle()


@scenario(image=CALLER, call="work", arguments=("5",), calls=2)
def return_and_entry(setup: Setup) -> None:
    """A return probe, and an ordinary probe on the entry of the same function."""

    @setup.control
    def main(k: Control) -> None:
        rp, p = k.kretprobe("inner"), k.kprobe("inner", 0)
        k.register_return(rp)
        k.register(p)
        k.unregister_return(rp)
        k.unregister(p)
        k.settle()


@scenario(
    image=STEPPED,
    call="work",
    arguments=("5",),
    calls=1,
    preempt=True,
    preemptions=1,
    profiles=("linux-2010", "linux-6.1"),
)
def return_of_a_preempted_task(setup: Setup) -> None:
    """A task is preempted in the middle of a call that a return probe follows, which goes
    meanwhile: the call ends as if unprobed.

    In next unregistering waits for such a task.
    """

    @setup.control
    def main(k: Control) -> None:
        rp = k.kretprobe("inner")
        k.register_return(rp)
        k.unregister_return(rp)


# What a handler may rely on -----------------------------------------------------------------------


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


# Hits within hits ---------------------------------------------------------------------------------


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
