"""Schedules as text: one line, with a version and a fingerprint of what it is a schedule of.

In ``v3:9f3c21aa:0*18,c0*5,i0,0*7`` vCPU 0 makes 18 steps, control task 0 makes five, an interrupt
comes on vCPU 0, and so on. A step of a vCPU is an instruction, a piece of a hit, or the start of a
call, so the text means the same with and without reduction.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from engine.brief import count, described
from engine.errors import InputError, printable
from engine.search.actor import Actor, actor_from
from engine.search.explorable import System, Trace

__all__ = (
    "CHOICES_MAX",
    "Schedule",
    "parse_schedule",
    "replay",
    "segments_from",
    "segments_of",
    "text_of",
)

_VERSION: Final = "v3"
_TEXT: Final = re.compile(
    r"v(\d+):([0-9a-f]{8}):((?:[a-z]?\d+(?:\*\d+)?)(?:,[a-z]?\d+(?:\*\d+)?)*|)"
)
_STEPS_MAX: Final = 1 << 40
"""A segment of a schedule has no more steps than this. No search makes so many; the bound keeps a
schedule that was written by hand from being followed for ever.
"""
_STEPS_DIGITS_MAX: Final = 12
"""A number of steps has no more digits than this. Python refuses to convert a number of thousands
of digits, so the number of digits is checked first.
"""
CHOICES_MAX: Final = 100_000
"""A replay makes no more choices than this behind the last segment of its schedule. Schedules of
the shipped scenarios end after some hundreds of choices, so one that needs more is in a loop.
"""
Segments = tuple[tuple[Actor, int], ...]
"""The actors that go on, each with its number of steps, in the order of a schedule."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule that prints as one line.

    :ivar fingerprint: 8 hexadecimal digits of everything that decides what the schedule does.
    :ivar segments: the actors that go on, each with its number of steps.
    """

    fingerprint: str
    segments: Segments

    def __repr__(self) -> str:
        return described(self, count(len(self.segments), "choice"), str(self))

    def __str__(self) -> str:
        return f"{_VERSION}:{self.fingerprint}:{text_of(self.segments)}"

    @property
    def choices(self) -> int:
        """The schedule has this number of choices, one for each segment."""
        return len(self.segments)


def text_of(segments: Segments) -> str:
    """Return the text of segments, such as ``0*18,c0*5,i0``."""
    return ",".join(str(actor) if steps == 1 else f"{actor}*{steps}" for actor, steps in segments)


def segments_from(text: str) -> Segments:
    """Return the segments that :func:`text_of` has written as ``text``.

    :raises ValueError: ``text`` is not the text of segments.
    """
    words = (word.partition("*") for word in text.split(",")) if text else ()
    return tuple((actor_from(actor), int(steps or "1")) for actor, _, steps in words)


def parse_schedule(text: str) -> Schedule:
    """Return the schedule whose text is ``text``.

    :raises InputError: ``text`` is no schedule, or one of another version.
    """
    found = _TEXT.fullmatch(text.strip())
    if found is None:
        raise InputError(
            f"schedule '{printable(text.strip())}': not one; it should look like"
            " v3:9f3c21aa:0*18,c0*5,i0,0*7"
        )
    if found[1] != _VERSION[1:]:
        raise InputError(f"schedule version v{found[1]}: unknown; this is {_VERSION}")
    for word in found[3].split(",") if found[3] else ():
        if not _is_segment(word):
            raise InputError(
                f"schedule: '{printable(word)}' is no step; write 0*18, c0*5, i0, n0, p0, f0 or s0"
            )
    return Schedule(found[2], segments_from(found[3]))


def _is_segment(word: str) -> bool:
    """Return whether ``word`` names an actor and a number of steps that a schedule may have."""
    actor, _, steps = word.partition("*")
    try:
        actor_from(actor)
    except ValueError:
        return False
    return len(steps) <= _STEPS_DIGITS_MAX and int(steps or "1") <= _STEPS_MAX


def segments_of(trace: Trace) -> Segments:
    """Return the segments of a trace, from its start on."""
    segments: list[tuple[Actor, int]] = []
    while trace is not None:
        trace, actor, steps = trace
        if steps:
            segments.append((actor, steps))
    return tuple(reversed(segments))


def replay(
    system: System, segments: Segments, *, strict: bool = False, limit: int = CHOICES_MAX
) -> bool:
    """Run ``segments`` from the start, and then go on by default to the end or to a violation.

    By default the first choice is taken at each point, so the same actor goes on if it can.

    :param strict: stop where a segment asks for an actor that has no choice there.
    :param limit: the most choices behind the last segment.
    :returns: False if ``strict`` has stopped the run; else True.
    """
    system.reset()
    for actor, steps in segments:
        left = steps
        while left > 0:
            if all(choice.actor != actor for choice in system.choices()):
                if system.violation is not None:
                    return True
                if strict:
                    return False
                break
            left -= max(1, system.take(actor, left))
    for _ in range(limit):
        choices = system.choices()
        if not choices:
            break
        system.take(choices[0].actor)
    return True
