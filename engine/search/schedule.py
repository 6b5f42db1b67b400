"""Schedules as text: one line, with a version and a fingerprint of what it is a schedule of.

``v3:9f3c21aa:0*18,c0*5,i0,0*7``: vCPU 0 makes 18 steps, control task 0 five, an interrupt comes on
vCPU 0, and so on. A step of a vCPU is an instruction, a piece of a hit, or the start of a call, so
the text means the same with and without reduction.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from engine.brief import count, described
from engine.errors import InputError, printable
from engine.search.explorable import System, Trace

__all__ = ("Schedule", "parse_schedule", "replay", "segments_from", "segments_of", "text_of")

_VERSION: Final = "v3"
_TEXT: Final = re.compile(
    r"v(\d+):([0-9a-f]{8}):((?:[a-z]?\d+(?:\*\d+)?)(?:,[a-z]?\d+(?:\*\d+)?)*|)"
)
_ACTORS: Final = frozenset({"", "c", "i", "n", "p", "s"})
_STEPS_MAX: Final = 1 << 40
Segments = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Schedule:
    """``fingerprint``: 8 hexadecimal digits; ``segments``: who goes on, and for how many steps."""

    fingerprint: str
    segments: Segments

    def __repr__(self) -> str:
        return described(self, count(len(self.segments), "choice"), str(self))

    def __str__(self) -> str:
        return f"{_VERSION}:{self.fingerprint}:{text_of(self.segments)}"

    @property
    def choices(self) -> int:
        """How many times somebody else goes on."""
        return len(self.segments)


def text_of(segments: Segments) -> str:
    """``0*18,c0*5,i0``."""
    return ",".join(actor if steps == 1 else f"{actor}*{steps}" for actor, steps in segments)


def segments_from(text: str) -> Segments:
    """What :func:`text_of` wrote."""
    words = (word.partition("*") for word in text.split(",")) if text else ()
    return tuple((actor, int(steps or "1")) for actor, _, steps in words)


def parse_schedule(text: str) -> Schedule:
    """The schedule that ``text`` is.

    :raises InputError: it is none.
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
        actor, _, steps = word.partition("*")
        if (
            actor.rstrip("0123456789") not in _ACTORS
            or len(steps) > 12
            or int(steps or "1") > _STEPS_MAX
        ):
            raise InputError(
                f"schedule: '{printable(word)}' is no step; write 0*18, c0*5, i0, n0, p0 or s0"
            )
    return Schedule(found[2], segments_from(found[3]))


def segments_of(trace: Trace) -> Segments:
    """A trace from its start."""
    segments: list[tuple[str, int]] = []
    while trace is not None:
        trace, actor, steps = trace
        if steps:
            segments.append((actor, steps))
    return tuple(reversed(segments))


def replay(
    system: System, segments: Segments, *, strict: bool = False, limit: int = 100_000
) -> bool:
    """Run ``segments`` from the start, and then on as before, to the end or to a violation.

    :param strict: stop where a segment asks for what can't be.
    :param limit: most choices behind the last segment.
    :returns: False: stopped so; else true.
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
