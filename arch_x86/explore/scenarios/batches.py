"""More probes than one batch holds, with batches of one or two, so that what happens between two
batches is explored, too.

In linux-2010 a pass of the optimizer then takes that many probes in each direction and comes again
for the rest; in ``next`` that many pokes share their core syncs. linux-6.1 has no batches: there
these are scenarios of several probes.
"""

from __future__ import annotations

from arch_x86.explore.scenario import Control, Scenario, Setup, scenario
from arch_x86.explore.scenarios.images import THREE, TOY, TWO

__all__ = ("BATCHES",)


@scenario(image=TWO, call="work", arguments=("5",), calls=1, batch=1, preemptions=1)
def two_batches(setup: Setup) -> None:
    """Two jumps go in, and out, each in a batch of its own."""

    @setup.control
    def main(k: Control) -> None:
        first, second = k.kprobe("work", 0), k.kprobe("work", 8)
        k.register(first)
        k.register(second)
        k.settle()
        k.unregister(first, second)
        k.settle()


@scenario(image=THREE, call="work", arguments=("5",), calls=1, batch=1, preemptions=1)
def both_ways(setup: Setup) -> None:
    """A pass undoes one probe and optimizes another, and is not done with either list."""

    @setup.control
    def main(k: Control) -> None:
        first, second, elsewhere = k.kprobe("work", 0), k.kprobe("work", 8), k.kprobe("mod", 0)
        k.register(first)
        k.register(elsewhere)
        k.settle()
        k.disable(first)
        k.disable(elsewhere)
        k.register(second)
        k.enable(first)
        k.settle()
        k.unregister(first, second, elsewhere)
        k.settle()


@scenario(image=TOY, call="work", arguments=("5",), calls=1, batch=1, preemptions=1)
def neighbour_between_batches(setup: Setup) -> None:
    """Two probes wait to be undone when a new one comes inside the bytes of the one that the next
    batch will not take.
    """

    @setup.control
    def main(k: Control) -> None:
        outer, elsewhere, inner = k.kprobe("work", 4), k.kprobe("mod", 0), k.kprobe("work", 7)
        k.register(outer)
        k.register(elsewhere)
        k.settle()
        k.disable(outer)
        k.disable(elsewhere)
        k.register(inner)
        k.settle()
        k.enable(outer)
        k.unregister(inner)
        k.settle()
        k.unregister(outer, elsewhere)
        k.settle()


@scenario(
    image=TOY,
    call="work",
    arguments=("5",),
    calls=1,
    batch=1,
    preemptions=1,
    steps=("f1c97a1b4ef7",),
)
def dying_behind_a_batch(setup: Setup) -> None:
    """A whole batch is undone before the disabled neighbour of a probe that is enabled, so its jump
    still stands behind the next pass.
    """

    @setup.control
    def main(k: Control) -> None:
        outer = k.kprobe("work", 4, disabled=True)
        inner, elsewhere = k.kprobe("work", 7), k.kprobe("mod", 0)
        k.register(outer)
        k.register(inner)
        k.register(elsewhere)
        k.settle()
        k.disable(inner)
        k.disable(elsewhere)
        k.enable(outer)
        k.settle()
        k.unregister(outer, inner, elsewhere)
        k.settle()


@scenario(image=TOY, call="work", arguments=("5",), calls=1, batch=2, preemptions=1)
def three_in_batches_of_two(setup: Setup) -> None:
    """Three probes, two of them neighbours of which one at a time can have a jump, in batches of
    two.
    """

    @setup.control
    def main(k: Control) -> None:
        outer, inner, elsewhere = k.kprobe("work", 4), k.kprobe("work", 7), k.kprobe("mod", 0)
        k.register(outer)
        k.register(elsewhere)
        k.register(inner)
        k.settle()
        k.unregister(inner)
        k.settle()
        k.unregister(outer, elsewhere)
        k.settle()


BATCHES: tuple[Scenario, ...] = (
    two_batches,
    both_ways,
    neighbour_between_batches,
    dying_behind_a_batch,
    three_in_batches_of_two,
)
