"""A probe's life, and what can cross it, under load.

Each is sound in next, and without preemption in linux-2010 and linux-6.1, but for ``nmi`` and
``nmi_stepped`` in linux-2010, and ``two_control_tasks`` there with two preemptions: a hit that
finds its probe gone takes the breakpoint of the next one at the same address for nobody's.

With preemption linux-2010 breaks in all that optimize; linux-6.1 in ``register`` and ``neighbour``:
a task that is preempted in a detour buffer to which a breakpoint took it (the probe waits to be
optimized) is not waited for when the probe is unregistered before the jump is in; next does.
"""

from __future__ import annotations

from arch_x86.explore.scenario import Control, Scenario, Setup, scenario
from arch_x86.explore.scenarios.images import CALLER, TOY, TWO

__all__ = ("SCENARIOS",)


@scenario(image=TOY, call="work", arguments=("5",))
def register(setup: Setup) -> None:
    """A breakpoint goes in, and out again before the optimizer has come."""

    @setup.control
    def main(k: Control) -> None:
        p = k.kprobe("work", 4)
        k.register(p)
        k.unregister(p)
        k.settle()


@scenario(image=TOY, call="work", arguments=("5",))
def stepped(setup: Setup) -> None:
    """A site that can't be boosted: its hits are stepped, its slot is freed behind the grace period
    alone.
    """

    @setup.control
    def main(k: Control) -> None:
        p = k.kprobe("work", 2)
        k.register(p)
        k.disable(p)
        k.enable(p)
        k.unregister(p)


@scenario(image=TOY, call="work", arguments=("5",))
def boosted(setup: Setup) -> None:
    """A site that has no room for a jump: its hits run the copy and a jump back, with interrupts
    allowed.
    """

    @setup.control
    def main(k: Control) -> None:
        p = k.kprobe("work", 9)
        k.register(p)
        k.disable(p)
        k.enable(p)
        k.unregister(p)


@scenario(image=TOY, call="work", arguments=("5",))
def optimize(setup: Setup) -> None:
    """A jump goes in, and stays; at the end it goes out."""

    @setup.control
    def main(k: Control) -> None:
        p = k.kprobe("work", 4)
        k.register(p)
        k.settle()
        k.unregister(p)
        k.settle()


@scenario(image=TOY, call="work", arguments=("5",), calls=1)
def disable_enable(setup: Setup) -> None:
    """Disabled and enabled, with and without the optimizer in between."""

    @setup.control
    def main(k: Control) -> None:
        p = k.kprobe("work", 4)
        k.register(p)
        k.settle()
        k.disable(p)
        k.enable(p)
        k.settle()
        k.disable(p)
        k.settle()
        k.unregister(p)
        k.settle()


@scenario(image=TOY, call="work", arguments=("5",), calls=1)
def aggregation(setup: Setup) -> None:
    """A second probe at an optimized address, and the first one goes."""

    @setup.control
    def main(k: Control) -> None:
        first, second = k.kprobe("work", 4), k.kprobe("work", 4)
        k.register(first)
        k.settle()
        k.register(second)
        k.unregister(first)
        k.settle()
        k.unregister(second)
        k.settle()


@scenario(image=TOY, call="work", arguments=("5",), calls=1)
def post_handler_joins(setup: Setup) -> None:
    """A child that wants a post_handler forces the jump back."""

    @setup.control
    def main(k: Control) -> None:
        first, second = k.kprobe("work", 4), k.kprobe("work", 4, post=True)
        k.register(first)
        k.settle()
        k.register(second)
        k.unregister(second)
        k.settle()
        k.unregister(first)
        k.settle()


@scenario(image=TOY, call="work", arguments=("5",), calls=1)
def neighbour(setup: Setup) -> None:
    """A new probe inside an optimized one's bytes forces that back; when it has gone, the jump may
    come again.
    """

    @setup.control
    def main(k: Control) -> None:
        first, second = k.kprobe("work", 4), k.kprobe("work", 7)
        k.register(first)
        k.settle()
        k.register(second)
        k.unregister(second)
        k.settle()
        k.unregister(first)
        k.settle()


@scenario(image=TOY, call="work", arguments=("5",), calls=1)
def neighbour_first(setup: Setup) -> None:
    """A probe whose bytes hold another one stays a breakpoint."""

    @setup.control
    def main(k: Control) -> None:
        first, second = k.kprobe("work", 7), k.kprobe("work", 4)
        k.register(first)
        k.register(second)
        k.settle()
        k.unregister(second, first)
        k.settle()


