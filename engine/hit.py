"""The ways in which a CPU comes to a probe's handlers, and how far a hit has come."""

from __future__ import annotations

from enum import IntEnum

__all__ = ("HitKind", "HitPhase")


class HitKind(IntEnum):
    """Which way the CPU came."""

    INT3 = 1
    """It executed the breakpoint."""
    OPTIMIZED = 2
    """The detour buffer of an optimized probe asks."""
    FTRACE = 3
    """Ftrace's trampoline asks."""


class HitPhase(IntEnum):
    """The piece of a hit that is next, or how the hit ended. What lies between two pieces is a
    choice point of an exploration.
    """

    TRAP = 1
    """The frame is pushed; the table has not been asked."""
    POKE = 2
    """The breakpoint is the poke protocol's, whose descriptor has not been read."""
    FOUND = 3
    """The probe is found; its handler has not run."""
    HANDLED = 4
    """The handlers have run; where to go on is not set."""
    BETWEEN = 5
    """The handlers of some of the probes there have run."""
    RESUMED = 6
    """The hit is over, and the CPU goes on."""
    REFUSED = 7
    """The hit is over: the breakpoint was nobody's."""
