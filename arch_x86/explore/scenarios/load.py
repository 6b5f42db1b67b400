"""What else meets under load: two control tasks at one address or on neighbours, several probes and
return probes on one function, hits within hits, the global switches against single operations, and
code that goes away while a probe of it waits on a list.

Each of :data:`LOAD` is small, and sound in the profiles that it names as it says itself, with one
switch or interrupt that costs something.
"""

from __future__ import annotations

from arch_x86.explore.scenario import Control, Scenario, Setup, scenario
from arch_x86.explore.scenarios.images import TOY, TWO
from arch_x86.explore.scenarios.load_on_neighbours import (
    forced_back_and_gone,
    forced_back_while_it_waits,
    neighbour_at_first_byte,
    neighbour_at_last_byte,
    two_jumps_backwards,
)
from arch_x86.explore.scenarios.load_on_returns import (
    direction,
    nmi_boosted,
    nmi_post_handler,
    return_and_entry,
    return_of_a_preempted_task,
    return_of_recursion,
    two_return_probes,
)

__all__ = ("LOAD", "joined_while_disarming")

_NEW = ("linux-6.1", "next")


# Two control tasks --------------------------------------------------------------------------------


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


# Several probes at one address --------------------------------------------------------------------


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


# The switches -------------------------------------------------------------------------------------


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


# Code that goes away ------------------------------------------------------------------------------


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


LOAD: tuple[Scenario, ...] = (
    enable_and_join,
    neighbours,
    optimization_against_register,
    disabled_children,
    joins_disabled,
    registered_disabled,
    two_post_handlers,
    taken_over,
    taken_over_disabled,
    registered_while_disarmed,
    enabled_while_disarmed,
    switch_of_two,
    registered_while_unoptimized,
    neighbour_at_first_byte,
    neighbour_at_last_byte,
    forced_back_while_it_waits,
    forced_back_and_gone,
    two_jumps_backwards,
    two_return_probes,
    return_of_recursion,
    return_and_entry,
    return_of_a_preempted_task,
    direction,
    nmi_boosted,
    nmi_post_handler,
    module_going_while_listed,
    module_back_with_a_new_probe,
)
