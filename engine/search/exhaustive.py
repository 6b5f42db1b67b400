"""The exhaustive search, which visits every schedule within a preemption bound.

It is that of Musuvathi and Qadeer (PLDI 2007): schedules with fewer preemptions come first. All
schedules that cost the same are one level: those without a preemption, then those with one, and so
on. Within a level the search goes depth first. It goes on from a state only where it meets the
state first, which is where the state costs the least. A choice there that costs something is a
start of a later level. So which states the search goes on from does not depend on the order of a
level's starts, and a level can be worked on in parts (:mod:`engine.search.levels`).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, Final

from engine.search.actor import Actor
from engine.search.explorable import Choice, Coverage, KeepsStates, System, Trace
from engine.search.levels import Levels, Part
from engine.search.parts import (
    RECHECK_EVERY,
    TICK_EVERY,
    Found,
    Outcome,
    PartResult,
    Tick,
    check_repeats,
)
from engine.search.prefixes import KeptStart, Navigator, StartWriter, starts_of
from engine.search.schedule import segments_of

__all__ = ("Exhaustive",)

_KEPT_MOST: Final = 100_000
"""So many starts are kept with their states, which are some hundred bytes each; of others only the
paths are known, and the states are reached again.
"""
_NO_BOUND: Final = 1 << 30
"""The bound that stands for none: a schedule with so many preemptions would take days."""


class Exhaustive:
    """A search that visits every schedule within a bound.

    :param bound: what the choices of a schedule may cost together; None: there is no bound.
    :param hashing: go on from a state only where it is met first, which keeps the set of outcomes.
    :param max_schedules: the search ends after so many schedules; None: there is no limit.
    :param violations_max: the search ends after so many violations.
    :param recheck_every: one schedule in so many is run a second time; 0: none is.
    :ivar seen: the keys of the states that the search has gone on from, as far as this process
        knows.
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
        self.violations_max = violations_max
        self.recheck_every = recheck_every
        self.seen: set[int] = set()
        self._levels = Levels(max_schedules, violations_max)
        self._kept: dict[bytes, list[KeptStart]] = {}
        self._kept_starts = 0
        self._keeper: System | None = None

    def batch(self, outcome: Outcome) -> Sequence[Part]:
        """Return parts of the lowest level that has starts left."""
        return self._levels.batch(outcome)

    def merge(self, result: PartResult) -> None:
        """Let the starts that the part has left to others wait for their turn."""
        self._levels.put(result.groups)

    def expected(self, outcome: Outcome) -> int | None:
        """Return about how many schedules there will be, or None if that can't be told yet."""
        return self._levels.expected(outcome, self.bound)

    def learn(self, keys: bytes) -> None:
        """Note that the search has gone on from the states with these keys."""
        self.seen.update(array("Q", keys))

    def keep(self, system: System, states: dict[bytes, list[KeptStart]]) -> None:
        """Keep the states that groups of starts begin with, as far as there is room for them.

        :param system: the system whose states they are; no other one can go back to them.
        """
        if self._keeper is not system:  # A worker begins with what its leader has kept.
            self._keeper = system
            self._kept, self._kept_starts = {}, 0
        for text, kept in states.items():
            if self._kept_starts + len(kept) <= _KEPT_MOST and text not in self._kept:
                self._kept[text] = kept
                self._kept_starts += len(kept)

    def kept(self, system: System, texts: Sequence[bytes]) -> list[KeptStart] | None:
        """Return the starts of these groups with their states, and keep them no longer.

        :returns: None if some of the states are not kept here, or are not of ``system``.
        """
        if self._keeper is not system:
            return None
        groups = [self._kept.pop(text, None) for text in texts]
        found = [group for group in groups if group is not None]
        self._kept_starts -= sum(map(len, found))
        return [one for group in found for one in group] if len(found) == len(groups) else None

    def work(self, system: System, part: Part, tick: Tick | None = None) -> PartResult:
        """Go depth first from each of the part's starts, and return what the part comes to."""
        return _Walk(self, system, part, tick).run()


class _Frame:
    """A state on the way to the present one that has choices left which cost nothing.

    :ivar state: the saved state.
    :ivar trace: how the state came about.
    :ivar rest: the choices left; the next one is the last of them.
    """

    __slots__ = ("rest", "state", "trace")

    def __init__(self, state: Any, trace: Trace, rest: list[Choice]) -> None:
        self.state = state
        self.trace = trace
        self.rest = rest


