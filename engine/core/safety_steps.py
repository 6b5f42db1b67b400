"""The safety steps and mends that ``--without`` can leave out. Answers to kernel/kprobes.c.

A safety step is left out to show what it is for; some go by the commit that brought them. A mend is
a fault of the commit of 2010 that is repaired here; leaving it out shows what the fault does. The
code asks :meth:`engine.core.profiles.Profile.has` at the one place where it takes a step.
docs/steps.md has the kernel function of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

__all__ = ("MENDS", "STEPS", "SafetyStep", "Step")

_OLD: Final = frozenset({"linux-2010"})
_NEW: Final = frozenset({"linux-6.1", "next"})
_ALL: Final = _OLD | _NEW


class SafetyStep(StrEnum):
    """The names of the safety steps and mends.

    A commit of Linux goes by the first twelve digits of its hash.
    """

    QUIESCENCE = "quiescence"
    STOP_MACHINE = "stop-machine"
    UNREGISTER_WAIT = "unregister-wait"
    FREE_WAIT = "free-wait"
    SLOT_REUSE_WAIT = "slot-reuse-wait"
    DISABLED_CHECK = "disabled-check"
    JUMP_RANGE_CHECK = "jump-range-check"
    NEIGHBOUR_CHECK = "neighbour-check"
    COLLISION_UNOPTIMIZE = "collision-unoptimize"
    RESERVED_TEXT = "reserved-text"
    INT3_GONE = "int3-gone"
    TEXT_MUTEX = "text-mutex"
    BP_INT3_FIRST = "bp-int3-first"
    BP_SYNC_1 = "bp-sync-1"
    BP_SYNC_2 = "bp-sync-2"
    BP_SYNC_3 = "bp-sync-3"
    BP_HANDLER = "bp-handler"
    BP_REFS = "bp-refs"
    UNOPT_SYNC_1 = "unopt-sync-1"
    UNOPT_SYNC_2 = "unopt-sync-2"
    COMMIT_F66C0447CCA1 = "f66c0447cca1"
    COMMIT_E4ADD247789E = "e4add247789e"
    COMMIT_DEC8784C9088 = "dec8784c9088"
    COMMIT_868A6FC0CA24 = "868a6fc0ca24"
    COMMIT_F1C97A1B4EF7 = "f1c97a1b4ef7"
    COMMIT_4FBD2F83FDA0 = "4fbd2f83fda0"
    SYSCTL_DEADLOCK = "sysctl-deadlock"
    COVERING_SEARCH = "covering-search"
    COMMIT_86B4CE3156C0 = "86b4ce3156c0"
    ENABLED_0_DISARMS = "enabled-0-disarms"
    ENABLED_1_OPTIMIZES = "enabled-1-optimizes"
    REOPTIMIZE_BLOCKED = "reoptimize-blocked"
    DISARM_ARMED_ONLY = "disarm-armed-only"
    COMMIT_AD72B3BEA744 = "ad72b3bea744"
    GONE_UNHASHED = "gone-unhashed"
    HANDLED_HIT_ENDS = "handled-hit-ends"
    FAULT_IN_STEP = "fault-in-step"
    FUNCTION_ENTRY = "function-entry"


@dataclass(frozen=True, slots=True)
class Step:
    """A safety step or mend as people read of it.

    :ivar profiles: the names of the profiles where it means something.
    :ivar what: what it does.
    """

    name: SafetyStep
    profiles: frozenset[str]
    what: str


STEPS: Final = (
    Step(SafetyStep.QUIESCENCE, _ALL, "the optimizer waits for quiescence before it writes jumps"),
    Step(SafetyStep.STOP_MACHINE, _OLD, "every CPU is parked while a jump is written"),
    Step(SafetyStep.UNREGISTER_WAIT, _ALL, "unregister_kprobe() waits before it frees the slot"),
    Step(SafetyStep.FREE_WAIT, _ALL, "the optimizer waits before it frees a detour buffer"),
    Step(SafetyStep.SLOT_REUSE_WAIT, _ALL, "a dirty slot is not used again before a grace period"),
    Step(
        SafetyStep.DISABLED_CHECK, _ALL, "the optimized callback asks whether its probe is disabled"
    ),
    Step(
        SafetyStep.JUMP_RANGE_CHECK,
        _ALL,
        "no jump replaces bytes that the function itself jumps into",
    ),
    Step(SafetyStep.NEIGHBOUR_CHECK, _ALL, "no jump replaces bytes that have another probe"),
    Step(
        SafetyStep.COLLISION_UNOPTIMIZE,
        _ALL,
        "a new probe inside a jump's bytes forces that jump back first",
    ),
    Step(
        SafetyStep.RESERVED_TEXT,
        _ALL,
        "no probe goes to, and no jump replaces, text that the kernel patches itself",
    ),
    Step(
        SafetyStep.INT3_GONE,
        _ALL,
        "a hit whose breakpoint was removed meanwhile runs the instruction again",
    ),
    Step(SafetyStep.TEXT_MUTEX, _NEW, "one task at a time writes text"),
    Step(SafetyStep.BP_INT3_FIRST, _NEW, "a jump goes in behind a breakpoint"),
    Step(SafetyStep.BP_SYNC_1, _NEW, "a core sync behind the breakpoint"),
    Step(SafetyStep.BP_SYNC_2, _NEW, "a core sync behind the jump's tail"),
    Step(SafetyStep.BP_SYNC_3, _NEW, "a core sync behind the jump's first byte"),
    Step(
        SafetyStep.BP_HANDLER,
        _NEW,
        "whoever hits that breakpoint goes on at the jump's, or the call's, destination",
    ),
    Step(
        SafetyStep.BP_REFS,
        _NEW,
        "the next poke waits for who still reads the last one's descriptor",
    ),
    Step(
        SafetyStep.UNOPT_SYNC_1, _NEW, "a core sync behind the breakpoint over a jump that goes out"
    ),
    Step(SafetyStep.UNOPT_SYNC_2, _NEW, "a core sync behind the tail of a jump that goes out"),
    Step(
        SafetyStep.COMMIT_F66C0447CCA1,
        _ALL,
        "OPTIMIZED stays set while the jump's tail stands; "
        "but in 6.1: a jump that is armed again stays whole",
    ),
    Step(
        SafetyStep.COMMIT_E4ADD247789E,
        _NEW,
        "a decision to optimize is taken back by what list the probe is on",
    ),
    Step(
        SafetyStep.COMMIT_DEC8784C9088,
        _NEW,
        "a single step that is over is over for the CPU's status, also without a post_handler",
    ),
    Step(
        SafetyStep.COMMIT_868A6FC0CA24,
        _NEW,
        "the original bytes under a jump that is being undone are recovered from its detour buffer",
    ),
    Step(
        SafetyStep.COMMIT_F1C97A1B4EF7,
        _ALL,
        "a disabled neighbour that still waits on a list keeps a jump off its bytes",
    ),
    Step(
        SafetyStep.COMMIT_4FBD2F83FDA0,
        _NEW,
        "a probe forced back while it waited to be undone goes on to the freeing list",
    ),
    Step(
        SafetyStep.SYSCTL_DEADLOCK,
        _OLD,
        "kprobes-optimization=0 waits for the optimizer with no lock held that it takes",
    ),
)


MENDS: Final = (
    Step(
        SafetyStep.COMMIT_86B4CE3156C0,
        _OLD,
        "where a function is decoded, the original bytes under other probes' jumps are looked at",
    ),
    Step(
        SafetyStep.COVERING_SEARCH,
        _OLD,
        "a new probe's address is looked for in the replaced bytes of each probe before it, not of"
        " the nearest",
    ),
    Step(
        SafetyStep.ENABLED_0_DISARMS,
        _OLD,
        "enabled=0 takes away the breakpoints, too, that the optimizer leaves where jumps were",
    ),
    Step(SafetyStep.ENABLED_1_OPTIMIZES, _OLD, "enabled=1 optimizes what it arms"),
    Step(
        SafetyStep.REOPTIMIZE_BLOCKED,
        _OLD,
        "a probe that a neighbour kept a breakpoint is optimized when that is disabled or goes",
    ),
    Step(
        SafetyStep.DISARM_ARMED_ONLY,
        _OLD,
        "disabling a probe writes nothing while all are disarmed, or where its aggregator is"
        " disabled already",
    ),
    Step(
        SafetyStep.COMMIT_AD72B3BEA744,
        _OLD,
        "enabled=0 and kprobes-optimization=0 wait until no jump is left, each time, also for a"
        " pass under way",
    ),
    Step(SafetyStep.GONE_UNHASHED, _OLD, "an unused probe whose code was removed leaves the table"),
    Step(
        SafetyStep.HANDLED_HIT_ENDS,
        _OLD,
        "the hit is over when a pre_handler without a break_handler returns 1",
    ),
    Step(
        SafetyStep.FAULT_IN_STEP,
        _OLD,
        "fault_handler is asked about a fault of the probed instruction in its single step",
    ),
    Step(
        SafetyStep.FUNCTION_ENTRY,
        _OLD,
        "return and jumper probes go to a function's first byte only",
    ),
)
"""The faults of kernel commit 6274de4984a6 that are mended here, beside those among the steps.

``matrix`` tries none of these: they change answers, and few of them are a matter of safety.
"""
