"""Every schedule within a preemption bound, those with fewer preemptions first (Musuvathi and
Qadeer, PLDI 2007).

All that costs as much as the bound allows so far is one level: the schedules without a preemption,
then those with one, and so on. Within a level it goes depth first. A state is gone on from where it
is met first, which is where it costs the least; what may cost more there is a start of the next
level. So which states are gone on from does not depend on the order of a level's starts.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from engine.search.actor import Actor
from engine.search.explorable import Choice, Coverage, System, Trace
from engine.search.prefixes import Navigator, StartWriter, starts_of
from engine.search.schedule import segments_of
from engine.search.strategy import (
    BATCH,
    RECHECK_EVERY,
    TICK_EVERY,
    Found,
    Group,
    Outcome,
    PartResult,
    Tick,
    check_repeats,
)

__all__ = ("Exhaustive",)

_PART_STARTS: Final = 128
PART_SCHEDULES: Final = 1_000
"""A part hands back what is left after so many."""
_NO_BOUND: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class _Part:
    """Starts of one level. ``most``: schedules; ``phase``: how many there were before, for who is
    run twice.
    """

    level: int
    blobs: tuple[bytes, ...]
    most: int
    phase: int
    violations: int


class Exhaustive:
    """The strategy.

    :param bound: what the choices of a schedule may cost together; None: anything.
    :param hashing: go on from a state only where it is met first. It keeps the set of outcomes.
    :param max_schedules: stop after so many.
    :param violations_max: stop after so many.
    :param recheck_every: one schedule in so many is run a second time; 0: none.
    """

    def __init__(
        self,
        *,
        bound: int | None,
        hashing: bool = True,
        max_schedules: int | None = None,
        violations_max: int = 1,
        recheck_every: int = RECHECK_EVERY,
    ) -> None:
        self.bound = bound
        self.hashing = hashing
        self.max_schedules = max_schedules
        self.violations_max = violations_max
        self.recheck_every = recheck_every
        self.seen: set[int] = set()
        self._waiting: dict[int, list[Group]] = {}
        self._level = 0
        self._before = 0
        self._begun_starts = 0
        self._begun = False

    def batch(self, outcome: Outcome) -> Sequence[_Part]:
        """Parts of the lowest level that has starts left."""
        if not self._begun:
            self._begun = True
            root = StartWriter()
            root.add_path(0, (), [None])
            self._queue(root.close())
        levels = [level for level, groups in self._waiting.items() if groups]
        outcome.exhaustive = not levels
        left = (
            PART_SCHEDULES * BATCH
            if self.max_schedules is None
            else self.max_schedules - outcome.schedules
        )
        if not levels or left <= 0 or len(outcome.found) >= self.violations_max:
            outcome.exhaustive &= len(outcome.found) < self.violations_max
            return ()
        level, most = min(levels), min(PART_SCHEDULES, left)
        if level > self._level:
            self._level, self._before, self._begun_starts = level, outcome.schedules, 0
        groups = self._waiting[level]
        number = max(1, min(BATCH, left // PART_SCHEDULES, len(groups)))
        phase, violations = outcome.schedules, self.violations_max - len(outcome.found)
        apart, starts = (
            len(groups) / number,
            min(_PART_STARTS, sum(weight for _, weight, _ in groups) // number),
        )
        chosen = [self._some(groups, int(at * apart), starts) for at in reversed(range(number))]
        return [_Part(level, blobs, most, phase, violations) for blobs in reversed(chosen)]

    def _some(self, groups: list[Group], at: int, starts: int) -> tuple[bytes, ...]:
        """Groups from ``at`` on that make a part of about ``starts``. Parts of a batch lie apart:
        what is near meets the same states.
        """
        weight, end = 0, at
        while end < len(groups) and (end == at or weight + groups[end][1] <= starts):
            weight += groups[end][1]
            end += 1
        self._begun_starts += weight
        blobs = tuple(blob for _, _, blob in groups[at:end])
        del groups[at:end]
        return blobs

    def _queue(self, groups: Sequence[Group]) -> None:
        for group in groups:
            self._waiting.setdefault(group[0], []).append(group)

    def merge(self, result: PartResult) -> None:
        """Its groups wait for their turn."""
        self._queue(result.groups)

    def expected(self, outcome: Outcome) -> int | None:
        """By what the starts of the last level have come to so far."""
        done = outcome.schedules - self._before
        if self._level != self.bound or not done:
            return self.max_schedules
        left = sum(weight for _, weight, _ in self._waiting.get(self._level, ()))
        expected = outcome.schedules + done * left // self._begun_starts
        return expected if self.max_schedules is None else min(expected, self.max_schedules)

    def learn(self, keys: bytes) -> None:
        """States that are not gone on from any more."""
        self.seen.update(array("Q", keys))

    def work(self, system: System, part: _Part, tick: Tick | None = None) -> PartResult:
        """Depth first from each of the part's starts."""
        return _Walk(self, system, part, tick).run()


