"""What calls do without probes: the record of it, and what the port must offer to find it out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from engine.kretprobe import Kretprobe

__all__ = ("CallOutcome", "Touched", "UnprobedCalls", "UnprobedPort")

CallOutcome = tuple[Any, ...]
"""What one call has left, part by part: the registers (with the flags last), the state of the
vector unit, that of the floating-point unit, the content of its buffers, and how it died (None: it
did not). The names of the parts are in
:class:`engine.patching.port_records.PatchFacts`.
"""
Touched = Callable[[int, int, int, bool], None]
"""Told of each access of memory: address of the instruction, physical address, size in bytes, and
whether it is a store.
"""


_UNKNOWN: Final = 1 << 30
"""How often a call may come to an address that was not counted: more often than there are
instances of any return probe.
"""


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
        """No call finds the instances of a return probe taken, even if so many ``calls`` are under
        way at once, each wherever it gets.
        """
        return all(
            rp.kp.addr is None or rp.maxactive >= calls * self.entries.get(rp.kp.addr, _UNKNOWN)
            for rp in returns
        )


class UnprobedPort(Protocol):
    """Calls on a machine without probes. Nothing here is asked once an exploration has begun."""

    def run_all(self, entries: Iterable[int]) -> UnprobedCalls:
        """Make all calls, one task after the other, and go back to where the machine was.

        :param entries: addresses to count.
        :raises UnprobedFault: a call dies, or does not come to its end.
        """
        ...

    def trace(self, cpu: int, spans: Iterable[tuple[int, int]], touched: Touched) -> None:
        """From now on tell ``touched`` of what the vCPU loads and stores in the physical
        ``spans``.
        """
        ...

    def stacks(self, cpu: int) -> list[range]:
        """Physical pages of the stacks of the vCPU's tasks."""
        ...

    def pages(self) -> Iterable[int]:
        """Physical addresses of all pages of data, stacks included."""
        ...

    @property
    def page_size(self) -> int:
        """Bytes of a page."""
        ...

    def is_machines_own(self, addr: int) -> bool:
        """The code at ``addr`` belongs to the machine or to probes, not to the program."""
        ...

    def flag_changes(self, addr: int) -> Iterator[int]:
        """Addresses of the instructions that change whether interrupts are taken, in the function
        that holds ``addr``.
        """
        ...