@scenario(image=TOY, call="work", arguments=("5",), calls=1)
def image_removal(setup: Setup) -> None:
    """Code with an optimized probe goes away, and comes back, while other code runs."""

    @setup.control
    def main(k: Control) -> None:
        ours, theirs = k.kprobe("work", 4), k.kprobe("mod", 0)
        k.register(theirs)
        k.register(ours)
        k.settle()
        k.module_going("mod")
        k.unregister(theirs)
        k.module_back("mod")
        k.unregister(ours)
        k.settle()


@scenario(image=CALLER, call="work", arguments=("5",), calls=1)
def kretprobe_removal(setup: Setup) -> None:
    """A return probe goes away while calls of its function are in flight."""

    @setup.control
    def main(k: Control) -> None:
        rp = k.kretprobe("inner")
        k.register_return(rp)
        k.settle()
        k.unregister_return(rp)
        k.settle()


@scenario(image=TOY, call="work", arguments=("5",), calls=1)
def optimization_switch(setup: Setup) -> None:
    """sysctl kprobes-optimization off and on."""

    @setup.control
    def main(k: Control) -> None:
        p = k.kprobe("work", 4)
        k.register(p)
        k.settle()
        k.optimization(on=False)
        k.optimization(on=True)
        k.settle()
        k.unregister(p)
        k.settle()


@scenario(image=TOY, call="work", arguments=("5",), calls=1)
def enabled_switch(setup: Setup) -> None:
    """debugfs enabled off and on."""

    @setup.control
    def main(k: Control) -> None:
        p = k.kprobe("work", 4)
        k.register(p)
        k.settle()
        k.switch(on=False)
        k.switch(on=True)
        k.settle()
        k.unregister(p)
        k.settle()


@scenario(image=TOY, call="work", arguments=("5",), calls=1)
def two_control_tasks(setup: Setup) -> None:
    """Two tasks register and unregister probes at one address, at once."""

    @setup.control
    def first(k: Control) -> None:
        p = k.kprobe("work", 4, number=0)
        if k.register(p):
            k.unregister(p)
        k.settle()

    @setup.control
    def second(k: Control) -> None:
        p = k.kprobe("work", 4, number=1)
        if k.register(p):
            k.unregister(p)
        k.settle()


@scenario(image=TWO, call="work", arguments=("5",), calls=1)
def two_jumps(setup: Setup) -> None:
    """Two probes optimized in one pass."""

    @setup.control
    def main(k: Control) -> None:
        first, second = k.kprobe("work", 0), k.kprobe("work", 8)
        k.register(first)
        k.register(second)
        k.settle()
        k.unregister(first, second)
        k.settle()


@scenario(image=TOY, call="work", arguments=("5",), calls=1, nmis=True, interrupts=False)
def nmi(setup: Setup) -> None:
    """NMIs, whose handler runs the probed function: stop_machine does not cover them, text_poke_bp
    does.
    """

    @setup.control
    def main(k: Control) -> None:
        p = k.kprobe("work", 4)
        k.register(p)
        k.settle()
        k.unregister(p)
        k.settle()


@scenario(image=TOY, call="work", arguments=("5",), calls=1, nmis=True, interrupts=False)
def nmi_stepped(setup: Setup) -> None:
    """NMIs that run the probed function while a hit of it is single-stepped: 2010 is BUG()
    there.
    """

    @setup.control
    def main(k: Control) -> None:
        p = k.kprobe("work", 2)
        k.register(p)
        k.unregister(p)
        k.settle()


@scenario(image=TOY, call="work", arguments=("5",), calls=1, nmis=True, interrupts=False)
def nmi_boosted(setup: Setup) -> None:
    """NMIs that run the probed function while a hit of it runs its boosted copy: that hit is over
    for the kernel, so theirs count.
    """

    @setup.control
    def main(k: Control) -> None:
        p = k.kprobe("work", 9)
        k.register(p)
        k.unregister(p)
        k.settle()


SCENARIOS: tuple[Scenario, ...] = (
    register,
    stepped,
    boosted,
    optimize,
    disable_enable,
    aggregation,
    post_handler_joins,
    neighbour,
    neighbour_first,
    image_removal,
    kretprobe_removal,
    optimization_switch,
    enabled_switch,
    two_control_tasks,
    two_jumps,
    nmi_boosted,
)
