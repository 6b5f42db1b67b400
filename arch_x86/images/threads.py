"""This module lays out thread-local storage, variant II, as glibc's elf/dl-tls.c does.

Each file's block lies below the thread pointer, the image's own nearest. The layout is that of U.
Drepper, "ELF Handling For Thread-Local Storage" 0.21, section 3.4.6 with figure 2, and of
``_dl_determine_tlsoffset``. All blocks are static: there is no ``dlopen``, so a distance from the
thread pointer says where a symbol lies.
"""

from __future__ import annotations

from typing import Final

from arch_x86.images.image_memory import Memory
from arch_x86.images.module import ThreadBlock
from arch_x86.isa.constants import PAGE_SIZE
from engine.errors import InputError

__all__ = ("THREAD_LIMIT", "ThreadLayout")

THREAD_LIMIT: Final = 64 << 10
"""All blocks together have at most this many bytes: 64 KiB."""
_SLOT: Final = 64


class ThreadLayout:
    """This class places the blocks of all files, and slots for names that no file defines.

    :param name: the image's name, which begins each message.
    :ivar size: bytes of all blocks and slots so far, which lie below the thread pointer.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._blocks: list[ThreadBlock] = []
        self._slots: dict[str, int] = {}
        self.size = 0

    def place(self, block: ThreadBlock) -> None:
        """Set the offset of ``block``, so that it lies below all blocks before it.

        :raises InputError: the blocks exceed 64 KiB, or the alignment is no power of two up to a
            page.
        """
        if block.align & (block.align - 1) or block.align > PAGE_SIZE:
            raise InputError(
                f"{self._name}: thread-local data with alignment {block.align:#x}; it must be a"
                f" power of two up to {PAGE_SIZE:#x}"
            )
        align = max(block.align, 1)
        lead = -block.addr % align
        self._grow(-(-(self.size + block.size - lead) // align) * align + lead)
        block.offset = self.size
        self._blocks.append(block)

    def slot(self, name: str) -> int:
        """Return how far 64 bytes of zeros for ``name`` are from the thread pointer, modulo 2^64.

        The distance is the same at each call with this name.

        :raises InputError: the blocks and slots exceed 64 KiB.
        """
        if name not in self._slots:
            self._grow(-(-(self.size + _SLOT) // _SLOT) * _SLOT)
            self._slots[name] = self.size
        return -self._slots[name] % (1 << 64)

    def _grow(self, size: int) -> None:
        if size > THREAD_LIMIT:
            raise InputError(
                f"{self._name}: {size:#x} bytes of thread-local data; the limit is"
                f" {THREAD_LIMIT >> 10} KiB"
            )
        self.size = size

    def content(self, memory: Memory) -> bytes:
        """Return the initial content of all blocks and slots.

        The byte behind it in memory is the first of the thread control block, where the thread
        pointer points.

        :param memory: the memory that holds the blocks' initial content.
        :raises InputError: a block's initial content lies outside of the segments.
        """
        out = bytearray(self.size)
        for block in self._blocks:
            data = memory.read(block.addr, block.filesz)
            if data is None:
                raise InputError(
                    f"{self._name}: thread-local data at {block.addr:#x} lies outside of the"
                    " segments; the file is damaged"
                )
            start = self.size - block.offset
            out[start : start + block.filesz] = data
        return bytes(out)