class _Frame:
    """A state with choices left that cost nothing."""

    __slots__ = ("rest", "state", "trace")

    def __init__(self, state: Any, trace: Trace, rest: list[Choice]) -> None:
        self.state = state
        self.trace = trace
        self.rest = rest


class _Walk:
    """Work on one part."""

    def __init__(
        self, strategy: Exhaustive, system: System, part: _Part, tick: Tick | None
    ) -> None:
        self._strategy = strategy
        self._system = system
        self._part = part
        self._tick = tick
        self._key = 0
        self._left = (_NO_BOUND if strategy.bound is None else strategy.bound) - part.level
        self._fresh: dict[int, None] = {}
        self._writer = StartWriter()
        self._stack: list[_Frame] = []
        self._result = PartResult()

    def run(self) -> PartResult:
        """What it comes to."""
        system, result = self._system, self._result
        system.coverage, system.points = Coverage(), set()
        starts = starts_of(self._part.blobs)
        navigator = Navigator(system, starts)
        for number, (_, actor) in enumerate(starts):
            navigator.go(number)
            if actor is not None:
                system.take(actor, alone=self._left == 0)
            self._closure()
            if self._over:
                self._hand_back(starts[number + 1 :])
                break
        navigator.close()
        result.coverage, result.points = system.coverage, array("Q", system.points).tobytes()
        result.keys = array("Q", self._fresh).tobytes()
        result.groups = self._writer.close()
        return result

    @property
    def _over(self) -> bool:
        return (
            self._result.schedules >= self._part.most
            or len(self._result.found) >= self._part.violations
        )

    def _closure(self) -> None:
        """All that can be reached from the present state at no cost."""
        system, stack = self._system, self._stack
        while True:
            if self._forward():
                self._ended()
            if self._over or not stack:
                return
            frame = stack[-1]
            choice = frame.rest.pop()
            system.restore(frame.state)
            if not frame.rest:
                system.release(frame.state)
                stack.pop()
            system.take(choice.actor, alone=self._left == 0)

    def _forward(self) -> bool:
        """On to the end of the schedule, or to a known state, leaving a frame wherever there was a
        choice. False: others go on.
        """
        system, left, level = self._system, self._left, self._part.level
        while True:
            choices = system.choices()
            free = [choice for choice in choices if choice.cost == 0]
            if len(free) < len(choices):
                choices = [choice for choice in choices if choice.cost <= left]
            if not choices:
                return True
            if len(choices) > 1 and self._strategy.hashing:
                key = self._key = system.key()
                if key in self._strategy.seen or key in self._fresh:
                    self._result.merged += 1
                    return True
                self._fresh[key] = None
            if len(free) < len(choices):
                for cost in sorted({choice.cost for choice in choices} - {0}):
                    self._writer.add(
                        level + cost,
                        system.trace,
                        [choice.actor for choice in choices if choice.cost == cost],
                    )
                if not free:
                    return False
            if len(free) > 1:
                self._stack.append(_Frame(system.save(), system.trace, free[:0:-1]))
            system.take(free[0].actor, alone=left == 0)

    def _ended(self) -> None:
        """One schedule more."""
        system, result, every = self._system, self._result, self._strategy.recheck_every
        result.schedules += 1
        if system.violation is not None:
            result.found.append(Found(system.violation, segments_of(system.trace)))
        # the key: parts are shorter than that
        if every and (self._key + self._part.phase + result.schedules) % every == 0:
            check_repeats(system)
            result.rechecked += 1
        if self._tick is not None and result.schedules % TICK_EVERY == 0:
            self._tick(result.schedules)

    def _hand_back(self, starts: Sequence[tuple[Any, Actor | None]]) -> None:
        """What is left of the part, deepest first."""
        for frame in reversed(self._stack):
            self._writer.add(
                self._part.level, frame.trace, [choice.actor for choice in reversed(frame.rest)]
            )
            self._system.release(frame.state)
        self._stack.clear()
        for path, actor in starts:
            self._writer.add_path(self._part.level, path, [actor])
