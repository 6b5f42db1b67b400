"""Fixed-size slots for copied instructions, in pages of text. Answers to struct kprobe_insn_cache
in kernel/kprobes.c.

A freed slot that a CPU may still be in (one that ends in a jump back, a detour buffer) is *dirty*:
it is not handed out again before the garbage is collected, which takes a grace period. Collected
when there is no other free slot, and when more than a page's slots are dirty. Pages that are empty
are given back, but for the last one. Freed slots are filled with the breakpoint byte by the owner,
so that executing one shows at once.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from engine.errors import EngineBug, KprobeError

__all__ = ("SlotCache",)


class _Page:
    """One page: how many of its slots are used or dirty, and which are free."""

    __slots__ = ("addr", "busy", "free")

    def __init__(self, addr: int, slots: list[int]) -> None:
        self.addr = addr
        self.busy = 0
        self.free = slots


class SlotCache:
    """Slots of ``slot_size`` bytes within ``[base, base + size)``, a page at a time.

    :param add_page: called with the address of each page before its first slot is handed out.
    :param drop_page: called with the address of a page that is given back.
    :param grace: waits until no CPU is in a slot that was freed before; None: dirty slots are used
        again at once (``slot-reuse-wait``).
    :param slots_max: most slots a page.
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
        self._open: dict[int, _Page] = {}  # those with a free slot
        self._vacant: list[int] = []
        self._used: set[int] = set()
        self._dirty: dict[int, int] = {}  # slot: which freeing that was
        self._freed = 0

    @property
    def used(self) -> int:
        """Slots in use."""
        return len(self._used)

    @property
    def garbage(self) -> int:
        """Dirty slots, not collected yet."""
        return len(self._dirty)

    @property
    def pages(self) -> int:
        """Pages that are mapped."""
        return len(self._pages)

    @property
    def state(self) -> tuple[object, ...]:
        """All that decides which slots are handed out from here on."""
        pages = tuple((page.addr, page.busy, *page.free) for page in self._open.values())
        return (pages, tuple(self._pages), tuple(self._vacant), tuple(self._dirty), self._next_page)

    def get(self) -> int:
        """Address of a free slot. May wait for a grace period.

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
        """Take a slot back. ``dirty``: a CPU may still be in it. May wait for a grace period."""
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
        page = self._pages[slot - slot % self._page_size]
        page.busy -= 1
        page.free.append(slot)
        self._open.setdefault(page.addr, page)
        if page.busy == 0 and len(self._pages) > 1:
            del self._pages[page.addr], self._open[page.addr]
            self._vacant.append(page.addr)
            self._drop_page(page.addr)

    def collect_garbage_slots(self) -> None:
        """Make what is dirty now free again, after a grace period."""
        garbage = tuple(self._dirty.items())
        if self._grace is not None:
            self._grace("collect_garbage_slots")
        for slot, freeing in garbage:
            # else another task has collected it, and it may be dirty anew: it waits anew
            if self._dirty.get(slot) == freeing:
                del self._dirty[slot]
                self._release(slot)

    def owns(self, addr: int) -> bool:
        """True when ``addr`` lies in a slot in use."""
        page = addr - addr % self._page_size
        return addr - (addr - page) % self.slot_size in self._used
