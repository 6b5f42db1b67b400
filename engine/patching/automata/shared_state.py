"""What vCPUs share beside the text: data in memory, open calls of return probes, oracles' memory.

Each such state has a number. Where tasks share nothing and no return probe is set, there is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any

from engine.patching.exploration import Exploration
from engine.patching.open_calls import OpenCalls
from engine.patching.oracles.kept_memory import without

__all__ = ("SharedStates",)


class SharedStates:
    """The shared states of ``plain`` that were met, by number; the start has the number 0.

    :param apart: the physical spans of memory that belong to one vCPU each.
    :ivar names: of each state, a hash of 63 bits that is the same in every process.
    """

    def __init__(self, plain: Exploration, apart: Iterable[tuple[int, int]]) -> None:
        self._now = plain.now
        self._judge = plain.judge
        self._room = plain.port.memory.room
        own = sorted(apart)
        self._pages = [one for page in plain.now.data.spans for one in without(page, own)]
        start = plain.now.data.start
        self._start = [start[begin:end] for begin, end in self._pages]
        self._whole = [(begin, end, start[begin:end]) for begin, end in _joined(self._pages)]
        self._data: dict[tuple[tuple[int, bytes], ...], int] = {}
        self._changes: list[tuple[tuple[int, bytes], ...]] = []
        self._in_memory = -1
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._states: list[tuple[int, OpenCalls, tuple[Any, ...]]] = []
        self.names: list[int] = []

    def present(self) -> int:
        """Return the number of the present state."""
        data = self._data_present()
        told = self._judge.key()
        key = (data, self._now.open_calls, repr(told))
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._states)
            self._states.append((data, self._now.open_calls, self._judge.save()))
            text = repr((self._changes[data], self._now.open_calls, told))
            digest = blake2b(text.encode(), digest_size=8)
            self.names.append(int.from_bytes(digest.digest()) >> 1)
        return number

    def put(self, number: int) -> None:
        """Bring the exploration to the state with that number."""
        data, self._now.open_calls, judged = self._states[number]
        self._judge.restore(judged)
        if data != self._in_memory:
            room, pages, start = self._room, self._pages, self._start
            told = dict(self._changes[data])
            known = self._in_memory >= 0
            before = dict(self._changes[self._in_memory]) if known else range(len(pages))
            for at in {*before, *told}:
                begin, end = pages[at]
                room[begin:end] = told.get(at) or start[at]
        self._in_memory = -1  # From now on vCPUs may write to it.

    def _data_present(self) -> int:
        """Return the number of what the data in memory hold."""
        room, changes = self._room, list[tuple[int, bytes]]()
        if any(room[begin:end] != content for begin, end, content in self._whole):
            for at, ((begin, end), start) in enumerate(zip(self._pages, self._start, strict=True)):
                content = room[begin:end]
                if content != start:
                    changes.append((at, content))
        key = tuple(changes)
        number = self._data.get(key)
        if number is None:
            number = self._data[key] = len(self._changes)
            self._changes.append(key)
        self._in_memory = number
        return number


def _joined(spans: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return ``spans``, of which those that follow each other are one."""
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if joined and joined[-1][1] == begin:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((begin, end))
    return tuple(joined)
