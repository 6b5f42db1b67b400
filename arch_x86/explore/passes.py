"""Passes over sites, and what is seen of each: handlers that run, and misses.

A pass begins when a vCPU is about to execute the instruction at a site, and ends when it comes to the next instruction outside of slots,
detour buffers and stubs. What it has seen is asked when it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from arch_x86.explore.lives import Life, Lives
from engine.search.explorable import Violation, ViolationKind

if TYPE_CHECKING:
    from arch_x86.explore.lane import Lane
    from arch_x86.explore.oracles import Site

__all__ = ("HitOracle", "Pass", "Seen", "pass_key")


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
    """Its pre_handler has run, and its post_handler never will: 6.1 (:attr:`engine.core.profiles.Profile.slot_has_both`)."""


class Pass(NamedTuple):
    """A pass in progress.

    ``addr``: the site. ``armed``: a breakpoint or jump was fetched there. ``busy``: this is in an NMI that came while the CPU was in
    another hit, so that hits are misses. ``lives``: what held for each probe at the start. ``seen``: what happened since, in order, each
    with the number of the probe.
    """

    addr: int
    armed: bool
    busy: bool
    lives: Lives
    seen: tuple[tuple[Seen, int], ...] = ()

    def open(self, lives: Lives) -> Iterable[int]:
        """The probes of which something is asked if ``lives`` holds at the end: nothing has happened to them since."""
        return (n for n, (then, now) in enumerate(zip(self.lives, lives, strict=False)) if then == now and now[0] is not Life.CHANGING)


def pass_key(one: Pass | None, lives: Lives) -> tuple[Any, ...]:
    """What the verdict on a pass depends on: of a probe that anything happened to since, nothing is asked."""
    if one is None:
        return ()
    asked = tuple(one.open(lives))
    return (one.addr, one.armed, one.busy, asked, tuple((seen.value, n) for seen, n in one.seen if n in asked))


class HitOracle:
    """3. A pass that fetched an armed site and ended while its probe was registered and enabled is one hit; one miss, if the CPU was in
    another hit. One that overlaps an operation on the probe may be either or neither; any other is neither. Each hit of a probe with a
    post_handler is followed by one call of it. Of several probes at a site the handlers of the newest one run first. No handler runs once
    the probe is unregistered.

    :param where: names an address.
    """

    def __init__(self, where: Callable[[int], str]) -> None:
        self._where = where

    def ran(self, cpu: int, probe: int, lives: Lives) -> Violation | None:
        """A handler of a probe runs on ``cpu``."""
        if probe < len(lives) and lives[probe][0] is Life.OFF:
            text = f"the handler of probe {probe} runs on CPU {cpu}, though it is not registered any more"
            return Violation(ViolationKind.EXTRA_HIT, cpu, None, text)
        return None

    def passed(self, lane: Lane, site: Site, lives: Lives, posts: Callable[[int], bool], since: Callable[[int], int]) -> Violation | None:
        """The pass that ``lane`` is in is over; ``lives`` holds now.

        :param posts: whether a probe has a post_handler.
        :param since: the order in which probes were registered.
        """
        one = lane.passing
        assert one is not None
        asked = [n for n in one.open(lives) if n in site.probes]
        for n in asked:
            wrong = self._counted(one, n, posts(n))
            if wrong is not None:
                kind, text = wrong
                state = f"{'armed' if one.armed else 'not armed'}, and probe {n} was {lives[n][0].name.lower()} throughout"
                return Violation(kind, lane.index, one.addr, f"CPU {lane.index} passed {self._where(one.addr)} with {text}: it was {state}")
        for kind in (Seen.HIT, Seen.POST):
            order = [n for seen, n in one.seen if seen is kind and n in asked]
            if order != sorted(order, key=since, reverse=True):
                text = f"passed {self._where(one.addr)}, and the handlers of the probes {order} ran in this order, not newest first"
                return Violation(ViolationKind.EXTRA_HIT, lane.index, one.addr, f"CPU {lane.index} {text}")
        return None

    def _counted(self, one: Pass, n: int, posts: bool) -> tuple[ViolationKind, str] | None:
        """What is wrong with what the pass has seen of probe ``n``."""
        seen = [kind for kind, number in one.seen if number == n]
        hits, misses = seen.count(Seen.HIT) + seen.count(Seen.FULL), seen.count(Seen.MISS)
        want = int(one.armed and one.lives[n][0] is Life.ON)
        hits_due, misses_due = (0, want) if one.busy else (want, 0)
        if hits == hits_due and one.busy and one.armed and not want and misses == 1:
            misses_due = 1  # a disabled probe beside an enabled one: a miss counts on each of them
        if (hits, misses) != (hits_due, misses_due):
            kind = ViolationKind.LOST_HIT if hits + misses <= want and hits <= hits_due else ViolationKind.EXTRA_HIT
            inside = ", as the CPU was in another hit" if one.busy else ""
            return kind, f"{hits} hits and {misses} misses, {hits_due} and {misses_due} expected{inside}"
        posted, due = seen.count(Seen.POST), 0 if Seen.NO_POST in seen or not posts else hits
        if posted != due:
            kind = ViolationKind.LOST_HIT if posted < due else ViolationKind.EXTRA_HIT
            return kind, f"{posted} calls of the post_handler, {due} expected after {hits} hits"
        if posted and seen.index(Seen.POST) < seen.index(Seen.HIT):
            return ViolationKind.EXTRA_HIT, "the post_handler called before the pre_handler"
        return None
