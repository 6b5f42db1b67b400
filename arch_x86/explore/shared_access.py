"""Which instructions of which tasks load and store which bytes, and where tasks so meet each other.

It goes in as single accesses, as they are seen; out come the addresses of those instructions before which another task may have to be let
go on, for that can change what they load, or what their stores replace.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import or_

__all__ = ("Access", "Accesses")


@dataclass(frozen=True, slots=True)
class Access:
    """One task's instruction at ``rip`` loads, or with ``store`` stores, ``size`` bytes from the physical address ``phys``."""

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
        """Addresses of the instructions that touch a byte which one task stores to and another one loads or stores."""
        return {access.rip for access in self._seen if any(self._meets(byte) for byte in access.span)}

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
        bits = reduce(or_, (self._users[byte] for byte in span if byte in self._users), 0)
        return {task for task in range(bits.bit_length()) if bits >> task & 1}
