"""This module says where slots and detour buffers lie and what they reach (get_insn_slot, v6.1).

The kernel takes their pages from where modules lie, within 2 GiB of all text (alloc_insn_page() in
arch/x86/kernel/kprobes/core.c). A code image may be spread further than that, so reach is asked
before a probe is placed. It is asked of the whole area, so that the answer is the same whichever
slot is free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from arch_x86.isa.constants import ADDRESS_MASK
from engine.image import Image, Range

if TYPE_CHECKING:
    from collections.abc import Iterable

    from arch_x86.isa.insn import Insn

__all__ = ("IMPORT_CELL", "CopyAreas", "copies_reach", "copy_areas", "lies_in_reach")

IMPORT_CELL: Final = 16
"""The stub of each imported function has a cell of this many bytes."""
_MIB: Final = 1 << 20
_HALF: Final = 1 << 63
_REACH: Final = 0x7FFF_FFFF
"""A 32-bit displacement leads this far in both directions."""
_SLOTS_SIZE: Final = 4 * _MIB
_DETOURS_SIZE: Final = 24 * _MIB


@dataclass(frozen=True, slots=True)
class CopyAreas:
    """This record has the areas of the machine's own text, which lie behind an image.

    They are 1 MiB of stubs, then 4 MiB of slots, then 24 MiB of detour buffers.

    :ivar image_end: the address behind all that the image brings.
    """

    image_end: int
    stubs: Range
    slots: Range
    detours: Range


def copy_areas(image: Image) -> CopyAreas:
    """Return the areas of a machine that runs ``image``.

    They start at the first boundary of a MiB behind all that the image brings, its imports' cells
    included.
    """
    ends = [segment.end for segment in image.segments] + [
        item.addr + IMPORT_CELL for item in image.imports
    ]
    image_end = max(ends, default=0)
    base = (image_end + _MIB) & -_MIB
    stubs, slots = Range(base, _MIB), Range(base + _MIB, _SLOTS_SIZE)
    return CopyAreas(image_end, stubs, slots, Range(slots.end, _DETOURS_SIZE))


def copies_reach(insns: Iterable[Insn], area: Range) -> bool:
    """Return True when copies of ``insns`` everywhere in ``area`` reach their operands.

    A copy of a RIP-relative operand has a 32-bit displacement, which must lead to the same address
    as the original's.
    """
    for insn in insns:
        target = insn.memory_address
        if target is not None and not lies_in_reach(target, area):
            return False
    return True


def lies_in_reach(addr: int, area: Range) -> bool:
    """Return True when 32-bit displacements lead from everywhere in ``area`` to ``addr`` and back.

    The two ends of the area decide, since the distance is greatest at one of them.
    """
    # That is `in_reach(here, addr) and in_reach(addr, here)` of both ends, in one piece, since this
    # is asked several times of each instruction of an image.
    # Addresses are moved by half of their range, so that they are in the order of signed numbers.
    at, low, high = (
        (addr + _HALF) & ADDRESS_MASK,
        (area.addr + _HALF) & ADDRESS_MASK,
        (area.end + _HALF) & ADDRESS_MASK,
    )
    if high < low:
        low, high = high, low
    return high - _REACH <= at <= low + _REACH
