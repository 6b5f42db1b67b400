"""The actors of a schedule: what kind each one is, and its number.

Only this module parses and prints the texts of actors.
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple

__all__ = ("Actor", "ActorKind", "actor_from")


class ActorKind(StrEnum):
    """The kinds of actors that make a step. The value is the first letter of the actor's text."""

    VCPU = ""
    """A vCPU goes on."""
    CONTROL = "c"
    """A control task goes on."""
    INTERRUPT = "i"
    """An interrupt comes on a vCPU."""
    NMI = "n"
    """An NMI comes on a vCPU."""
    PREEMPTION = "p"
    """An interrupt comes on a vCPU, and its return gives the vCPU to another task."""
    FETCH = "f"
    """The next instruction of a vCPU is fetched in another way than without this step."""
    SWITCH = "s"
    """A vCPU whose task stands in ``schedule()``, or between calls, goes to another task."""


class Actor(NamedTuple):
    """An actor, which makes a step of a schedule.

    :ivar kind: what kind of actor it is.
    :ivar index: the number of the control task, if the actor is one; else the number of the vCPU
        that goes on or that the event comes to.
    """

    kind: ActorKind
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]

    def __str__(self) -> str:
        """Return the text of the actor in a schedule, such as ``0``, ``c0``, ``i0`` or ``n0``."""
        return f"{self.kind}{self.index}"

    def __repr__(self) -> str:
        return f"Actor({str(self)!r})"

    @property
    def is_event(self) -> bool:
        """The actor is an event that happens to a vCPU, and does not go on by itself."""
        return self.kind in _EVENTS


_EVENTS: Final = frozenset(
    {ActorKind.INTERRUPT, ActorKind.NMI, ActorKind.PREEMPTION, ActorKind.FETCH}
)
_TEXT: Final = re.compile(f"([{''.join(ActorKind)}]?)(0|[1-9][0-9]*)")
_DIGITS_MAX: Final = 12
"""No machine has an actor whose number has more digits. The bound keeps Python from refusing the
conversion of a number with thousands of digits.
"""


@lru_cache(maxsize=4096)
def actor_from(text: str) -> Actor:
    """Return the actor whose text is ``text``.

    Equal texts give the same object while the cache has it, so a path of many steps is parsed at
    the cost of one look-up a step.

    :raises ValueError: no actor prints as ``text``.
    """
    found = _TEXT.fullmatch(text)
    if found is None or len(found[2]) > _DIGITS_MAX:
        raise ValueError(f"'{text}' is no actor")
    return Actor(ActorKind(found[1]), int(found[2]))
