"""The record of a planted fault: one place of the project where a wrong text stands for the right
one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ("Fault", "Kind")


class Kind(StrEnum):
    """What a fault breaks, and so which oracle has to see it."""

    HITS = "hits and misses"
    RETURNS = "return probes"
    POST = "post_handlers"
    ORDER = "order of handlers"
    PROMISE = "what an operation promises when it returns"
    LEAK = "leaks"
    PROGRESS = "progress of the optimizer"
    LOCKS = "locks"
    WAITS = "waits"
    FREED = "use after free"
    TEXT = "text that is written"
    NEIGHBOUR = "neighbours in one range"
    COPY = "copies of instructions"
    STEP = "single steps and emulation"
    MACHINE = "traps, interrupts and NMIs"
    MODULE = "code that goes away"
    EXPLORER = "the explorer itself"


@dataclass(frozen=True, slots=True)
class Fault:
    """In ``file``, ``old`` (which occurs once) becomes ``new``.

    :ivar name: what is wrong then, in one sentence.
    :ivar kind: what that breaks.
    """

    name: str
    file: str
    old: str
    new: str
    kind: Kind
