"""Shrinking: a schedule with fewer switches, then fewer steps, that breaks the same rule. After delta debugging (Zeller, TSE 2002)."""

from __future__ import annotations

from collections.abc import Iterator

from engine.explore.schedule import Segments, replay, segments_of
from engine.explore.system import System, Violation

__all__ = ("shrink",)


def shrink(system: System, segments: Segments, violation: Violation, tries_max: int = 2_000) -> tuple[Segments, Violation]:
    """The smallest schedule found, and what it breaks: of the same kind as ``violation``.

    Each try leaves out a run of segments, or some steps of one, and goes on by default behind it; what it then really did is the candidate.
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
