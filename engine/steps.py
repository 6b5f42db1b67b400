"""What ``--without`` can leave out: safety steps, to show what each is for, with the kernels' own mends, by commit; and what is mended here
of the commit of 2010, to see what that does.

A step that is left out is left out in one place; :meth:`engine.profile.Profile.has` is the question.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from engine.errors import InputError, printable
from engine.profile import LINUX_6_1, LINUX_2010, NEXT, Profile
from engine.transitions import CancelledByFlag, ClearedAtOnce, ClearedWhenRestored

__all__ = ("MENDS", "STEPS", "Step", "steps_of", "without")

_OLD: Final = frozenset({LINUX_2010.name})
_NEW: Final = frozenset({LINUX_6_1.name, NEXT.name})
_ALL: Final = _OLD | _NEW


@dataclass(frozen=True, slots=True)
class Step:
    """One step. ``profiles``: where it means something."""

    name: str
    profiles: frozenset[str]
    what: str


STEPS: Final = (
    Step("quiescence", _ALL, "the optimizer waits for quiescence before it writes jumps"),
    Step("stop-machine", _OLD, "every CPU is parked while a jump is written"),
    Step("unregister-wait", _ALL, "unregister_kprobe() waits before it frees the slot"),
    Step("free-wait", _ALL, "the optimizer waits before it frees a detour buffer"),
    Step("slot-reuse-wait", _ALL, "a dirty slot is not used again before a grace period"),
    Step("disabled-check", _ALL, "the optimized callback asks whether its probe is disabled"),
    Step("jump-range-check", _ALL, "no jump replaces bytes that the function itself jumps into"),
    Step("neighbour-check", _ALL, "no jump replaces bytes that have another probe"),
    Step("collision-unoptimize", _ALL, "a new probe inside a jump's bytes forces that jump back first"),
    Step("int3-gone", _ALL, "a hit whose breakpoint was removed meanwhile runs the instruction again"),
    Step("bp-int3-first", _NEW, "a jump goes in behind a breakpoint"),
    Step("bp-sync-1", _NEW, "a core sync behind the breakpoint"),
    Step("bp-sync-2", _NEW, "a core sync behind the jump's tail"),
    Step("bp-sync-3", _NEW, "a core sync behind the jump's first byte"),
    Step("bp-handler", _NEW, "whoever hits that breakpoint goes on at the jump's, or the call's, destination"),
    Step("bp-refs", _NEW, "the next poke waits for who still reads the last one's descriptor"),
    Step("unopt-sync-1", _NEW, "a core sync behind the breakpoint over a jump that goes out"),
    Step("unopt-sync-2", _NEW, "a core sync behind the tail of a jump that goes out"),
    Step("f66c0447cca1", _ALL, "OPTIMIZED stays set while the jump's tail stands; but in 6.1: a jump that is armed again stays whole"),
    Step("e4add247789e", _NEW, "a decision to optimize is taken back by what list the probe is on"),
    Step("868a6fc0ca24", _NEW, "the original bytes under a jump that is being undone are recovered from its detour buffer"),
    Step("f1c97a1b4ef7", _ALL, "a disabled neighbour that still waits on a list keeps a jump off its bytes"),
    Step("4fbd2f83fda0", _NEW, "a probe forced back while it waited to be undone goes on to the freeing list"),
    Step("sysctl-deadlock", _OLD, "kprobes-optimization=0 waits for the optimizer with no lock held that it takes"),
)


MENDS: Final = (
    Step("covering-search", _OLD, "a new probe's address is looked for in the replaced bytes of each probe before it, not of the nearest"),
    Step("86b4ce3156c0", _OLD, "where a function is decoded, the original bytes under other probes' jumps are looked at"),
    Step("enabled-0-disarms", _OLD, "enabled=0 takes away the breakpoints, too, that the optimizer leaves where jumps were"),
    Step("enabled-1-optimizes", _OLD, "enabled=1 optimizes what it arms"),
    Step("reoptimize-blocked", _OLD, "a probe that a neighbour kept a breakpoint is optimized when that is disabled or goes"),
    Step("disarm-armed-only", _OLD, "disabling a probe writes nothing while all are disarmed, or where its aggregator is disabled already"),
    Step("ad72b3bea744", _OLD, "enabled=0 and kprobes-optimization=0 wait until no jump is left, each time, also for a pass under way"),
    Step("gone-unhashed", _OLD, "an unused probe whose code was removed leaves the table"),
    Step("handled-hit-ends", _OLD, "the hit is over when a pre_handler without a break_handler returns 1"),
    Step("fault-in-step", _OLD, "fault_handler is asked about a fault of the probed instruction in its single step"),
    Step("function-entry", _OLD, "return and jumper probes go to a function's first byte only"),
)
"""What is mended of kernel commit 6274de4984a6, beside what is among the steps.

``matrix`` tries none of these: they change answers, and few of them are a matter of safety.
"""


def steps_of(profile: Profile) -> tuple[Step, ...]:
    """The steps that mean something in ``profile``."""
    return tuple(step for step in STEPS if profile.name in step.profiles)


def without(profile: Profile, names: frozenset[str], *, preempt: bool = False) -> Profile:
    """``profile`` with the named steps left out.

    :param preempt: built with CONFIG_PREEMPTION.

    :raises InputError: there is no such step, or it means nothing in this profile.
    """
    known = {step.name: step for step in (*STEPS, *MENDS)}
    for name in sorted(names):
        if name not in known:
            there = ", ".join(step.name for step in known.values() if profile.name in step.profiles)
            raise InputError(f"--without {printable(name)}: no such step; give one of {there}")
        if profile.name not in known[name].profiles:
            where = ", ".join(sorted(known[name].profiles))
            raise InputError(f"--without {name}: means nothing in {profile.name}; it is a step of {where}")
    ablated = replace(profile, without=profile.without | names, preemption=preempt)
    if "f66c0447cca1" in names and isinstance(profile.transitions, ClearedWhenRestored):
        ablated = replace(ablated, transitions=ClearedAtOnce())
    elif "e4add247789e" in names:
        ablated = replace(ablated, transitions=CancelledByFlag())
    if "f1c97a1b4ef7" in names:
        ablated = replace(ablated, dying_blocks=False)
    if "covering-search" in names:
        ablated = replace(ablated, looks_at_nearest_only=True)
    if "reoptimize-blocked" in names:
        ablated = replace(ablated, reoptimizes_neighbour=False)
    return ablated
