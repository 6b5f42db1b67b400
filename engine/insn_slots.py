"""Fixed-size slots for copied instructions, in pages of text. Answers to struct kprobe_insn_cache in kernel/kprobes.c.

A slot that nobody uses is filled with the breakpoint byte by the owner, so that executing a freed one shows at once.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from engine.errors import EngineBug, KprobeError

__all__ = ("SlotCache",)


class SlotCache:
    """Slots of ``slot_size`` bytes within ``[base, base + size)``, a page at a time.

    :param add_page: called with the address of each page before its first slot is handed out.
    """

    def __init__(self, base: int, size: int, slot_size: int, page_size: int, add_page: Callable[[int], None]) -> None:
        self.slot_size = slot_size
        self._next_page = base
        self._end = base + size
        self._page_size = page_size
        self._add_page = add_page
        self._free: list[int] = []
        self._used: set[int] = set()

    @property
    def used(self) -> int:
        """Slots in use."""
        return len(self._used)

    def get(self) -> int:
        """Address of a free slot.

        :raises KprobeError: ENOMEM when the area is full.
        """
        if not self._free:
            if self._next_page + self._page_size > self._end:
                raise KprobeError(errno.ENOMEM, f"no room for another instruction slot ({self.used} in use)")
            page = self._next_page
            self._next_page += self._page_size
            self._add_page(page)
            last = page + self._page_size - self._page_size % self.slot_size - self.slot_size
            self._free = list(range(last, page - 1, -self.slot_size))
        slot = self._free.pop()
        self._used.add(slot)
        return slot

    def free(self, slot: int) -> None:
        """Take a slot back."""
        if slot not in self._used:
            raise EngineBug(f"slot {slot:#x} is not in use")
        self._used.remove(slot)
        self._free.append(slot)

    def owns(self, addr: int) -> bool:
        """True when ``addr`` lies in a slot in use."""
        page = addr - addr % self._page_size
        return addr - (addr - page) % self.slot_size in self._used
