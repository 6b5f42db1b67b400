"""What can be explored: a system that offers choices, takes one, and can be gone back with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from engine.brief import described
from engine.search.actor import Actor

__all__ = ("Choice", "Coverage", "System", "Trace", "Violation", "ViolationKind")


class ViolationKind(StrEnum):
    """What can go wrong; the words of the command's JSON."""

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
    """Something has happened that must not happen.

    :ivar kind: what kind of thing.
    :ivar cpu: the vCPU that it has happened on; None: it has happened in a control task.
    :ivar rip: the address of the instruction; None: it is no matter of one instruction.
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
    """One way to go on.

    :ivar actor: who makes a step.
    :ivar cost: what the choice takes of the preemption bound.
    """

    actor: Actor
    cost: int


@dataclass(slots=True)
class Coverage:
    """How often hits took each way, and what was seen of text writes that met CPUs in flight, over
    all schedules.

    ``ftrace`` is in the document only where there were such hits.
    """

    int3: int = 0
    boosted: int = 0
    stepped: int = 0
    jump: int = 0
    in_flight_at_write: int = 0
    parked_in_range: int = 0
    ftrace: int = 0

    def add(self, other: Coverage) -> None:
        """What other schedules have seen."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def to_json(self) -> dict[str, int]:
        """An entry of the command's document."""
        return {
            name: count
            for name in self.__slots__
            if (count := getattr(self, name)) or name != "ftrace"
        }


Trace = tuple[Any, Actor, int] | None
"""How a state came about: the trace of the state before, the actor that went on from there, and how
many steps that one made. The trace of the start is None. States with a common past share its trace.
"""


class System(Protocol):
    """What a search explores. It is deterministic: the same choices from the start give the same
    states.
    """

    @property
    def coverage(self) -> Coverage:
        """What was seen since a fresh record was put here."""
        ...

    @coverage.setter
    def coverage(self, coverage: Coverage, /) -> None: ...

    @property
    def points(self) -> set[int]:
        """Names of the pairs of a vCPU's position and a control state that were met since a fresh
        set was put here.
        """
        ...

    @points.setter
    def points(self, points: set[int], /) -> None: ...

    @property
    def trace(self) -> Trace:
        """How the present state came about."""
        ...

    @property
    def violation(self) -> Violation | None:
        """What is wrong in the present state; None: nothing is."""
        ...

    def reset(self) -> None:
        """Go to the start, where nothing has happened."""
        ...

    def choices(self) -> Sequence[Choice]:
        """How the present state can be gone on from. Where whoever went on last can go on, that
        choice comes first. No choice at all: the schedule has ended here.
        """
        ...

    def take(self, actor: Actor, most: int | None = None, *, alone: bool = False) -> int:
        """Let ``actor`` go on to the next choice point, or for ``most`` steps at most.

        :param alone: no choice that costs anything will be made any more, so ``actor`` goes on to
            the next point where there is a choice that costs nothing.
        :returns: how many steps it made.
        """
        ...

    def save(self) -> Any:
        """Keep the present state, to go back to it by :meth:`restore`."""
        ...

    def restore(self, state: Any) -> None:
        """Go back to ``state``, which can be gone back to again."""
        ...

    def release(self, state: Any) -> None:
        """``state`` is not needed any more."""
        ...

    def key(self) -> int:
        """A number of 64 bits for the present state. Two states with the same number are taken for
        one: the same can happen from both, with the same verdicts. It is the same in every process.
        """
        ...
