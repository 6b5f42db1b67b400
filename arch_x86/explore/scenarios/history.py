"""Faults from the kernel's history: each scenario fails without the commit that mended it, and
passes with it.
"""

from __future__ import annotations

from arch_x86.explore.scenario import Control, Scenario, Setup, scenario
from arch_x86.explore.scenarios.images import NOPS, TOY

__all__ = ("HISTORY",)

_NEW = ("linux-6.1", "next")


@scenario(
    image=TOY,
    call="work",
    arguments=("5",),
    calls=1,
    preemptions=1,
    profiles=("linux-2010",),
    steps=("sysctl-deadlock",),
)
def sysctl_deadlock(setup: Setup) -> None:
    """kprobes-optimization=0 waits for the optimizer's first pass, which wants the mutex that it
    holds: nobody goes on, ever.

    6274de4984a6 itself. Behind the first pass since boot its completion is done for good, and
    nobody waits.
    """

    @setup.control
    def main(k: Control) -> None:
        p = k.kprobe("work", 4)
        k.register(p)
        k.optimization(on=False)
        k.unregister(p)
        k.settle()


@scenario(image=TOY, call="work", arguments=("5",), calls=1, preemptions=1, steps=("f66c0447cca1",))
def f66c0447cca1(setup: Setup) -> None:
    """A breakpoint stands over a jump's tail, and the flag that says so is gone already: a hit goes
    on in the middle of an instruction.

    kprobes: Set unoptimized flag after unoptimizing code (v5.6).
    """

    @setup.control
    def main(k: Control) -> None:
        p = k.kprobe("work", 4)
        k.register(p)
        k.settle()
        k.disable(p)
        k.enable(p)
        k.unregister(p)
        k.settle()


@scenario(
    image=TOY,
    call="work",
    arguments=("5",),
    calls=1,
    preemptions=1,
    profiles=_NEW,
    steps=("e4add247789e",),
)
def e4add247789e(setup: Setup) -> None:
    """Registered, unregistered and registered again before the worker runs: what list the probe is
    on, and what its flag says, disagree.

    kprobes: Fix optimize_kprobe()/unoptimize_kprobe() cancellation logic (v5.6).
    """

    @setup.control
    def main(k: Control) -> None:
        p, again = k.kprobe("work", 4), k.kprobe("work", 4)
        k.register(p)
        k.settle()
        k.unregister(p)
        k.register(again)
        k.unregister(again)
        k.settle()


@scenario(
    image=NOPS,
    call="work",
    arguments=("5",),
    calls=1,
    preemptions=1,
    profiles=_NEW,
    steps=("dec8784c9088",),
)
def dec8784c9088(setup: Setup) -> None:
    """A probe is single-stepped, and the CPU's next breakpoint is another user's: it is taken for
    the end of that step.

    x86/kprobes: Update kcb status flag after singlestepping (v6.0).
    """

    @setup.control
    def main(k: Control) -> None:
        p, b = k.kprobe("work", 2), k.breakpoint("work", 4)
        k.register(p)
        k.register_die_notifier(b)
        k.set_breakpoint(b)
        k.remove_breakpoint(b)
        k.unregister_die_notifier(b)
        k.unregister(p)
        k.settle()


@scenario(
    image=TOY,
    call="work",
    arguments=("5",),
    calls=1,
    preemptions=1,
    profiles=_NEW,
    steps=("868a6fc0ca24",),
)
def x868a6fc0ca24(setup: Setup) -> None:
    """A neighbour registered while this one's jump is being undone copies the jump's bytes as the
    original.

    x86/kprobes: Fix __recover_optprobed_insn check optimizing logic (v6.3).
    """

    @setup.control
    def main(k: Control) -> None:
        inner, outer = k.kprobe("work", 7), k.kprobe("work", 4)
        k.register(inner)
        k.settle()
        k.disable(inner)
        k.register(outer)
        k.settle()
        k.disable(outer)
        k.enable(outer)
        k.settle()
        k.unregister(outer, inner)
        k.settle()


@scenario(image=TOY, call="work", arguments=("5",), calls=1, preemptions=1, steps=("f1c97a1b4ef7",))
def f1c97a1b4ef7(setup: Setup) -> None:
    """A disabled neighbour's jump still stands, and the detour of the new probe returns into the
    middle of it.

    x86/kprobes: Fix arch_check_optimized_kprobe check within optimized_kprobe range (v6.3).
    """

    @setup.control
    def main(k: Control) -> None:
        inner, outer = k.kprobe("work", 7), k.kprobe("work", 4)
        k.register(inner)
        k.settle()
        k.disable(inner)
        k.register(outer)
        k.settle()
        k.unregister(outer, inner)
        k.settle()


@scenario(
    image=TOY,
    call="work",
    arguments=("5",),
    calls=1,
    preemptions=1,
    profiles=_NEW,
    steps=("4fbd2f83fda0",),
)
def x4fbd2f83fda0(setup: Setup) -> None:
    """A probe inside a just unregistered one forces it back; with nothing else to undo, the
    optimizer never cleans it up.

    kprobes: Fix to handle forcibly unoptimized kprobes on freeing_list (v6.3).
    """

    @setup.control
    def main(k: Control) -> None:
        outer, inner = k.kprobe("work", 4), k.kprobe("work", 7)
        k.register(outer)
        k.settle()
        k.unregister(outer)
        k.register(inner)
        k.settle()
        k.unregister(inner)
        k.settle()


HISTORY: tuple[Scenario, ...] = (
    sysctl_deadlock,
    f66c0447cca1,
    e4add247789e,
    dec8784c9088,
    x868a6fc0ca24,
    f1c97a1b4ef7,
    x4fbd2f83fda0,
)
