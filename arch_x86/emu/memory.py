"""Guest-physical memory and the page tables that show it to the vCPUs.

All vCPUs of a machine share three host mappings: data RAM (from physical 0; a snapshot copies it),
page tables (one tree for each vCPU, so that each can have its own fetch view) and code frames
(immutable pages of text). Paging has 4 levels (SDM vol. 3, 4.5). Virtual addresses are the image's
own.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Final

from arch_x86.isa.constants import PAGE_SIZE
from engine.errors import EngineBug

__all__ = ("FRAMES_AT", "TABLES_AT", "PageTables", "Ram")

TABLES_AT: Final = 0x8000_0000
FRAMES_AT: Final = 0x1_0000_0000
_PRESENT, _WRITABLE, _ACCESSED, _DIRTY = 1, 2, 0x20, 0x40
_NO_EXECUTE: Final = 1 << 63
_DATA: Final = _PRESENT | _WRITABLE | _ACCESSED | _DIRTY | _NO_EXECUTE
_CONST: Final = _PRESENT | _ACCESSED | _DIRTY | _NO_EXECUTE
_CODE: Final = _PRESENT | _ACCESSED | _DIRTY
_LINK: Final = _PRESENT | _WRITABLE | _ACCESSED
_MASK48: Final = (1 << 36) - 1


def _host_of(room: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(room))


class Ram:
    """Data memory of ``pages`` pages at most, which are handed out in order.

    ``read`` and ``write`` take virtual addresses. They raise no error on unmapped addresses, since
    a bad pointer is the guest's fault, but return None or False.

    :ivar used: how many bytes are in use.
    :ivar words: the memory as 64-bit words.
    :ivar by_page: the physical address of each page, by its virtual page number.
    """

    def __init__(self, pages: int) -> None:
        self.size = pages * PAGE_SIZE
        self.room = mmap.mmap(-1, self.size)
        self.host = _host_of(self.room)
        self.words = memoryview(self.room).cast("Q")
        self.used = 0
        self.by_page: dict[int, int] = {}

    def map(self, vpn: int) -> int:
        """Back one virtual page with the next free page, and return its physical address.

        A page that is backed already stays where it is.
        """
        if vpn in self.by_page:
            return self.by_page[vpn]
        if self.used + PAGE_SIZE > self.size:
            raise EngineBug(f"out of guest RAM: {self.size} bytes are in use")
        phys = self.used
        self.used += PAGE_SIZE
        self.by_page[vpn] = phys
        return phys

    def mapped(self, addr: int) -> bool:
        """Return whether ``addr`` is data memory."""
        return addr // PAGE_SIZE in self.by_page

    def physical(self, addr: int) -> int | None:
        """Return the physical address, which is the offset in :attr:`room`, of a virtual address.

        :returns: None where no data memory is mapped.
        """
        page = self.by_page.get(addr >> 12)
        return None if page is None else page | (addr & 0xFFF)

    def virtual(self, phys: int) -> int:
        """Return the virtual address of a physical one."""
        page = phys & ~0xFFF
        return next((vpn << 12 for vpn, at in self.by_page.items() if at == page), 0) | (
            phys & 0xFFF
        )

    def pages(self) -> list[tuple[int, int]]:
        """Return ``(virtual page number, physical address)`` of all pages, in physical order."""
        return sorted(self.by_page.items(), key=lambda item: item[1])

    def read(self, addr: int, size: int) -> bytes | None:
        """Return ``size`` bytes at virtual ``addr``, or None when any of them is unmapped."""
        offset = addr & 0xFFF
        page = self.by_page.get(addr >> 12)
        if page is None:
            return None
        if offset + size <= PAGE_SIZE:
            return self.room[page + offset : page + offset + size]
        pieces = self._pieces(addr, size)
        return None if pieces is None else b"".join(self.room[start:end] for start, end in pieces)

    def write(self, addr: int, data: bytes) -> bool:
        """Store ``data`` at virtual ``addr``.

        :returns: False, with nothing written, when any byte of it is unmapped.
        """
        offset = addr & 0xFFF
        page = self.by_page.get(addr >> 12)
        if page is None:
            return False
        if offset + len(data) <= PAGE_SIZE:
            self.room[page + offset : page + offset + len(data)] = data
            return True
        pieces = self._pieces(addr, len(data))
        if pieces is None:
            return False
        done = 0
        for start, end in pieces:
            self.room[start:end] = data[done : done + end - start]
            done += end - start
        return True

    def _pieces(self, addr: int, size: int) -> list[tuple[int, int]] | None:
        """Cut the ``size`` bytes at ``addr`` at page boundaries, and return where the pieces lie.

        :returns: the start and end in :attr:`room` of each piece; None when any byte is unmapped.
        """
        pieces: list[tuple[int, int]] = []
        end = addr + size
        while addr < end:
            page = self.by_page.get(addr >> 12)
            if page is None:
                return None
            offset = addr & 0xFFF
            length = min(PAGE_SIZE - offset, end - addr)
            pieces.append((page + offset, page + offset + length))
            addr += length
        return pieces

    def read_u64(self, addr: int) -> int | None:
        """Return the little-endian number in the 8 bytes at ``addr``, or None if unmapped."""
        data = self.read(addr, 8)
        return None if data is None else int.from_bytes(data, "little")


class PageTables:
    """The page tables: one 4-level tree for each of ``trees`` vCPUs.

    :param tables_max: the pages of the host mapping that holds all tables.
    """

    def __init__(self, trees: int, tables_max: int) -> None:
        self.size = tables_max * PAGE_SIZE
        self.room = mmap.mmap(-1, self.size)
        self.host = _host_of(self.room)
        self._quads = memoryview(self.room).cast("Q")
        self._next = trees
        self._leaves: list[dict[int, int]] = [{} for _ in range(trees)]

    def root(self, tree: int) -> int:
        """Return the physical address of a tree's top table, which the vCPU has in CR3."""
        return TABLES_AT + tree * PAGE_SIZE

    def _leaf(self, tree: int, vpn: int) -> int:
        """Return the index (in quad words) of the entry for ``vpn``, and make tables on the way."""
        at = self._leaves[tree].get(vpn)
        if at is not None:
            return at
        table = tree
        for level in (27, 18, 9):
            at = table * 512 + ((vpn >> level) & 511)
            entry = self._quads[at]
            if not entry & _PRESENT:
                if (self._next + 1) * PAGE_SIZE > self.size:
                    raise EngineBug("out of page tables")
                entry = self._quads[at] = (TABLES_AT + self._next * PAGE_SIZE) | _LINK
                self._next += 1
            table = ((entry & 0xFFFF_FFFF_F000) - TABLES_AT) // PAGE_SIZE
        at = self._leaves[tree][vpn] = table * 512 + (vpn & 511)
        return at

    def map_data(self, vpn: int, phys: int) -> None:
        """Map a page as readable, writable and not executable, in every tree."""
        for tree in range(len(self._leaves)):
            self._quads[self._leaf(tree, vpn & _MASK48)] = phys | _DATA

    def map_const(self, vpn: int, phys: int) -> None:
        """Map a page as readable only, in every tree."""
        for tree in range(len(self._leaves)):
            self._quads[self._leaf(tree, vpn & _MASK48)] = phys | _CONST

    def map_code(self, tree: int, vpn: int, phys: int) -> None:
        """Map a page as readable and executable, in one tree. The vCPU has to flush its TLB."""
        self._quads[self._leaf(tree, vpn & _MASK48)] = phys | _CODE

    def unmap(self, tree: int, vpn: int) -> None:
        """Make a page absent in one tree. The vCPU has to flush its TLB."""
        self._quads[self._leaf(tree, vpn & _MASK48)] = 0
