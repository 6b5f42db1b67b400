"""The record of memory accesses that tells at which instructions tasks meet.

It is given each load and store that was seen. It returns the addresses of the instructions that
touch a byte which one task stores to and another one loads or stores: what such an instruction does
depends on whether the other task has been there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ("Access", "Accesses")


@dataclass(frozen=True, slots=True)
class Access:
    """This record describes one access of memory by a task.

    :ivar task: the number of the task.
    :ivar rip: the address of the instruction.
    :ivar phys: the physical address of the first byte.
    :ivar size: how many bytes are touched.
    :ivar store: the access is a store; otherwise it is a load.
    """

    task: int
    rip: int
    phys: int
    size: int
    store: bool

    @property
    def span(self) -> range:
        """Return the physical addresses of the bytes that are touched."""
        return range(self.phys, self.phys + self.size)


class Accesses:
    """This object has all accesses that were seen so far."""

    def __init__(self) -> None:
        self._seen: set[Access] = set()
        self._users: dict[int, int] = {}
        self._writers: dict[int, int] = {}

    def add(self, access: Access) -> bool:
        """Add an access, and return whether it was new."""
        if access in self._seen:
            return False
        self._seen.add(access)
        for byte in access.span:
            self._users[byte] = self._users.get(byte, 0) | 1 << access.task
            self._writers[byte] = self._writers.get(byte, 0) | access.store << access.task
        return True

    def meeting_points(self) -> set[int]:
        """Return the addresses of the instructions that touch a byte at which tasks meet.

        One task stores to such a byte, and another one loads or stores it.
        """
        return {
            access.rip for access in self._seen if any(self._meets(byte) for byte in access.span)
        }

    def instructions(self) -> set[int]:
        """Return the addresses of all instructions that were seen."""
        return {access.rip for access in self._seen}

    def _meets(self, byte: int) -> bool:
        users = self._users[byte]
        # Each task is a bit of ``users``; more than one bit is left if two tasks or more touch it.
        return self._writers[byte] != 0 and users & (users - 1) != 0

    def written(self) -> Iterator[range]:
        """Yield the bytes of each store that was seen, whichever task made it."""
        for access in self._seen:
            if access.store:
                yield access.span

    def tasks_in(self, span: range) -> set[int]:
        """Return the numbers of the tasks that touched a byte of ``span``."""
        users = {self._users[byte] for byte in span if byte in self._users}
        return {task for bits in users for task in range(bits.bit_length()) if bits >> task & 1}
