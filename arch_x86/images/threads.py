"""Thread-local storage, variant II: each file's block lies below the thread pointer, the image's
own nearest.

Source: U. Drepper, "ELF Handling For Thread-Local Storage" 0.21, section 3.4.6 with figure 2;
glibc's elf/dl-tls.c (``_dl_determine_tlsoffset``). All blocks are static: there is no ``dlopen``,
so an offset from the thread pointer says everything.
"""

from __future__ import annotations

from typing import Final

from arch_x86.images.memory import Memory
from arch_x86.images.module import ThreadBlock
from arch_x86.isa.constants import PAGE_SIZE
from engine.errors import InputError

__all__ = ("THREAD_LIMIT", "ThreadLayout")

THREAD_LIMIT: Final = 64 << 10
"""Most bytes of thread-local memory: 64 KiB."""
_SLOT: Final = 64


class ThreadLayout:
    """Where each block lies, and slots for thread-local names that no file defines."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._blocks: list[ThreadBlock] = []
        self._slots: dict[str, int] = {}
        self.size = 0

    def place(self, block: ThreadBlock) -> None:
        """Give ``block`` its offset, below all before it.

        :raises InputError: over 64 KiB in all, or an alignment that is no power of two up to a
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
        """Distance from the thread pointer, modulo 2^64, of 64 bytes of zeros for ``name``, the
        same each time.
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
        """The initial content of all of it; the byte behind it is the first of the thread control
        block.
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
