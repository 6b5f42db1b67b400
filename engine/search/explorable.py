"""The contract of a system that can be explored: it offers choices and goes back to states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

from engine.brief import described
from engine.search.actor import Actor

__all__ = (
    "Choice",
    "Coverage",
    "KeepsStates",
    "System",
    "Trace",
    "Violation",
    "ViolationKind",
)


class ViolationKind(StrEnum):
    """The kinds of violations. The values are the words of the command's JSON."""

    TORN = "torn-instruction"
    WRONG_RESULT = "wrong-result"
    LOST_HIT = "lost-hit"
    EXTRA_HIT = "extra-hit"
    USE_AFTER_FREE = "use-after-free"
    NOT_RESTORED = "text-not-restored"
    INVARIANT = "invariant"
    DEADLOCK = "deadlock"
    GUEST_FAULT = "guest-fault"


@dataclass(frozen=True, slots=True)
class Violation:
    """A violation: something has happened that an oracle forbids.

    :ivar kind: the kind of violation.
    :ivar cpu: the vCPU on which it has happened; None: it has happened in a control task.
    :ivar rip: the address of the instruction; None: it does not concern one instruction.
    :ivar explain: what has happened, in a sentence.
    """

    kind: ViolationKind
    cpu: int | None
    rip: int | None
    explain: str

    def __repr__(self) -> str:
        where = "" if self.cpu is None or self.rip is None else f"cpu {self.cpu} at {self.rip:#x}"
        return described(self, str(self.kind), where, self.explain)


class Choice(NamedTuple):
    """One of the ways in which a state can be gone on from.

    :ivar actor: the actor that makes a step.
    :ivar cost: what the choice takes of the preemption bound.
    """

    actor: Actor
    cost: int


_ONLY_SOME: Final = ("ftrace", "old_code", "new_code", "trapped")
"""These counts are in the document only where they are not 0."""


@dataclass(slots=True)
class Coverage:
    """Counts of the ways that hits took, and of text writes that met CPUs in flight.

    They are taken over all schedules.

    ``ftrace`` is in the document only where hits came by way of ftrace, and the last three only
    where a patch protocol replaced code: how often that was executed as it was before, as it is
    afterwards, and as the protocol's breakpoint.
    """

    int3: int = 0
    boosted: int = 0
    stepped: int = 0
    jump: int = 0
    in_flight_at_write: int = 0
    parked_in_range: int = 0
    ftrace: int = 0
    old_code: int = 0
    new_code: int = 0
    trapped: int = 0

    def add(self, other: Coverage) -> None:
        """Add what other schedules have seen to these counts."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def to_json(self) -> dict[str, int]:
        """Return the counts as an entry of the command's document."""
        return {
            name: count
            for name in self.__slots__
            if (count := getattr(self, name)) or name not in _ONLY_SOME
        }


Trace = tuple[Any, Actor, int] | None
"""How a state came about: the trace of the state before, the actor that went on from there, and how
many steps that one made. The trace of the start is None. States with a common past share its trace.
"""


@runtime_checkable
class KeepsStates(Protocol):
    """A system whose saved states are small, so that a search may keep many of them."""

    @property
    def states_are_small(self) -> bool:
        """Return whether a search may keep some 100,000 states."""
        ...


class System(Protocol):
    """A system that a search explores.

    It is deterministic: the same choices from the start give the same states.
    """

    @property
    def coverage(self) -> Coverage:
        """The counts of what was seen since a fresh record was put here."""
        ...

    @coverage.setter
    def coverage(self, coverage: Coverage, /) -> None: ...

    @property
    def points(self) -> set[int]:
        """The names of the pairs of a vCPU's position and a control state that were met.

        They count from the moment at which a fresh set was put here.
        """
        ...

    @points.setter
    def points(self, points: set[int], /) -> None: ...

    @property
    def trace(self) -> Trace:
        """The steps that have led to the present state."""
        ...

    @property
    def violation(self) -> Violation | None:
        """The violation in the present state; None: there is none."""
        ...

    def reset(self) -> None:
        """Go to the start, where no actor has made a step."""
        ...

    def choices(self) -> Sequence[Choice]:
        """Return the choices that go on from the present state.

        Where the actor that went on last can go on, its choice comes first. No choice at all means
        that the schedule has ended here.
        """
        ...

    def take(self, actor: Actor, most: int | None = None, *, alone: bool = False) -> int:
        """Let ``actor`` go on to the next choice point, or for ``most`` steps at most.

        :param alone: the search will make no choice any more that costs anything, so ``actor`` goes
            on to the next point where there is a choice that costs nothing.
        :returns: how many steps the actor made.
        """
        ...

    def save(self) -> Any:
        """Return a record of the present state, to which :meth:`restore` can go back."""
        ...

    def restore(self, state: Any) -> None:
        """Go back to ``state``, which can be restored again afterwards."""
        ...

    def release(self, state: Any) -> None:
        """Let go of the saved ``state``, which is not needed any more."""
        ...

    def key(self) -> int:
        """Return a number of 64 bits that stands for the present state.

        Two states with the same number are taken for one: the same can happen from both, with the
        same verdicts. The number is the same in every process.
        """
        ...
