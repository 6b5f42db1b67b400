"""The content of the data in memory: as it was at the start, as it is now, and short names for
both.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from engine.patching.orders import Memory

__all__ = ("DataContent",)


class DataContent:
    """Data of a machine that stands at its start when this is made.

    :param room: physical memory (:attr:`engine.patching.port.MemoryPort.room`).
    :param start: its content at the start.
    :param spans: begin and end of what counts.
    """

    def __init__(self, room: Any, start: bytes, spans: Sequence[tuple[int, int]]) -> None:
        self._room = room
        self.start = start
        self.spans = tuple(spans)
        self._names: dict[tuple[int, int], tuple[bytes, bytes]] = {}

    def names(self) -> list[bytes]:
        """The name of the content of each span."""
        room, names = self._room, list[bytes]()
        for span in self.spans:
            data = bytes(room[span[0] : span[1]])
            known = self._names.get(span)
            # it seldom changes, and comparing is faster than hashing
            if known is None or known[0] != data:
                known = self._names[span] = (data, blake2b(data, digest_size=16).digest())
            names.append(known[1])
        return names

    def changed(self) -> Memory:
        """The spans whose content is not that of the start, by name."""
        room, start = self._room, self.start
        return {
            begin: name
            for (begin, end), name in zip(self.spans, self.names(), strict=True)
            if room[begin:end] != start[begin:end]
        }

    def content(self, phys: int) -> tuple[bytes, bytes]:
        """What the span at ``phys`` held at the start, and what it holds now."""
        end = next(end for begin, end in self.spans if begin == phys)
        return self.start[phys:end], bytes(self._room[phys:end])