class _Walk:
    """The work on one part, which goes depth first from each of its starts.

    :ivar _left: what the choices behind a start of the part may cost.
    :ivar _fresh: the keys of the states that this part was the first to meet, in that order.
    :ivar _stack: the states on the way to the present one that have choices left.
    """

    def __init__(self, strategy: Exhaustive, system: System, part: Part, tick: Tick | None) -> None:
        self._strategy = strategy
        self._system = system
        self._part = part
        self._tick = tick
        self._key = 0
        self._left = (_NO_BOUND if strategy.bound is None else strategy.bound) - part.level
        self._fresh: dict[int, None] = {}
        self._writer = StartWriter()
        self._keeps = isinstance(system, KeepsStates) and system.states_are_small
        self._stack: list[_Frame] = []
        self._result = PartResult()

    def run(self) -> PartResult:
        """Go on from each of the part's starts, and return what the part comes to."""
        system, result = self._system, self._result
        system.coverage, system.points = Coverage(), set()
        kept = self._strategy.kept(system, self._part.blobs) if self._keeps else None
        if kept is None:
            self._walk_from_paths()
        else:
            self._walk_from_states(kept)
        result.groups = self._writer.close()
        self._strategy.keep(system, self._writer.states)
        result.coverage, result.points = system.coverage, array("Q", system.points).tobytes()
        result.keys = array("Q", self._fresh).tobytes()
        return result

    def _walk_from_paths(self) -> None:
        starts = starts_of(self._part.blobs)
        navigator = Navigator(self._system, starts)
        for number, (_, actor) in enumerate(starts):
            navigator.go(number)
            self._begin(actor)
            if self._over:
                self._hand_back()
                for path, following in starts[number + 1 :]:
                    self._writer.add_path(self._part.level, path, [following])
                break
        navigator.close()

    def _walk_from_states(self, starts: Sequence[KeptStart]) -> None:
        system = self._system
        for number, (state, actor) in enumerate(starts):
            system.restore(state)
            self._begin(actor)
            if self._over:
                self._hand_back()
                for left, following in starts[number + 1 :]:
                    system.restore(left)
                    self._writer.add(self._part.level, system.trace, [following], left)
                break

    def _begin(self, actor: Actor | None) -> None:
        """Go on from a start of the part, where ``actor`` goes on."""
        if actor is not None:
            self._system.take(actor, alone=self._left == 0)
        self._closure()

    @property
    def _over(self) -> bool:
        return (
            self._result.schedules >= self._part.most
            or len(self._result.found) >= self._part.violations
        )

    def _closure(self) -> None:
        """Visit all that can be reached from the present state by choices that cost nothing."""
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
        """Go on to the end of the schedule, or to a state that was met before.

        On the way, each choice between actors that cost nothing leaves a frame, and each choice
        that costs something becomes a start of a later level. The bound cuts choices that cost more
        than is left.

        :returns: whether a schedule has ended; False: it goes on in starts of later levels only.
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
                state = system.save() if self._keeps else None
                for cost in sorted({choice.cost for choice in choices} - {0}):
                    self._writer.add(
                        level + cost,
                        system.trace,
                        [choice.actor for choice in choices if choice.cost == cost],
                        state,
                    )
                if not free:
                    return False
            if len(free) > 1:
                self._stack.append(_Frame(system.save(), system.trace, free[:0:-1]))
            system.take(free[0].actor, alone=left == 0)

    def _ended(self) -> None:
        """Count a schedule that has ended or come to a known state, and note its violation."""
        system, result, every = self._system, self._result, self._strategy.recheck_every
        result.schedules += 1
        if system.violation is not None:
            result.found.append(Found(system.violation, segments_of(system.trace)))
        # Many parts have fewer schedules than ``every``, so the number within the part alone would
        # choose none of theirs. The key of the last state, which is as good as random, spreads the
        # schedules that are run twice over all parts, and is the same in every process.
        if every and (self._key + self._part.phase + result.schedules) % every == 0:
            check_repeats(system)
            result.rechecked += 1
        if self._tick is not None and result.schedules % TICK_EVERY == 0:
            self._tick(result.schedules)

    def _hand_back(self) -> None:
        """Leave what was not visited from the last start, the deepest states first, to others."""
        for frame in reversed(self._stack):
            self._writer.add(
                self._part.level,
                frame.trace,
                [choice.actor for choice in reversed(frame.rest)],
                frame.state if self._keeps else None,
            )
            self._system.release(frame.state)
        self._stack.clear()
