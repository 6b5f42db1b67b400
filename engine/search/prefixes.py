"""Starts of schedules as text, and going to them in turn.

What the paths of neighbouring starts have in common is run only once.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Final

from engine.search.actor import Actor, actor_from
from engine.search.explorable import System, Trace
from engine.search.parts import Group, uncounted
from engine.search.schedule import Segments, segments_from, segments_of, text_of

__all__ = ("GROUP_STARTS", "KeptStart", "Navigator", "Start", "StartWriter", "starts_of")

GROUP_STARTS: Final = 16
"""About so many starts make a group, which stays together. A group is compressed as one text, in
which paths that begin alike cost little. Larger groups would make parts of less equal size.
"""
Start = tuple[Segments, Actor | None]
"""A path, and the actor that goes on behind it; None: no actor has been chosen there yet."""


KeptStart = tuple[Any, Actor | None]
"""The state behind a path, and the actor that goes on there."""


class StartWriter:
    """A writer that collects starts in groups.

    :ivar groups: the groups that are full.
    :ivar states: by the text of a group, the state behind the path of each of its starts, and the
        actor that goes on there; only of groups that have all of these states.
    """

    def __init__(self) -> None:
        self._states: dict[int, list[KeptStart]] = {}
        self.states: dict[bytes, list[KeptStart]] = {}
        self._lines: dict[int, list[str]] = {}
        self._weights: dict[int, int] = {}
        self.groups: list[Group] = []

    def add(
        self, level: int, trace: Trace, actors: Iterable[Actor | None], state: Any = None
    ) -> None:
        """Add a start for each of ``actors``, which go on behind ``trace`` at cost ``level``.

        :param state: the state behind ``trace``, or None if it is not kept.
        """
        self.add_path(level, segments_of(trace), list(actors), state)

    def add_path(
        self, level: int, path: Segments, actors: Sequence[Actor | None], state: Any = None
    ) -> None:
        """Add a start for each of ``actors`` behind ``path``; None is as in :data:`Start`."""
        if state is not None:
            self._states.setdefault(level, []).extend((state, actor) for actor in actors)
        words = " ".join("" if actor is None else str(actor) for actor in actors)
        self._lines.setdefault(level, []).append(f"{words};{text_of(path)}")
        weight = self._weights[level] = self._weights.get(level, 0) + len(actors)
        if weight >= GROUP_STARTS:
            self._close(level)

    def _close(self, level: int) -> None:
        lines, weight = self._lines.pop(level), self._weights.pop(level)
        text = zlib.compress("\n".join(lines).encode(), 1)
        self.groups.append((level, weight, text))
        states = self._states.pop(level, [])
        if len(states) == weight:
            self.states[text] = states

    def close(self) -> list[Group]:
        """Return all groups, including those that are not full."""
        for level in sorted(self._lines):
            self._close(level)
        return self.groups


def starts_of(blobs: Iterable[bytes]) -> list[Start]:
    """Return the starts that groups hold, in their order."""
    starts: list[Start] = []
    for blob in blobs:
        for line in zlib.decompress(blob).decode().split("\n"):
            actors, _, path = line.partition(";")
            segments = segments_from(path)
            starts += [
                (segments, actor_from(actor) if actor else None) for actor in actors.split(" ")
            ]
    return starts


def _common(first: Segments, second: Segments) -> int:
    """Return how many steps two paths have in common at their beginning."""
    steps = 0
    for (one, ours), (other, theirs) in zip(first, second, strict=False):
        if one != other:
            break
        steps += min(ours, theirs)
        if ours != theirs:
            break
    return steps


class Navigator:
    """A navigator, which goes from start to start and keeps the states where their paths part."""

    def __init__(self, system: System, starts: Sequence[Start]) -> None:
        self._system = system
        self._starts = starts
        self._kept: list[tuple[int, Any]] = []
        self._parting = self._partings()

    def _partings(self) -> list[tuple[int, ...]]:
        """Find where the paths of later starts part from the path of each start.

        :returns: for each start, the numbers of steps of its path after which to keep a state,
            ascending.
        """
        partings: list[tuple[int, ...]] = [()]
        running: tuple[int, ...] = ()
        for here, following in zip(
            reversed(self._starts[:-1]), reversed(self._starts), strict=False
        ):
            common = _common(here[0], following[0])
            running = (*(steps for steps in running if steps < common), common)
            partings.append(running)
        return partings[::-1]

    def go(self, number: int) -> None:
        """Bring the system to the end of the path of start ``number``.

        The start before this one must be the last that the navigator has gone to, since it keeps
        only states that the two paths share.
        """
        system, path = self._system, self._starts[number][0]
        shared = self._parting[number - 1][-1] if number else 0
        while self._kept and self._kept[-1][0] > shared:
            system.release(self._kept.pop()[1])
        at = 0
        if self._kept:
            at, state = self._kept[-1]
            system.restore(state)
        else:
            system.reset()
        with uncounted(system):
            self._walk(
                path, at, [steps for steps in self._parting[number] if steps > at or not self._kept]
            )

    def _walk(self, path: Segments, at: int, stops: list[int]) -> None:
        """Go along ``path`` from step ``at`` to its end, and keep the states at ``stops``."""
        system = self._system
        if stops and stops[0] == at:
            self._kept.append((stops.pop(0), system.save()))
        begin = 0
        for actor, steps in path:
            end = begin + steps
            while at < end:
                most = (min(end, stops[0]) if stops else end) - at
                at += max(1, system.take(actor, most))
                if stops and at >= stops[0]:
                    self._kept.append((stops.pop(0), system.save()))
            begin = end

    def close(self) -> None:
        """Release all states that are kept. The navigator goes nowhere any more."""
        for _, state in self._kept:
            self._system.release(state)
        self._kept.clear()
