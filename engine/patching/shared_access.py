"""At which instructions tasks meet in memory.

What goes in is each load and store that was seen. What comes out is the addresses of the
instructions that touch a byte which one task stores to and another one loads or stores: what they
do depends on whether the other task has been there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ("Access", "Accesses")


@dataclass(frozen=True, slots=True)
class Access:
    """One task's instruction at ``rip`` loads, or with ``store`` stores, ``size`` bytes from the
    physical address ``phys``.
    """

    task: int
    rip: int
    phys: int
    size: int
    store: bool

    @property
    def span(self) -> range:
        """The bytes."""
        return range(self.phys, self.phys + self.size)


class Accesses:
    """All accesses seen so far."""

    def __init__(self) -> None:
        self._seen: set[Access] = set()
        self._users: dict[int, int] = {}
        self._writers: dict[int, int] = {}

    def add(self, access: Access) -> bool:
        """One access. Returns whether it was not known."""
        if access in self._seen:
            return False
        self._seen.add(access)
        for byte in access.span:
            self._users[byte] = self._users.get(byte, 0) | 1 << access.task
            self._writers[byte] = self._writers.get(byte, 0) | access.store << access.task
        return True

    def meeting_points(self) -> set[int]:
        """Addresses of the instructions that touch a byte which one task stores to and another one
        loads or stores.
        """
        return {
            access.rip for access in self._seen if any(self._meets(byte) for byte in access.span)
        }

    def instructions(self) -> set[int]:
        """Addresses of all instructions that were seen."""
        return {access.rip for access in self._seen}

    def _meets(self, byte: int) -> bool:
        users = self._users[byte]
        return self._writers[byte] != 0 and users & (users - 1) != 0  # of two tasks or more

    def written(self) -> Iterator[range]:
        """The bytes that were stored to, by whom ever."""
        for access in self._seen:
            if access.store:
                yield access.span

    def tasks_in(self, span: range) -> set[int]:
        """Who touched a byte of ``span``."""
        users = {self._users[byte] for byte in span if byte in self._users}
        return {task for bits in users for task in range(bits.bit_length()) if bits >> task & 1}
