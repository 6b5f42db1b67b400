"""What else meets under load: two control tasks at one address or on neighbours, several probes and
return probes on one function, hits within hits, the global switches against single operations, and
code that goes away while a probe of it waits on a list.

Each of :data:`LOAD` is small, and sound in the profiles that it names as it says itself, with one
switch or interrupt that costs something.
"""

from __future__ import annotations

from arch_x86.explore.scenario import Control, Scenario, Setup, scenario
from arch_x86.explore.scenarios.images import CALLER, DIRECTION, RECURSIVE, SHORT, STEPPED, TOY, TWO

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


# Neighbours ---------------------------------------------------------------------------------------


@scenario(image=SHORT, call="work", arguments=("5",), calls=1, preemptions=0)
def neighbour_at_first_byte(setup: Setup) -> None:
    """A probe comes one byte behind an optimized one, and goes again."""

    @setup.control
    def main(k: Control) -> None:
        outer, inner = k.kprobe("work", 0), k.kprobe("work", 1)
        k.register(outer)
        k.settle()
        k.register(inner)
        k.unregister(inner)
        k.unregister(outer)
        k.settle()


@scenario(image=SHORT, call="work", arguments=("5",), calls=1)
def neighbour_at_last_byte(setup: Setup) -> None:
    """A probe comes at the last byte that a jump replaces, and is there when the jump would come
    again.
    """

    @setup.control
    def main(k: Control) -> None:
        outer, inner = k.kprobe("work", 0), k.kprobe("work", 4)
        k.register(outer)
        k.settle()
        k.register(inner)
        k.disable(outer)
        k.enable(outer)
        k.settle()
        k.unregister(inner, outer)
        k.settle()


@scenario(image=TOY, call="work", arguments=("5",), calls=1, preemptions=0)
def forced_back_while_it_waits(setup: Setup) -> None:
    """A probe inside the bytes of one that is disabled, and whose jump waits to be undone; that one
    is enabled again.
    """

    @setup.control
    def main(k: Control) -> None:
        outer, inner = k.kprobe("work", 4), k.kprobe("work", 7)
        k.register(outer)
        k.settle()
        k.disable(outer)
        k.register(inner)
        k.enable(outer)
        k.unregister(inner)
        k.settle()
        k.unregister(outer)
        k.settle()


@scenario(image=TOY, call="work", arguments=("5",), calls=1)
def forced_back_and_gone(setup: Setup) -> None:
    """A probe inside the bytes of one that is disabled, and whose jump waits to be undone; that one
    goes as it is.
    """

    @setup.control
    def main(k: Control) -> None:
        outer, inner = k.kprobe("work", 4), k.kprobe("work", 7)
        k.register(outer)
        k.settle()
        k.disable(outer)
        k.register(inner)
        k.unregister(outer)
        k.unregister(inner)
        k.settle()


@scenario(image=TWO, call="work", arguments=("5",), calls=1)
def two_jumps_backwards(setup: Setup) -> None:
    """Two probes optimized in one pass, the one with the higher address listed first."""

    @setup.control
    def main(k: Control) -> None:
        first, second = k.kprobe("work", 8), k.kprobe("work", 0)
        k.register(first)
        k.register(second)
        k.settle()
        k.unregister(second, first)
        k.settle()


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
