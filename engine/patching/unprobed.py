"""What calls do without probes: the record of it, and what the port offers to find it out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from engine.kretprobe import Kretprobe

__all__ = ("CallOutcome", "Touched", "UnprobedCalls", "UnprobedPort")

CallOutcome = tuple[Any, ...]
"""An outcome is what one call has left, part by part.

The parts are the registers (with the flags last), the state of the vector unit, that of the
floating-point unit, the content of its buffers, and how it died (None if it did not). Their names
are in :class:`engine.patching.port_records.PatchFacts`.
"""
Touched = Callable[[int, int, int, bool], None]
"""Such a function is told of each access of memory.

Its arguments are the address of the instruction, the physical address, the size in bytes, and
whether the access is a store.
"""


_UNKNOWN: Final = 1 << 30
"""So often may a call come to an address that was not counted.

No return probe has as many instances.
"""


@dataclass(slots=True)
class UnprobedCalls:
    """This record says what the calls have done without probes, one task after the other.

    :ivar outcomes: of each task, what each of its calls left.
    :ivar shares: whether a call wrote to memory that another one might read.
    :ivar alike: whether all calls retire as many instructions, and leave the same in their
        buffers.
    :ivar entries: of each address that was asked for, how often one call came there at the
        most.
    """

    outcomes: dict[int, list[CallOutcome]] = field(default_factory=dict[int, list[CallOutcome]])
    shares: bool = False
    alike: bool = True
    entries: dict[int, int] = field(default_factory=dict[int, int])

    def instances_suffice(self, returns: Iterable[Kretprobe], calls: int) -> bool:
        """Return whether no call ever finds all instances of a return probe taken.

        :param returns: the return probes.
        :param calls: how many calls may be under way at once, each at any place.
        """
        return all(
            rp.kp.addr is None or rp.maxactive >= calls * self.entries.get(rp.kp.addr, _UNKNOWN)
            for rp in returns
        )


class UnprobedPort(Protocol):
    """This port makes calls on a machine without probes, before an exploration begins."""

    def run_all(self, entries: Iterable[int]) -> UnprobedCalls:
        """Make all calls, one task after the other, and put the machine back to where it was.

        :param entries: the addresses at which the calls are counted.
        :raises UnprobedFault: a call dies, or does not come to its end.
        """
        ...

    def trace(self, cpu: int, spans: Iterable[tuple[int, int]], touched: Touched) -> None:
        """Tell ``touched`` from now on what the vCPU loads and stores in the physical ``spans``."""
        ...

    def stacks(self, cpu: int) -> list[range]:
        """Return the physical pages of the stacks of the vCPU's tasks."""
        ...

    def pages(self) -> Iterable[int]:
        """Return the physical addresses of all pages of data, stacks included."""
        ...

    @property
    def page_size(self) -> int:
        """Return how many bytes a page has."""
        ...

    def is_machines_own(self, addr: int) -> bool:
        """Return whether ``addr`` is in code of the machine or of probes.

        All other code is the program's.
        """
        ...

    def flag_changes(self, addr: int) -> Iterator[int]:
        """Yield the addresses of the instructions in the function around ``addr`` that change IF.

        These change whether interrupts are taken.
        """
        ...
