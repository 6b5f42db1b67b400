"""Functions that have no symbol, from the unwind table: a stripped library's own.

Source: Linux Standard Base core 5.0, chapter 10.6 (``.eh_frame``, ``.eh_frame_hdr``). Only the form
that binutils and lld write is read: a sorted table of 32-bit offsets, and PC-relative 32-bit
ranges. From another form nothing is learned, which is no error.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from arch_x86.images.elf_records import Program
from arch_x86.images.memory import Memory
from engine.image import Symbol

__all__ = ("unnamed_functions",)

_HEADER: Final = b"\x01\x1b\x03\x3b"  # version 1; pcrel sdata4, udata4, datarel sdata4
_ENTRIES_AT: Final = 12
_ENTRY: Final = struct.Struct("<ii")
_FDE: Final = struct.Struct("<IIiI")
_SIGNED_PCREL: Final = 0x1B
_POINTER_SIZES: Final = {2: 2, 3: 4, 10: 2, 11: 4}


def unnamed_functions(
    programs: Sequence[Program], memory: Memory, bias: int, named: Iterable[Symbol]
) -> Iterator[Symbol]:
    """A symbol for each range of the unwind table that starts in none of the ``named`` functions.

    Its name is ``sub_`` and the address it was linked for in hex, as disassemblers write it.
    """
    spans = sorted((s.addr, s.addr + s.size) for s in named if s.function and s.size)
    starts = [start for start, _ in spans]
    reach: list[int] = []  # how far the functions up to each one reach: they may nest
    for _, end in spans:
        reach.append(max(end, reach[-1]) if reach else end)
    for header in programs:
        if header.type != "PT_GNU_EH_FRAME":
            continue
        for start, size in _ranges(memory, (header.vaddr + bias) % (1 << 64), header.memsz):
            at = bisect_right(starts, start) - 1
            area = memory.area_at(start)
            if (
                (at >= 0 and start < reach[at])
                or area is None
                or not area.executable
                or start + size > area.end
            ):
                continue
            yield Symbol(f"sub_{start - bias:x}", start, size)


def _ranges(memory: Memory, table: int, size: int) -> Iterator[tuple[int, int]]:
    """``(address, size)`` of each entry."""
    data = memory.read(table, size) or b""
    if len(data) < _ENTRIES_AT or data[:4] != _HEADER:
        return
    count = min(int.from_bytes(data[8:12], "little"), (len(data) - _ENTRIES_AT) // _ENTRY.size)
    usable: dict[int, bool] = {}
    for index in range(count):
        start, entry = _ENTRY.unpack_from(data, _ENTRIES_AT + _ENTRY.size * index)
        at = table + entry
        raw = memory.read(at, _FDE.size)
        if raw is None:
            continue
        length, back, offset, extent = _FDE.unpack(raw)
        cie = at + 4 - back
        if length in (0, 0xFFFFFFFF) or not extent or at + 8 + offset != table + start:
            continue
        if cie not in usable:
            usable[cie] = _is_pcrel(memory, cie)
        if usable[cie]:
            yield table + start, extent


def _is_pcrel(memory: Memory, cie: int) -> bool:
    """True when the entries of this CIE have PC-relative 32-bit ranges: augmentation ``z`` with an
    ``R`` that says so.
    """
    area = memory.area_at(cie)
    raw = memory.read(cie, min(64, area.end - cie)) if area is not None else None
    # a CIE has number 0, and version 1 or 3
    if raw is None or len(raw) < 16 or raw[4:8] != bytes(4) or raw[8] not in (1, 3):
        return False
    augmentation, _, rest = raw[9:].partition(b"\0")
    if not augmentation.startswith(b"z"):
        return False
    at = 0
    # code alignment, data alignment, return address register, length of the augmentation data:
    # LEB128 each
    for _ in range(4):
        while at < len(rest) and rest[at] & 0x80:
            at += 1
        at += 1
    for letter in augmentation[1:]:
        if at >= len(rest):
            return False
        if letter == ord("R"):
            return rest[at] == _SIGNED_PCREL
        if letter == ord("P"):  # the personality: an encoding, and a pointer in it
            at += 1 + _POINTER_SIZES.get(rest[at] & 15, 8)
        elif letter == ord("L"):
            at += 1
    return False
