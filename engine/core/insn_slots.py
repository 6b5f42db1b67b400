"""Fixed-size slots for copied instructions, in pages of text. Answers to kernel/kprobes.c.

There they are struct kprobe_insn_cache. A slot whose code a CPU may still be in when it is freed
(one that ends in a jump back, or a detour buffer) is *dirty*: it is not handed out again before the
garbage is collected, which takes a grace period. Garbage is collected when there is no other free
slot, and when more than a page's slots are dirty. An empty page is given back, unless it is the
only one left. The owner fills a freed slot with the breakpoint byte, so that a CPU that executes it
is seen at once.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from engine.errors import EngineBug, KprobeError

__all__ = ("SlotCache",)


class _Page:
    """One page of slots.

    :ivar busy: how many of its slots are in use or dirty.
    :ivar free: the addresses of the others; the last one is handed out next.
    """

    __slots__ = ("addr", "busy", "free")

    def __init__(self, addr: int, slots: list[int]) -> None:
        self.addr = addr
        self.busy = 0
        self.free = slots


class SlotCache:
    """The slots of ``slot_size`` bytes within ``[base, base + size)``.

    They are taken from pages of ``page_size`` bytes, one page after the other.

    :param add_page: called with the address of each page before its first slot is handed out.
    :param drop_page: called with the address of a page that is given back.
    :param grace: waits until no CPU is in a slot that was freed before the call. With None
        (``--without slot-reuse-wait``) a dirty slot is free at once.
    :param slots_max: the most slots a page; None for as many as fit.
    """

    def __init__(
        self,
        base: int,
        size: int,
        slot_size: int,
        page_size: int,
        add_page: Callable[[int], None],
        drop_page: Callable[[int], None],
        grace: Callable[[str], None] | None,
        slots_max: int | None = None,
    ) -> None:
        self.slot_size = slot_size
        self.slots_per_page = min(page_size // slot_size, slots_max or page_size)
        self._next_page = base
        self._end = base + size
        self._page_size = page_size
        self._add_page = add_page
        self._drop_page = drop_page
        self._grace = grace
        self._pages: dict[int, _Page] = {}
        self._open: dict[int, _Page] = {}  # the pages with a free slot, the latest to get one last
        self._vacant: list[int] = []
        self._used: set[int] = set()
        self._dirty: dict[int, int] = {}  # by address, the number of the freeing that made it dirty
        self._freed = 0

    @property
    def used(self) -> int:
        """The number of slots in use."""
        return len(self._used)

    @property
    def garbage(self) -> int:
        """The number of dirty slots, which have not been collected yet."""
        return len(self._dirty)

    @property
    def pages(self) -> int:
        """The number of pages that are mapped."""
        return len(self._pages)

    @property
    def state(self) -> tuple[object, ...]:
        """All that decides which slots are handed out from here on.

        It is a part of the name of a control state.
        """
        pages = tuple((page.addr, page.busy, *page.free) for page in self._open.values())
        return (pages, tuple(self._pages), tuple(self._vacant), tuple(self._dirty), self._next_page)

    def get(self) -> int:
        """Take a free slot and return its address (__get_insn_slot).

        This may wait for a grace period.

        :raises KprobeError: ENOMEM when the area is full.
        """
        if not self._open and self._dirty:
            self.collect_garbage_slots()
        if not self._open:
            self._new_page()
        page = next(reversed(self._open.values()))
        slot = page.free.pop()
        page.busy += 1
        if not page.free:
            del self._open[page.addr]
        self._used.add(slot)
        return slot

    def _new_page(self) -> None:
        """Map a page, one that was given back if there is such, and add its slots."""
        if self._vacant:
            addr = self._vacant.pop()
        elif self._next_page + self._page_size > self._end:
            raise KprobeError(
                errno.ENOMEM, f"no room for another instruction slot ({self.used} in use)"
            )
        else:
            addr = self._next_page
            self._next_page += self._page_size
        self._add_page(addr)
        last = addr + (self.slots_per_page - 1) * self.slot_size
        self._pages[addr] = self._open[addr] = _Page(
            addr, list(range(last, addr - 1, -self.slot_size))
        )

    def free(self, slot: int, *, dirty: bool) -> None:
        """Give a slot back (__free_insn_slot); this may wait for a grace period.

        :param dirty: whether a CPU may still be in the slot.
        :raises EngineBug: the slot is not in use.
        """
        if slot not in self._used:
            raise EngineBug(f"slot {slot:#x} is not in use")
        self._used.remove(slot)
        if not dirty or self._grace is None:
            self._release(slot)
            return
        self._freed += 1
        self._dirty[slot] = self._freed
        if len(self._dirty) > self.slots_per_page:
            self.collect_garbage_slots()

    def _release(self, slot: int) -> None:
        """Make a slot free, and give its page back if that is empty and not the last one."""
        page = self._pages[slot - slot % self._page_size]
        page.busy -= 1
        page.free.append(slot)
        self._open.setdefault(page.addr, page)
        if page.busy == 0 and len(self._pages) > 1:
            del self._pages[page.addr], self._open[page.addr]
            self._vacant.append(page.addr)
            self._drop_page(page.addr)

    def collect_garbage_slots(self) -> None:
        """Wait for a grace period, and make the slots free that were dirty when it began."""
        garbage = tuple(self._dirty.items())
        if self._grace is not None:
            self._grace("collect_garbage_slots")
        for slot, freeing in garbage:
            # If the number differs, another task has collected the slot during the grace period. If
            # the slot is dirty again since then, it waits for a grace period of its own.
            if self._dirty.get(slot) == freeing:
                del self._dirty[slot]
                self._release(slot)

    def owns(self, addr: int) -> bool:
        """Whether ``addr`` lies in a slot in use."""
        page = addr - addr % self._page_size
        return addr - (addr - page) % self.slot_size in self._used
