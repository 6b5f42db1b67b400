"""Scenarios of return probes: several on one function, on a recursive one, in a preempted task."""

from __future__ import annotations

from arch_x86.explore.scenario import Control, Setup, scenario
from arch_x86.explore.scenarios.images import CALLER, RECURSIVE, STEPPED

__all__ = (
    "return_and_entry",
    "return_of_a_preempted_task",
    "return_of_recursion",
    "two_return_probes",
)


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
