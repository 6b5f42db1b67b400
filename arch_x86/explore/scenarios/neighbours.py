"""Scenarios of probes in each other's replaced bytes, and of two jumps of one pass."""

from __future__ import annotations

from arch_x86.explore.scenario import Control, Setup, scenario
from arch_x86.explore.scenarios.images import SHORT, TOY, TWO

__all__ = (
    "forced_back_and_gone",
    "forced_back_while_it_waits",
    "neighbour_at_first_byte",
    "neighbour_at_last_byte",
    "two_jumps_backwards",
)


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
