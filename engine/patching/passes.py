"""Passes over sites, and what is seen of each: handlers that run, and misses.

A pass begins when a vCPU is about to execute the instruction at a site, and ends when it comes to
the next instruction outside of slots, detour buffers and stubs. What it has seen is asked when it
ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Any, NamedTuple

from engine.patching.expectations import Life, Lives

__all__ = ("Pass", "Seen", "pass_key")


class Seen(IntEnum):
    """What a pass sees of a probe."""

    HIT = 1
    """Its pre_handler runs; of a return probe, its entry_handler."""
    MISS = 2
    """Its ``nmissed`` goes up."""
    POST = 3
    """Its post_handler runs."""
    FULL = 4
    """A return probe has no instance left for the call."""
    NO_POST = 5
    """Its pre_handler has run, and its post_handler never will: 6.1
    (:attr:`engine.core.profiles.Profile.slot_has_both`).
    """


class Pass(NamedTuple):
    """A pass in progress.

    ``addr``: the site. ``armed``: a breakpoint or jump was fetched there. ``busy``: this is in an
    NMI that came while the CPU was in another hit, so that hits are misses. ``lives``: what held
    for each probe at the start. ``seen``: what happened since, in order, each with the number of
    the probe.
    """

    addr: int
    armed: bool
    busy: bool
    lives: Lives
    seen: tuple[tuple[Seen, int], ...] = ()

    def open(self, lives: Lives) -> Iterable[int]:
        """The probes of which something is asked if ``lives`` holds at the end: nothing has
        happened to them since.
        """
        return (
            n
            for n, (then, now) in enumerate(zip(self.lives, lives, strict=False))
            if then == now and now[0] is not Life.CHANGING
        )


def pass_key(one: Pass | None, lives: Lives) -> tuple[Any, ...]:
    """What the verdict on a pass depends on: of a probe that anything happened to since, nothing is
    asked.
    """
    if one is None:
        return ()
    asked = tuple(one.open(lives))
    return (
        one.addr,
        one.armed,
        one.busy,
        asked,
        tuple((seen.value, n) for seen, n in one.seen if n in asked),
    )
