"""The kinds and phases of a hit. Answers to the arch code of the kernel's kprobes.

Hits by breakpoint are in core.c there, those by jump in opt.c, and those by ftrace in ftrace.c.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ("HitKind", "HitPhase")


class HitKind(IntEnum):
    """The way by which a CPU came to the handlers of a probe."""

    INT3 = 1
    """The CPU executed the breakpoint."""
    OPTIMIZED = 2
    """The detour buffer of an optimized probe asked for the handlers."""
    FTRACE = 3
    """Ftrace's trampoline asked for the handlers."""


class HitPhase(IntEnum):
    """The piece of a hit that comes next, or how the hit ended.

    An exploration has a choice point between any two pieces.
    """

    TRAP = 1
    """The trap's frame is pushed, and the table has not been asked for a probe."""
    POKE = 2
    """The breakpoint is one of the poke protocol, whose descriptor has not been read."""
    FOUND = 3
    """The probe is found, and its handler has not run."""
    HANDLED = 4
    """The handlers have run, and the address at which the CPU goes on is not set."""
    BETWEEN = 5
    """The handlers of some of the probes at the site have run, and others have not."""
    NOTIFY = 6
    """Kprobes have denied the breakpoint, and its other users have not been asked."""
    RESUMED = 7
    """The hit is over, and the CPU goes on."""
    REFUSED = 8
    """The hit is over, since the breakpoint belonged to nobody."""
