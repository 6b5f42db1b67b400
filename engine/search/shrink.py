"""Shrinking: a schedule with fewer switches, then fewer steps, that breaks the same rule.

First by leaving out parts of the one that was found (delta debugging, Zeller, TSE 2002); then by
looking for any with fewer switches, one switch, two, and so on, each state no more than once with
as many left; then by leaving out parts of that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from engine.search.actor import Actor
from engine.search.explorable import System, Violation, ViolationKind
from engine.search.schedule import Segments, replay, segments_of

__all__ = ("shrink",)

_TAKES_MAX: Final = 12_000
"""Choices that the search for a schedule with fewer switches may make: a second or two."""
_TRIES_MAX: Final = 2_000
"""Schedules that are tried with parts left out. Each is a run from the start; what is left to be
found behind so many of them is a step less here or there.
"""


def shrink(
    system: System, segments: Segments, violation: Violation, tries_max: int = _TRIES_MAX
) -> tuple[Segments, Violation]:
    """The smallest schedule found, and what it breaks: of the same kind as ``violation``."""
    best, found = _leave_out(system, segments, violation, tries_max)
    other = _Fewest(system, violation.kind).search(len(best))
    return (best, found) if other is None else _leave_out(system, *other, tries_max)


class _Fewest:
    """Looks for a schedule with few switches that breaks a rule of ``kind``.

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
        """One with the fewest segments, and less than ``below``; None: there is none, or it was not
        found in time.
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
        """Go on with whoever was not the last to, for ``most`` segments at most. True: the present
        state is what is looked for.
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
        """One segment, and from wherever it may end the next ones."""
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
    """Each try leaves out a run of segments, or some steps of one, and goes on by default behind
    it; what it then really did is the candidate.
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
    """Without runs of segments, long ones first; then with fewer steps in one."""
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
