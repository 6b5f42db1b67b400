"""The kernel's patch protocols with an array of pokes. Answers to arch/x86/kernel/alternative.c.

The array's handling is what changed from release to release, and each step here is named by what it
does or by the commit that mended it: :mod:`arch_x86.protocols.poke_array` has what the handler
reads. The stores to the text are those of ``text_poke_bp_batch``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from arch_x86.protocols.poke_array import PokeArray
from arch_x86.protocols.protocol import Patch, Patcher, protocol
from arch_x86.protocols.text_pokes import three_phases

__all__ = (
    "CAPACITY",
    "smp_text_poke_batch",
    "smp_text_poke_single",
    "text_poke_bp_5_4",
    "text_poke_bp_5_6",
)

CAPACITY: Final = 2
"""So many pokes fill the array; the kernel's has room for a page of them."""
_SYNCS: Final = {
    "sync_1": "every CPU fetches the breakpoints before the bytes behind them change",
    "sync_2": "every CPU fetches the new bytes before the breakpoints go",
    "sync_3": "no CPU fetches a breakpoint any more when the array goes",
}
_FLUSH: Final = "pokes that wait are made first when one comes whose address is below theirs"
_REFS: Final = "no CPU reads the array any more when its entries go"


@protocol(**_SYNCS, flush_out_of_order=_FLUSH, refs=_REFS)
def smp_text_poke_batch(p: Patcher, patches: Sequence[Patch]) -> None:
    """The patches go into a sorted array of 2, which is flushed when it is full (6.16)."""
    batch = _Batch(p)
    for patch in patches:
        batch.add(patch)
    batch.finish()


@protocol(**_SYNCS, flush_out_of_order=_FLUSH, refs=_REFS)
def smp_text_poke_single(p: Patcher, patches: Sequence[Patch]) -> None:
    """The first patch is made on its own while the others wait in the array (6.16)."""
    batch = _Batch(p)
    for patch in (*patches[1:], *patches[:1]):
        batch.add(patch)
    batch.finish()


@protocol(
    **_SYNCS,
    count_first="the count is cleared, and a core sync waits for handlers, before the pointer is",
)
def text_poke_bp_5_4(p: Patcher, patches: Sequence[Patch]) -> None:
    """The handler reads a count, and then a pointer to the entries (5.4)."""
    array = p.array = p.array or PokeArray()
    p.note("store the pointer to the entries, and their count")
    array.entries = [p.record(patch) for patch in _sorted(patches)]
    array.published = True
    three_phases(p, _sorted(patches))
    if p.does("count-first"):
        p.note("clear the count")
        array.published = False
        p.sync("the count is 0")
        p.note("clear the pointer to the entries")
        array.entries = None
    else:
        p.note("clear the pointer to the entries")
        array.entries = None
        p.note("clear the count")
        array.published = False


@protocol(**_SYNCS, static_descriptor="the descriptor is there for as long as the kernel runs")
def text_poke_bp_5_6(p: Patcher, patches: Sequence[Patch]) -> None:
    """The handler reads a pointer to a descriptor, and then takes a reference to it (5.6)."""
    array = p.array = p.array or PokeArray()
    p.note("store the pointer to the descriptor")
    array.entries, array.on_stack = [p.record(patch) for patch in _sorted(patches)], False
    array.published = True
    three_phases(p, _sorted(patches))
    p.note("clear the pointer to the descriptor")
    array.published = False
    p.note("drop the last reference to the descriptor")
    array.entries, array.on_stack = [], not p.does("static-descriptor")


class _Batch:
    """Adds patches to the array of 6.16, and makes those that are in it."""

    def __init__(self, p: Patcher) -> None:
        self._p = p
        self._patches: list[Patch] = []
        self._array = p.array = p.array or PokeArray()

    def add(self, patch: Patch) -> None:
        """Add ``patch``; make those that wait first, where it does not fit behind them."""
        last = self._array.last
        in_order = last is None or last <= patch.addr or not self._p.does("flush-out-of-order")
        if len(self._patches) == CAPACITY or not in_order:
            self.finish()
        self._patches.append(patch)
        self._array.add(self._p.record(patch))

    def finish(self) -> None:
        """Make the patches that wait in the array."""
        if not self._patches:
            return
        p, array = self._p, self._array
        p.note("give every CPU a reference to the array")
        array.published = True
        three_phases(p, self._patches)
        p.note("take the references to the array back")
        array.published = False
        p.handled("references", step="refs")
        p.note("clear the count of the array")
        array.entries = []
        self._patches = []


def _sorted(patches: Sequence[Patch]) -> list[Patch]:
    return sorted(patches, key=lambda patch: patch.addr)
