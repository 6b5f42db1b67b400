"""Passes over sites, and what each has shown: handlers that ran, and misses.

A pass begins when a vCPU is about to execute the instruction at a site, and ends when the vCPU
comes to the next instruction outside of slots, detour buffers and stubs. The oracles look at what
the pass has shown when it ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Any, NamedTuple

from engine.patching.expectations import Life, Lives

__all__ = ("Pass", "Seen", "pass_key")


class Seen(IntEnum):
    """These are the things that a pass can show of a probe."""

    HIT = 1
    """The pre_handler of the probe runs; of a return probe, the entry_handler does."""
    MISS = 2
    """The probe's ``nmissed`` goes up."""
    POST = 3
    """The post_handler of the probe runs."""
    FULL = 4
    """The return probe has no instance left for the call."""
    NO_POST = 5
    """The probe's pre_handler has run, and its post_handler never will.

    This is so in ``linux-6.1`` (:attr:`engine.core.profiles.Profile.slot_has_both`).
    """
    FOREIGN = 6
    """The handler of another user's breakpoint runs; the number is that of the breakpoint."""


class Pass(NamedTuple):
    """This record describes a pass in progress.

    :ivar addr: the address of the site.
    :ivar armed: whether a breakpoint or jump was fetched there.
    :ivar busy: whether the pass is in an NMI that came while the CPU was in another hit, so
        that hits in the pass are misses.
    :ivar lives: what held for each probe when the pass began.
    :ivar seen: what has happened since then, in order, each with the number of the probe.
    :ivar foreign: what held for each breakpoint of another user when the pass began.
    """

    addr: int
    armed: bool
    busy: bool
    lives: Lives
    seen: tuple[tuple[Seen, int], ...] = ()
    foreign: Lives = ()

    def open(self, lives: Lives) -> Iterable[int]:
        """Return the probes that the verdict on the pass is about, if ``lives`` holds at its end.

        No operation has concerned them since the pass began.
        """
        return (
            n
            for n, (then, now) in enumerate(zip(self.lives, lives, strict=False))
            if then == now and now[0] is not Life.CHANGING
        )


def pass_key(one: Pass | None, lives: Lives) -> tuple[Any, ...]:
    """Return what the verdict on a pass depends on.

    A probe that an operation has concerned since the pass began is left out, since nothing is
    asked of it when the pass ends.
    """
    if one is None:
        return ()
    asked = tuple(one.open(lives))
    # Nobody reads more of other users' breakpoints than how often each was hit. The control state
    # tells what holds for them now.
    foreign = (one.foreign, tuple(n for seen, n in one.seen if seen is Seen.FOREIGN))
    return (
        one.addr,
        one.armed,
        one.busy,
        asked,
        tuple((seen.value, n) for seen, n in one.seen if n in asked and seen is not Seen.FOREIGN),
        *(foreign if one.foreign else ()),
    )
