"""The levels of an exhaustive search, and how it is cut into parts.

The starts of schedules wait in groups for their turn, sorted by what they cost; all starts of one
cost are a level. A batch of parts takes some of these groups. The parts of a batch are of the
lowest level that has starts left, so schedules with fewer preemptions come first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from engine.search.parts import BATCH, Group, Outcome
from engine.search.prefixes import StartWriter

__all__ = ("PART_SCHEDULES", "Levels", "Part")

_PART_STARTS: Final = 128
"""The number of starts of a part, if there are so many. They are enough that what neighbours have
in common is run once, and few enough that a level gives parts to all processes.
"""
PART_SCHEDULES: Final = 1_000
"""A part hands back what is left after so many schedules, which take seconds. So what it has found
is soon known to the parts of the next batch.
"""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the search: some of the starts of one level.

    :ivar level: what each of the starts costs.
    :ivar blobs: the starts, as :mod:`engine.search.prefixes` keeps them.
    :ivar most: the part ends after so many schedules.
    :ivar phase: how many schedules the search had before; which schedules of the part are run twice
        depends on that.
    :ivar violations: the part ends after so many violations.
    """

    level: int
    blobs: tuple[bytes, ...]
    most: int
    phase: int
    violations: int


class Levels:
    """The starts that wait for their turn, by level.

    :param max_schedules: no more parts are given after so many schedules; None: there is no limit.
    :param violations_max: no more parts are given after so many violations.
    """

    def __init__(self, max_schedules: int | None, violations_max: int) -> None:
        self._max_schedules = max_schedules
        self._violations_max = violations_max
        self._waiting: dict[int, list[Group]] = {}
        self._level = 0
        self._before = 0
        self._begun_starts = 0
        root = StartWriter()
        root.add_path(0, (), [None])
        self.put(root.close())

    def put(self, groups: Sequence[Group]) -> None:
        """Let the starts of ``groups`` wait for their turn, too."""
        for group in groups:
            self._waiting.setdefault(group[0], []).append(group)

    def batch(self, outcome: Outcome) -> Sequence[Part]:
        """Take parts of the lowest level that has starts left.

        :returns: at most :data:`~engine.search.parts.BATCH` parts; none when the search is over.
            ``outcome.exhaustive`` says whether the search has left out nothing.
        """
        levels = [level for level, groups in self._waiting.items() if groups]
        outcome.exhaustive = not levels
        left = (
            PART_SCHEDULES * BATCH
            if self._max_schedules is None
            else self._max_schedules - outcome.schedules
        )
        if not levels or left <= 0 or len(outcome.found) >= self._violations_max:
            outcome.exhaustive &= len(outcome.found) < self._violations_max
            return ()
        level, most = min(levels), min(PART_SCHEDULES, left)
        if level > self._level:
            self._level, self._before, self._begun_starts = level, outcome.schedules, 0
        groups = self._waiting[level]
        number = max(1, min(BATCH, left // PART_SCHEDULES, len(groups)))
        phase, violations = outcome.schedules, self._violations_max - len(outcome.found)
        distance, starts = (
            len(groups) / number,
            min(_PART_STARTS, sum(weight for _, weight, _ in groups) // number),
        )
        chosen = [self._some(groups, int(at * distance), starts) for at in reversed(range(number))]
        return [Part(level, blobs, most, phase, violations) for blobs in reversed(chosen)]

    def _some(self, groups: list[Group], at: int, starts: int) -> tuple[bytes, ...]:
        """Take groups from position ``at`` on that make a part of about ``starts`` starts.

        The parts of a batch lie far from each other, since starts that are near meet the same
        states.
        """
        weight, end = 0, at
        while end < len(groups) and (end == at or weight + groups[end][1] <= starts):
            weight += groups[end][1]
            end += 1
        self._begun_starts += weight
        blobs = tuple(blob for _, _, blob in groups[at:end])
        del groups[at:end]
        return blobs

    def expected(self, outcome: Outcome, bound: int | None) -> int | None:
        """Estimate how many schedules a search up to ``bound`` will have.

        The schedules that came of each start of the last level so far are taken as the measure for
        the starts that are left.

        :returns: the limit on schedules while the last level has not begun; None: nothing is known.
        """
        done = outcome.schedules - self._before
        if self._level != bound or not done:
            return self._max_schedules
        left = sum(weight for _, weight, _ in self._waiting.get(self._level, ()))
        expected = outcome.schedules + done * left // self._begun_starts
        return expected if self._max_schedules is None else min(expected, self._max_schedules)
