"""Where slots and detour buffers lie, and whether code reaches them and what is copied there
reaches its operands.

The kernel takes these pages from where modules lie, within 2 GiB of all text. A code image may be
spread further than that, so the question is asked before a probe is placed, of the whole area: the
answer is the same whichever slot is free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from arch_x86.isa.encode import in_reach
from engine.image import Image, Range

if TYPE_CHECKING:
    from collections.abc import Iterable

    from arch_x86.isa.insn import Insn

__all__ = ("IMPORT_CELL", "CopyAreas", "copies_reach", "copy_areas", "lies_in_reach")

IMPORT_CELL: Final = 16
"""Bytes of stub code for each imported function."""
_MIB: Final = 1 << 20
_SLOTS_SIZE: Final = 4 * _MIB
_DETOURS_SIZE: Final = 24 * _MIB


@dataclass(frozen=True, slots=True)
class CopyAreas:
    """The machine's own text behind an image, which ends at ``image_end``: 1 MiB of stubs, then the
    slots, then the detour buffers.
    """

    image_end: int
    stubs: Range
    slots: Range
    detours: Range


def copy_areas(image: Image) -> CopyAreas:
    """The areas of a machine that runs ``image``: from the first boundary of a MiB behind all that
    the image brings.
    """
    ends = [segment.end for segment in image.segments] + [
        item.addr + IMPORT_CELL for item in image.imports
    ]
    image_end = max(ends, default=0)
    base = (image_end + _MIB) & -_MIB
    stubs, slots = Range(base, _MIB), Range(base + _MIB, _SLOTS_SIZE)
    return CopyAreas(image_end, stubs, slots, Range(slots.end, _DETOURS_SIZE))


def copies_reach(insns: Iterable[Insn], area: Range) -> bool:
    """True when copies of ``insns`` anywhere in ``area`` reach what their RIP-relative operands
    refer to.
    """
    targets = (insn.memory_address for insn in insns)
    return all(target is None or lies_in_reach(target, area) for target in targets)


def lies_in_reach(addr: int, area: Range) -> bool:
    """True when a 32-bit displacement leads from everywhere in ``area`` to ``addr``, and back."""
    return all(in_reach(here, addr) and in_reach(addr, here) for here in (area.addr, area.end))
