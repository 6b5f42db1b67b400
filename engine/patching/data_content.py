"""The content of the data in memory, as it was at the start and as it is now.

Each content has a short name, which is a hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from engine.patching.orders import Memory

__all__ = ("DataContent",)


class DataContent:
    """This object is made when the machine stands at its start, and compares data with that.

    :param room: physical memory (:attr:`engine.patching.port.MemoryPort.room`).
    :param start: the content of the memory at the start.
    :param spans: begin and end of each span of memory that counts.
    """

    def __init__(self, room: Any, start: bytes, spans: Sequence[tuple[int, int]]) -> None:
        self._room = room
        self.start = start
        self.spans = tuple(spans)
        self._names: dict[tuple[int, int], tuple[bytes, bytes]] = {}

    def names(self) -> list[bytes]:
        """Return the name of the present content of each span."""
        room, names = self._room, list[bytes]()
        for span in self.spans:
            data = bytes(room[span[0] : span[1]])
            known = self._names.get(span)
            # The content seldom changes, and it is faster to compare it than to hash it.
            if known is None or known[0] != data:
                known = self._names[span] = (data, blake2b(data, digest_size=16).digest())
            names.append(known[1])
        return names

    def changed(self) -> Memory:
        """Return the names of the spans whose content is not that of the start, by address."""
        room, start = self._room, self.start
        return {
            begin: name
            for (begin, end), name in zip(self.spans, self.names(), strict=True)
            if room[begin:end] != start[begin:end]
        }

    def content(self, phys: int) -> tuple[bytes, bytes]:
        """Return what the span at ``phys`` held at the start, and what it holds now."""
        end = next(end for begin, end in self.spans if begin == phys)
        return self.start[phys:end], bytes(self._room[phys:end])
