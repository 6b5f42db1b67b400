"""Shrinking: finding a schedule with fewer switches, then fewer steps, that breaks the same rule.

Parts of the schedule that was found are left out first (delta debugging, Zeller, TSE 2002). Then
any schedule with fewer switches is looked for: with one segment, with two, and so on, where a state
is visited again only with more segments left. Parts of that schedule are left out last. A part is
any number of segments in a row, or any number of steps in a row of one actor. So no whole call can
be left out of what is returned, unless there are too many parts to try them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, combinations, repeat
from typing import Final

from engine.search.actor import Actor
from engine.search.explorable import System, Violation, ViolationKind
from engine.search.schedule import CHOICES_MAX, Segments, segments_of

__all__ = ("shrink",)

_TAKES_MAX: Final = 12_000
"""The search for fewer switches makes at most so many choices, which takes a second or two."""
_TRIES_MAX: Final = 2_000
"""At most so many schedules are tried with parts left out. Each of them is a run from the start,
and more of them would save only a step here or there.
"""
_FINE_STEPS_MAX: Final = 100_000
"""The schedules that are tried without a few steps of one actor have so many steps together at
most, which takes a second or two.
"""


def shrink(
    system: System, segments: Segments, violation: Violation, tries_max: int = _TRIES_MAX
) -> tuple[Segments, Violation]:
    """Shrink a schedule that shows ``violation``.

    :returns: the smallest schedule that was found, and its violation, of the same kind.
    """
    best, found = _leave_out(system, segments, violation, tries_max)
    other = _Fewest(system, violation.kind).search(len(best))
    return (best, found) if other is None else _leave_out(system, *other, tries_max)


class _Fewest:
    """A search for a schedule with few switches that breaks a rule of ``kind``.

    :ivar _takes: how many choices are left to be made.
    :ivar _seen: for each state and the actor that led to it, how many more segments were tried from
        there.
    """

    def __init__(self, system: System, kind: ViolationKind) -> None:
        self._system = system
        self._kind = kind
        self._takes = _TAKES_MAX
        self._seen: dict[tuple[int, Actor], int] = {}

    def search(self, below: int) -> tuple[Segments, Violation] | None:
        """Look for a schedule with the fewest segments, and fewer than ``below``.

        :returns: the schedule and its violation; None: there is none, or it was not found in time.
        """
        for most in range(1, below):
            self._seen.clear()
            self._system.reset()
            if self._from_here(None, most):
                assert self._system.violation is not None
                return segments_of(self._system.trace), self._system.violation
            if self._takes <= 0:
                break
        return None

    def _from_here(self, last: Actor | None, most: int) -> bool:
        """Let each actor but ``last`` go on from the present state, for ``most`` segments at most.

        :returns: whether the present state is a violation of the kind that is looked for.
        """
        system = self._system
        here = system.save()
        for actor in [choice.actor for choice in system.choices()]:
            if actor != last and self._takes > 0:
                system.restore(here)
                if self._along(actor, most):
                    return True
        system.restore(here)
        system.release(here)
        return False

    def _along(self, actor: Actor, most: int) -> bool:
        """Let ``actor`` make one segment, and try the next segments from wherever it may end.

        :returns: whether the present state is a violation of the kind that is looked for.
        """
        system = self._system
        while self._takes > 0:
            self._takes -= 1
            system.take(actor)
            going_on = any(choice.actor == actor for choice in system.choices())
            if system.violation is not None:
                return system.violation.kind is self._kind
            key = (system.key(), actor)
            if self._seen.get(key, 0) >= most:
                return False
            self._seen[key] = most
            if most > 1 and self._from_here(actor, most - 1):
                return True
            if not going_on:
                return False
        return False


def _leave_out(
    system: System, segments: Segments, violation: Violation, tries_max: int
) -> tuple[Segments, Violation]:
    """Shrink a schedule by leaving out runs of segments, or runs of steps of one actor."""
    best, found = segments, violation
    tries, fine_steps = tries_max, _FINE_STEPS_MAX
    improved = True
    while improved and tries > 0:
        improved = False
        coarse, fine = zip(_coarser(best), repeat(False)), zip(_finer(best), repeat(True))
        for candidate, is_fine in chain(coarse, fine):
            tries -= 1
            if tries < 0 or (is_fine and fine_steps <= 0):
                break
            other, steps = _run(system, candidate, below=_size(best))
            fine_steps -= steps if is_fine else 0
            if other is None or other.kind is not violation.kind:
                continue
            done = segments_of(system.trace)
            if _size(done) < _size(best):
                best, found, improved = done, other, True
                break
    return best, found


def _run(
    system: System, segments: Segments, below: tuple[int, int]
) -> tuple[Violation | None, int]:
    """Run ``segments`` from the start, and go on by default behind them.

    What an actor has no choice for is left out. The run ends as soon as it is not smaller than
    ``below``.

    :returns: the violation that the run came to, or None; and how many steps it made.
    """
    system.reset()
    length, steps, last = 0, 0, None
    for actor, left in _on_and_on(system, segments):
        while left > 0 and any(choice.actor == actor for choice in system.choices()):
            if (length + (actor != last), steps + 1) >= below:
                return None, steps
            took = system.take(actor, left)
            left -= max(1, took)
            if took:  # A step of no length is no part of a schedule.
                length, steps, last = length + (actor != last), steps + took, actor
        if system.violation is not None:
            break
    return system.violation, steps


def _on_and_on(system: System, segments: Segments) -> Iterator[tuple[Actor, int]]:
    """Yield ``segments``, and then the first choice of each state, until there is none."""
    yield from segments
    for _ in range(CHOICES_MAX):
        choices = system.choices()
        if not choices:
            return
        yield choices[0].actor, 1


def _size(segments: Segments) -> tuple[int, int]:
    return len(segments), sum(steps for _, steps in segments)


def _coarser(segments: Segments) -> Iterator[Segments]:
    """Yield ``segments`` without large parts of them.

    First some segments in a row are left out, most of them first; then half of the steps of one
    segment, and less of them.
    """
    length = len(segments)
    width = length
    while width:
        for at in range(0, length - width + 1, max(1, width // 2)):
            yield segments[:at] + segments[at + width :]
        width //= 2
    for at, (_, steps) in enumerate(segments):
        less = steps // 2
        while less:
            yield _with(segments, {at: steps - less})
            less //= 2


def _finer(segments: Segments) -> Iterator[Segments]:
    """Yield ``segments`` without some steps in a row of one actor, in every way that is left.

    First all steps but one of a segment are left out, all but two, and so on; then the last steps
    of one segment, the first ones of another one of the same actor, and that actor's segments
    between them. Behind a part of the last segment its actor goes on by default, so nothing would
    be left out there.
    """
    for at, (_, steps) in enumerate(segments[:-1]):
        for left in range(1, steps):
            yield _with(segments, {at: left})
    for first, second in combinations(range(len(segments)), 2):
        if segments[first][0] == segments[second][0]:
            yield from _without_between(segments, first, second)


def _without_between(segments: Segments, first: int, second: int) -> Iterator[Segments]:
    """Yield ``segments`` without steps in a row that reach from one segment into another one.

    The segments ``first`` and ``second`` are of the same actor.
    """
    actor, steps = segments[first]
    between = {at: 0 for at in range(first + 1, second) if segments[at][0] == actor}
    for left in range(steps):
        for kept in range(segments[second][1]):
            yield _with(segments, between | {first: left, second: kept})


def _with(segments: Segments, lengths: dict[int, int]) -> Segments:
    """Return ``segments`` where those at these places have these numbers of steps."""
    every = ((actor, lengths.get(at, steps)) for at, (actor, steps) in enumerate(segments))
    return tuple((actor, steps) for actor, steps in every if steps)
