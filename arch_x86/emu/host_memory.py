"""The host memory that one Unicorn instance shows as its guest-physical memory."""

from __future__ import annotations

import ctypes
import mmap

from arch_x86.emu.libunicorn import check, mem_map_ptr, mem_unmap, uc_const
from arch_x86.isa.constants import PAGE_SIZE

__all__ = ("HostMemory",)


class HostMemory:
    """The mappings of host memory in one Unicorn instance.

    :param handle: the instance.
    """

    __slots__ = ("_handle", "_mapped", "_owners")

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._mapped: list[tuple[int, int]] = []
        self._owners: list[object] = []
        self._map_once()

    def _map_once(self) -> None:
        """Map a page and unmap it, to work around a fault of Unicorn.

        In an instance whose memory was never unmapped, Unicorn gives two mappings the same place in
        its numbering of RAM, and then executes the translations of one mapping's text for the text
        of the other.
        """
        room = mmap.mmap(-1, PAGE_SIZE)
        host = ctypes.addressof(ctypes.c_char.from_buffer(room))
        check(mem_map_ptr(self._handle, 0, PAGE_SIZE, uc_const.UC_PROT_ALL, host), "uc_mem_map_ptr")
        check(mem_unmap(self._handle, 0, PAGE_SIZE), "uc_mem_unmap")

    def map(self, phys: int, size: int, host: int, owner: object) -> None:
        """Show ``size`` bytes of host memory at ``host`` as guest-physical memory at ``phys``.

        :param owner: the object that the host memory belongs to, which is kept alive.
        """
        check(mem_map_ptr(self._handle, phys, size, uc_const.UC_PROT_ALL, host), "uc_mem_map_ptr")
        self._mapped.append((phys, size))
        self._owners.append(owner)

    def unmap_all(self) -> None:
        """Unmap all memory. The caller drops the translations."""
        for phys, size in self._mapped:
            check(mem_unmap(self._handle, phys, size), "uc_mem_unmap")
        self._mapped.clear()
        self._owners.clear()

    def forget_owners(self) -> None:
        """Let go of the memory's owners, since the instance has been freed."""
        self._owners.clear()
