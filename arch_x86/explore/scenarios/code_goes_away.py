"""Scenarios of code that goes away, or comes back, while a probe of it waits on a list."""

from __future__ import annotations

from arch_x86.explore.scenario import Control, Setup, scenario
from arch_x86.explore.scenarios.images import TOY

__all__ = ("joined_while_disarming", "module_back_with_a_new_probe", "module_going_while_listed")


@scenario(image=TOY, call="work", arguments=("5",), calls=1)
def module_going_while_listed(setup: Setup) -> None:
    """Code goes away while a probe of it waits for its jump, and that of another one waits to be
    undone.
    """

    @setup.control
    def main(k: Control) -> None:
        ours, theirs = k.kprobe("work", 4), k.kprobe("mod", 0)
        k.register(ours)
        k.register(theirs)
        k.settle()
        k.unregister(theirs)
        k.module_going("mod")
        k.settle()
        k.module_back("mod")
        k.unregister(ours)
        k.settle()


@scenario(image=TOY, call="work", arguments=("5",), calls=1)
def module_back_with_a_new_probe(setup: Setup) -> None:
    """Code comes back, and a new probe joins the one of before, which is gone for good."""

    @setup.control
    def main(k: Control) -> None:
        ours, before, after = k.kprobe("work", 4), k.kprobe("mod", 0), k.kprobe("mod", 0)
        k.register(ours)
        k.register(before)
        k.settle()
        k.module_going("mod")
        k.module_back("mod")
        k.register(after)
        k.settle()
        k.unregister(before)
        k.unregister(after, ours)
        k.settle()


@scenario(image=TOY, call="work", arguments=("5",), calls=1, preemptions=0)
def joined_while_disarming(setup: Setup) -> None:
    """A second probe joins a disabled one, whose jump waits to be undone, while all probes are
    being disarmed. linux-6.1 leaves the breakpoint there, and when both probes are gone it is
    nobody's.
    """

    @setup.control
    def first(k: Control) -> None:
        p = k.kprobe("work", 4, number=0)
        if k.register(p):
            k.settle()
            k.disable(p)
            k.switch(on=False)
            k.unregister(p)

    @setup.control
    def second(k: Control) -> None:
        p = k.kprobe("work", 4, number=1)
        if k.register(p):
            k.unregister(p)
