"""Code frames: the physical pages behind text pages.

A frame's content never changes while a vCPU can execute it. Blocks that the emulator has translated
belong to a frame, so going back to a text version seen before translates nothing. Frames of pages
that are not referred to any more are recycled in bulk, with one flush of all translations.

What the emulator would run wrongly (AVX in 128-bit form) or without determinism (``rdtsc``,
``rdrand``) is *guarded*: the frame holds ``ud2`` there, so that it traps; the text that all others
read keeps the original bytes.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from typing import Final
from weakref import finalize

from arch_x86.emu.guards import Guards
from arch_x86.emu.memory import FRAMES_AT
from arch_x86.isa.constants import PAGE_SIZE
from arch_x86.text.text_version import TextPage

__all__ = ("FrameStore",)

_CHUNK_PAGES: Final = 512
_UD2: Final = b"\x0f\x0b"
_PUSH_ES: Final = b"\x06"
"""No instruction in 64-bit mode: what traps where there is room for one byte only."""


class FrameStore:
    """The store that gives each text page a physical page.

    :param map_chunk: called as ``map_chunk(phys, size, host_address, owner)`` for each new host
        mapping.
    :param flush: drops all translations of all vCPUs.
    :param guards: the instructions that trap wherever the text at their place is still the same.
    :param limit: the number of pages, in use and not yet recycled, at which dead ones are
        collected.
    """

    def __init__(
        self,
        map_chunk: Callable[[int, int, int, object], None],
        flush: Callable[[], None],
        guards: Guards,
        *,
        limit: int = 4096,
    ) -> None:
        self._map_chunk = map_chunk
        self._flush = flush
        self._limit = limit
        self._free: list[int] = []
        self._dead: list[int] = []
        self._frame_of: dict[int, int] = {}
        self._plain_of: dict[int, int] = {}
        self._chunks: list[mmap.mmap] = []
        self.guards = guards
        self._copies: dict[int, set[tuple[int, bytes]]] = {}
        self._guards_of: dict[int, tuple[tuple[int, bytes], ...]] = {}

    def guard(self, addr: int, raw: bytes) -> None:
        """Guard the copy of instruction ``raw``, too, which is about to be written at ``addr``."""
        self._copies.setdefault(addr // PAGE_SIZE, set()).add((addr, raw))

    def frame(self, page: TextPage) -> int:
        """Return the physical address of the frame that holds ``page``."""
        phys = self._frame_of.get(id(page))
        return self._place(self._frame_of, page, self._guarded(page)) if phys is None else phys

    def plain(self, page: TextPage) -> int:
        """Return the physical address of a frame that holds ``page`` without guards.

        The host uses it to have one instruction executed.
        """
        phys = self._plain_of.get(id(page))
        return self._place(self._plain_of, page, page.content) if phys is None else phys

    def _place(self, frame_of: dict[int, int], page: TextPage, content: bytes) -> int:
        phys = frame_of[id(page)] = self._take()
        self._fill(phys, content)
        # The interpreter keeps what it calls for a dead page: the two tables alone, or no machine
        # would ever be given back.
        finalize(page, _retire, frame_of, self._dead, id(page)).atexit = False
        return phys

    def constant(self, content: bytes) -> int:
        """Return the physical address of a new frame for read-only data, which is kept for good."""
        phys = self._take()
        self._fill(phys, content)
        return phys

    def _guarded(self, page: TextPage) -> bytes:
        guards = self._guards_of.get(page.vpn)
        if guards is None:
            guards = self._guards_of[page.vpn] = self.guards.in_page(page.vpn)
        copies = self._copies.get(page.vpn, ())
        if not guards and not copies:
            return page.content
        content = bytearray(page.content)
        for addr, raw in (*guards, *copies):
            # The offset is below 0 for an instruction that starts in the page before.
            offset = addr - page.vpn * PAGE_SIZE
            start, stop = max(offset, 0), min(offset + len(raw), PAGE_SIZE)
            if bytes(content[start:stop]) == raw[start - offset : stop - offset]:
                trap = (_UD2 if len(raw) > 1 else _PUSH_ES)[start - offset : stop - offset]
                content[start : start + len(trap)] = trap
        return bytes(content)

    def _take(self) -> int:
        if not self._free:
            if len(self._dead) >= _CHUNK_PAGES and len(self._chunks) * _CHUNK_PAGES >= self._limit:
                self._free = list(self._dead)
                self._dead.clear()
                self._flush()
            else:
                self._grow()
        return self._free.pop()

    def _grow(self) -> None:
        room = mmap.mmap(-1, _CHUNK_PAGES * PAGE_SIZE)
        phys = FRAMES_AT + len(self._chunks) * _CHUNK_PAGES * PAGE_SIZE
        self._chunks.append(room)
        self._map_chunk(
            phys, _CHUNK_PAGES * PAGE_SIZE, ctypes.addressof(ctypes.c_char.from_buffer(room)), room
        )
        self._free = [phys + i * PAGE_SIZE for i in reversed(range(_CHUNK_PAGES))]

    def _fill(self, phys: int, content: bytes) -> None:
        chunk, offset = divmod(phys - FRAMES_AT, _CHUNK_PAGES * PAGE_SIZE)
        self._chunks[chunk][offset : offset + PAGE_SIZE] = content


def _retire(frame_of: dict[int, int], dead: list[int], key: int) -> None:
    """Let a frame be recycled, since the page whose ``id`` was ``key`` is dead."""
    phys = frame_of.pop(key, None)
    if phys is not None:
        dead.append(phys)
