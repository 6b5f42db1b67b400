"""What each safety step is for: the scenarios that show it, and where a step is not needed, why."""

from __future__ import annotations

from typing import Final

from arch_x86.explore.scenario import Control, Scenario, Setup, scenario
from arch_x86.explore.scenarios.history import HISTORY
from arch_x86.explore.scenarios.images import LOOP, TOY, TWO
from arch_x86.explore.scenarios.life import SCENARIOS
from arch_x86.explore.scenarios.two_patchers import TWO_PATCHERS
from engine.patching.matrix import ShownSteps

__all__ = ("NOT_NEEDED", "SHOWN", "scenarios_for")


@scenario(image=TOY, call="work", arguments=("5",), calls=1)
def whole_life(setup: Setup) -> None:
    """What ``check`` does: registered, optimized, disabled, enabled, optimized, unregistered."""

    @setup.control
    def main(k: Control) -> None:
        p = k.kprobe("work", 4)
        k.register(p)
        k.settle()
        k.disable(p)
        k.enable(p)
        k.settle()
        k.unregister(p)
        k.settle()


@scenario(image=LOOP, call="work", arguments=("5",), calls=1)
def jump_into_range(setup: Setup) -> None:
    """The function jumps into the bytes that a jump would replace."""

    @setup.control
    def main(k: Control) -> None:
        p = k.kprobe("work", 7)
        k.register(p)
        k.settle()
        k.unregister(p)
        k.settle()


@scenario(image=TWO, call="work", arguments=("5",), calls=1)
def slot_reuse(setup: Setup) -> None:
    """A slot is freed, and the next probe asks for one."""

    @setup.control
    def main(k: Control) -> None:
        first, second = k.kprobe("work", 6), k.kprobe("work", 8)
        k.register(first)
        k.unregister(first)
        k.register(second)
        k.unregister(second)
        k.settle()


@scenario(image=TWO, call="work", arguments=("5",), calls=1)
def two_passes(setup: Setup) -> None:
    """A probe optimized, then another one: in next, too, two batches of pokes."""

    @setup.control
    def main(k: Control) -> None:
        first, second = k.kprobe("work", 0), k.kprobe("work", 8)
        k.register(first)
        k.settle()
        k.register(second)
        k.settle()
        k.unregister(first, second)
        k.settle()


_BY_NAME: Final = {
    one.name: one
    for one in (
        *SCENARIOS,
        *HISTORY,
        *TWO_PATCHERS,
        whole_life,
        jump_into_range,
        slot_reuse,
        two_passes,
    )
}
_SHOWN_BY: Final = {
    "unregister-wait": ("stepped", "boosted", "register"),
    "slot-reuse-wait": ("slot-reuse",),
    "jump-range-check": ("jump-into-range",),
    "neighbour-check": ("neighbour-first",),
    "collision-unoptimize": ("neighbour",),
    "reserved-text": ("probe-on-branch", "jump-over-branch"),
    "text-mutex": ("probe-beside-branch",),
    "bp-refs": ("two-jumps", "two-passes"),
    "sysctl-deadlock": ("sysctl-deadlock",),
    "f66c0447cca1": ("f66c0447cca1",),
    "e4add247789e": ("e4add247789e",),
    "dec8784c9088": ("dec8784c9088",),
    "868a6fc0ca24": ("868a6fc0ca24",),
    "f1c97a1b4ef7": ("f1c97a1b4ef7",),
    "4fbd2f83fda0": ("4fbd2f83fda0",),
}


def scenarios_for(step: str | None) -> tuple[Scenario, ...]:
    """Those that show what ``step`` is for; None: what holds with all steps."""
    if step is None:
        return (_BY_NAME["whole-life"],)
    return tuple(_BY_NAME[name] for name in _SHOWN_BY.get(step, ("whole-life",)))


_COHERENT: Final = "with coherent fetches every CPU sees a write at once"
_OWN_FLAG: Final = "each probe under the aggregator has a flag of its own, and that is asked, too"
_AFTER_GRACE: Final = "a slot is freed behind a grace period already, so nobody is in a dirty one"

_BY_BREAKPOINT: Final = {
    "disabled-check": _OWN_FLAG,
    "slot-reuse-wait": _AFTER_GRACE,
    "bp-sync-1": _COHERENT,
    "bp-sync-2": _COHERENT,
    "bp-sync-3": _COHERENT,
    "unopt-sync-1": _COHERENT,
    "unopt-sync-2": _COHERENT,
    "int3-gone": (
        "behind the breakpoint's removal comes a sync with every CPU, which one in a trap refuses"
    ),
    "bp-handler": (
        "the probe is in the table: its own breakpoint handler takes the hit to the detour's"
        " copies; of one that is made of ftrace, which has none, the step is needed"
    ),
    "bp-refs": "a sync with every CPU, which a CPU in the handler refuses, comes between two pokes",
}

NOT_NEEDED: Final = {
    ("quiescence", "linux-2010"): "stop_machine parks no CPU inside a call",
    ("disabled-check", "linux-2010"): _OWN_FLAG,
    ("slot-reuse-wait", "linux-2010"): _AFTER_GRACE,
    **{
        (step, profile): why
        for profile in ("linux-6.1", "next")
        for step, why in _BY_BREAKPOINT.items()
    },
}
"""By step and profile, why leaving it out breaks nothing."""

_NEEDED_LATE: Final = frozenset(step for step, why in _BY_BREAKPOINT.items() if why is _COHERENT)

SHOWN: Final = ShownSteps(scenarios_for, NOT_NEEDED, _NEEDED_LATE)
