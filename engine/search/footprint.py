"""Footprints: what a step may touch, which tells a search which steps may change places.

Two adjacent steps of a schedule whose footprints do not meet lead to the same state in either
order. A partial-order method (Godefroid, LNCS 1032) explores one of the two orders only. No search
of this project asks for footprints yet. They are worked out when they are asked for, so a search
that does not ask pays nothing.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Protocol

from engine.search.actor import Actor
from engine.search.explorable import System

__all__ = ("EVERYTHING", "Footprint", "SystemWithFootprints")


@dataclass(frozen=True, slots=True)
class Footprint:
    """The footprint of one step. It may name more than the step touches, and never less.

    :ivar fetched: the text that the step may execute, as spans of addresses.
    :ivar written: the text that the step may write, as spans of addresses.
    :ivar locks: the names of the locks that the step may take, drop, or look at.
    :ivar reads: the shared data that the step may read; equal values stand for the same data.
    :ivar writes: the shared data that the step may write.
    :ivar everything: the step may touch anything; the other fields say nothing then.
    """

    fetched: tuple[range, ...] = ()
    written: tuple[range, ...] = ()
    locks: frozenset[str] = frozenset()
    reads: frozenset[Hashable] = frozenset()
    writes: frozenset[Hashable] = frozenset()
    everything: bool = False

    def meets(self, other: Footprint) -> bool:
        """Return whether the order of the two steps may matter.

        It may if both touch the same lock, or if one of them writes what the other one touches.
        """
        if self.everything or other.everything:
            return True
        if not self.locks.isdisjoint(other.locks):
            return True
        if not (self.writes.isdisjoint(other.writes) and self.writes.isdisjoint(other.reads)):
            return True
        return (
            not self.reads.isdisjoint(other.writes)
            or _overlap(self.written, other.fetched)
            or _overlap(self.written, other.written)
            or _overlap(self.fetched, other.written)
        )


EVERYTHING: Final = Footprint(everything=True)
"""The footprint of a step of which nothing is known."""


def _overlap(first: tuple[range, ...], second: tuple[range, ...]) -> bool:
    """Return whether a span of ``first`` and one of ``second`` have an address in common."""
    return any(
        one.start < other.stop and other.start < one.stop for one in first for other in second
    )


class SystemWithFootprints(System, Protocol):
    """A system that can tell what a choice's step would touch.

    A :class:`~engine.search.explorable.Choice` is a plain value, which is kept and compared after
    its state has gone. What its step touches depends on the state, so the system is asked.
    """

    def footprint(self, actor: Actor) -> Footprint:
        """Return what the step of ``actor`` may touch that begins in the present state.

        That state has to offer the actor's choice, and stays as it is.
        """
        ...
