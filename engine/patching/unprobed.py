"""The record of what calls do without probes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from engine.kretprobe import Kretprobe

__all__ = ("CallOutcome", "UnprobedCalls")

CallOutcome = tuple[Any, ...]
"""What one call has left, part by part: the registers (with the flags last), the state of the vector unit, that of the floating-point unit,
the content of its buffers, and how it died (None: it did not). The names of the parts are in
:class:`engine.patching.port.PatchFacts`."""


@dataclass(slots=True)
class UnprobedCalls:
    """What was seen of all calls, one task after the other.

    :ivar outcomes: of each task, what each of its calls left.
    :ivar shares: a call wrote to memory that another one might read.
    :ivar alike: all calls retire as many instructions, and leave the same in their buffers.
    :ivar entries: of each address that was asked for, how often one call came there at the most.
    """

    outcomes: dict[int, list[CallOutcome]] = field(default_factory=dict[int, list[CallOutcome]])
    shares: bool = False
    alike: bool = True
    entries: dict[int, int] = field(default_factory=dict[int, int])

    def instances_suffice(self, returns: Iterable[Kretprobe], calls: int) -> bool:
        """No call finds the instances of a return probe taken, even if so many ``calls`` are under way at once, each wherever it gets."""
        return all(rp.kp.addr is None or rp.maxactive >= calls * self.entries.get(rp.kp.addr, 1 << 30) for rp in returns)
