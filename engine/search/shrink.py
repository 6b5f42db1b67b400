"""Shrinking: finding a schedule with fewer switches, then fewer steps, that breaks the same rule.

Parts of the schedule that was found are left out first (delta debugging, Zeller, TSE 2002). Then
any schedule with fewer switches is looked for: with one segment, with two, and so on, where a state
is visited again only with more segments left. Parts of that schedule are left out last.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from engine.search.actor import Actor
from engine.search.explorable import System, Violation, ViolationKind
from engine.search.schedule import Segments, replay, segments_of

__all__ = ("shrink",)

_TAKES_MAX: Final = 12_000
"""The search for fewer switches makes at most so many choices, which takes a second or two."""
_TRIES_MAX: Final = 2_000
"""At most so many schedules are tried with parts left out. Each of them is a run from the start,
and more of them would save only a step here or there.
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
    """Shrink a schedule by leaving out runs of segments, or some steps of one segment.

    Each try goes on by default behind what is left; the candidate is what this run really did.
    """
    best, found = segments, violation
    tries = 0
    improved = True
    while improved and tries < tries_max:
        improved = False
        for candidate in _smaller(best):
            tries += 1
            if tries > tries_max:
                break
            replay(system, candidate)
            if system.violation is None or system.violation.kind is not violation.kind:
                continue
            done = segments_of(system.trace)
            if _size(done) < _size(best):
                best, found, improved = done, system.violation, True
                break
    return best, found


def _size(segments: Segments) -> tuple[int, int]:
    return len(segments), sum(steps for _, steps in segments)


def _smaller(segments: Segments) -> Iterator[Segments]:
    """Yield ``segments`` without runs of them, long ones first, then with fewer steps in one."""
    length = len(segments)
    width = length
    while width:
        for at in range(0, length - width + 1, max(1, width // 2)):
            yield segments[:at] + segments[at + width :]
        width //= 2
    for at, (actor, steps) in enumerate(segments):
        less = steps // 2
        while less:
            yield (*segments[:at], (actor, steps - less), *segments[at + 1 :])
            less //= 2
