"""This module finds functions without a symbol in the unwind table (LSB core 5.0, chapter 10.6).

The functions of a stripped library are known by it only. Of ``.eh_frame`` and ``.eh_frame_hdr`` one
form is read, which binutils and lld write: a sorted table of 32-bit offsets, and PC-relative 32-bit
ranges. A table in another form yields no functions, which is no error.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from arch_x86.images.elf_records import Program
from arch_x86.images.image_memory import Memory
from engine.image import Symbol

__all__ = ("unnamed_functions",)

# These bytes are version 1 and the encodings of the fields: pcrel sdata4, udata4, datarel sdata4.
_HEADER: Final = b"\x01\x1b\x03\x3b"
_ENTRIES_AT: Final = 12
_ENTRY: Final = struct.Struct("<ii")
_FDE: Final = struct.Struct("<IIiI")
_SIGNED_PCREL: Final = 0x1B
_POINTER_SIZES: Final = {2: 2, 3: 4, 10: 2, 11: 4}


def unnamed_functions(
    programs: Sequence[Program], memory: Memory, bias: int, named: Iterable[Symbol]
) -> Iterator[Symbol]:
    """Yield a symbol for each range of the unwind table that has none.

    A range has one when it starts in one of the ``named`` functions. The symbol's name is ``sub_``
    and the address that the range was linked for in hexadecimal, as disassemblers write it.

    :param bias: bytes by which the segments were moved from the addresses that they are linked for.
    """
    spans = sorted((s.addr, s.addr + s.size) for s in named if s.function and s.size)
    starts = [start for start, _ in spans]
    # Functions may lie in each other, so each entry says how far the functions up to it reach.
    reach: list[int] = []
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
    """Yield the address and the size in bytes of each entry of the unwind table."""
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
    """Return True when the entries of the CIE at ``cie`` have PC-relative 32-bit ranges.

    Its augmentation starts with ``z`` then, and has an ``R`` that gives this encoding.
    """
    area = memory.area_at(cie)
    raw = memory.read(cie, min(64, area.end - cie)) if area is not None else None
    # A CIE has the number 0 and version 1 or 3.
    if raw is None or len(raw) < 16 or raw[4:8] != bytes(4) or raw[8] not in (1, 3):
        return False
    augmentation, _, rest = raw[9:].partition(b"\0")
    if not augmentation.startswith(b"z"):
        return False
    at = 0
    # The code alignment, the data alignment, the return address register and the length of the
    # augmentation data are LEB128 numbers, whose length is not known before they are read.
    for _ in range(4):
        while at < len(rest) and rest[at] & 0x80:
            at += 1
        at += 1
    for letter in augmentation[1:]:
        if at >= len(rest):
            return False
        if letter == ord("R"):
            return rest[at] == _SIGNED_PCREL
        if letter == ord("P"):  # The personality is an encoding and a pointer in that encoding.
            at += 1 + _POINTER_SIZES.get(rest[at] & 15, 8)
        elif letter == ord("L"):
            at += 1
    return False
