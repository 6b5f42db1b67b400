"""This module lays out an object's sections as layout_sections() does in kernel/module.c."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from arch_x86.images.elf_file import ElfFile
from arch_x86.images.elf_records import (
    COMMON,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_TLS,
    SHF_WRITE,
    ElfSymbol,
    Section,
)
from arch_x86.images.image_memory import IMAGE_LIMIT, Area, Memory, page_up
from arch_x86.images.module import ThreadBlock
from arch_x86.isa.constants import INT3_OPCODE
from engine.errors import InputError
from engine.image import Symbol

__all__ = ("SectionLayout", "lay_out")

# Gaps in text hold breakpoints, so that a stray jump into one traps. Zeros would decode as one long
# run of instructions.
_GAP: Final = INT3_OPCODE

# A group may be larger than its file by this many bytes of gaps at most.

_PADDING_LIMIT: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class SectionLayout:
    """This record says where the loaded sections and the common symbols of an object lie.

    :ivar places: the address of each loaded section by its index.
    :ivar commons: the address of each SHN_COMMON symbol.
    :ivar common_symbols: the engine's symbols for these.
    :ivar thread: the thread-local sections, or None.
    :ivar warnings: one line for each thing that was assumed of a section.
    """

    memory: Memory
    places: dict[int, int]
    commons: dict[ElfSymbol, int]
    common_symbols: tuple[Symbol, ...]
    thread: ThreadBlock | None
    warnings: tuple[str, ...]


def lay_out(elf: ElfFile, symbols: Sequence[ElfSymbol], base: int) -> SectionLayout:
    """Lay out the loaded sections of ``elf`` from address ``base``, and return where they lie.

    First comes text, then read-only data, then writable data with the common symbols, then the
    initial content of each thread's block. Each of these groups starts on a fresh page, and each
    section at its alignment. Within a group, sections without bytes in the file come last.

    :param symbols: the symbols of ``elf``.
    :raises InputError: the sections exceed the limits, overlap, or lie outside of the file.
    """
    loaded = [s for s in elf.sections if s.flags & SHF_ALLOC and s.type != "SHT_NULL"]
    text = [s for s in loaded if s.flags & SHF_EXECINSTR]
    constant = [s for s in loaded if not s.flags & (SHF_EXECINSTR | SHF_WRITE | SHF_TLS)]
    writable = [s for s in loaded if s.flags & (SHF_WRITE | SHF_EXECINSTR | SHF_TLS) == SHF_WRITE]
    local = [s for s in loaded if s.flags & SHF_TLS and not s.flags & SHF_EXECINSTR]
    places: dict[int, int] = {}
    areas = [_group(elf, text, base, places, executable=True)]
    areas.append(_group(elf, constant, page_up(areas[-1].end), places))
    areas.append(_group(elf, writable, page_up(areas[-1].end), places, writable=True))
    commons, common_symbols = _place_commons(elf, symbols, areas[-1])
    thread = None
    if local:
        area = _group(elf, local, page_up(areas[-1].end), places)
        areas.append(area)
        thread = ThreadBlock(area.addr, len(area.data), area.size, max(s.align for s in local))
    warnings = [
        f"section {s.name} is writable and executable: loaded as text, not writable"
        for s in text
        if s.flags & SHF_WRITE
    ]
    return SectionLayout(
        Memory(elf.name, areas), places, commons, common_symbols, thread, tuple(warnings)
    )


def _align(elf: ElfFile, addr: int, alignment: int, what: str) -> int:
    if alignment & (alignment - 1) or alignment > IMAGE_LIMIT:
        raise InputError(
            f"{elf.name}: {what} wants alignment {alignment:#x}; it must be a power of two up to"
            f" {IMAGE_LIMIT:#x}"
        )
    return (addr + alignment - 1) & -alignment if alignment else addr


def _group(
    elf: ElfFile,
    sections: Iterable[Section],
    start: int,
    places: dict[int, int],
    *,
    executable: bool = False,
    writable: bool = False,
) -> Area:
    data = bytearray()
    end = start
    for section in sorted(sections, key=lambda s: s.type == "SHT_NOBITS"):
        addr = _align(elf, end, section.align, f"section {section.name}")
        end = addr + section.size
        if end - start > IMAGE_LIMIT:
            raise InputError(
                f"{elf.name}: section {section.name} of {section.size:#x} bytes; the limit is 1 GiB"
                " an image"
            )
        places[section.index] = addr
        if section.type != "SHT_NOBITS":
            gap = addr - start - len(data)
            contents = elf.contents(section)
            if len(data) + gap + len(contents) > len(elf.data) + _PADDING_LIMIT:
                raise InputError(
                    f"{elf.name}: section {section.name}: over {_PADDING_LIMIT >> 20} MiB between"
                    " sections; align them less"
                )
            data += bytes([_GAP if executable else 0]) * gap + contents
    return Area(start, data, end - start, writable=writable, executable=executable)


def _place_commons(
    elf: ElfFile, symbols: Sequence[ElfSymbol], area: Area
) -> tuple[dict[ElfSymbol, int], tuple[Symbol, ...]]:
    """Make room for SHN_COMMON symbols at the end of ``area``, and return their addresses.

    The ``value`` of such a symbol is its alignment.
    """
    places: dict[ElfSymbol, int] = {}
    found: list[Symbol] = []
    for symbol in symbols:
        if symbol.section != COMMON or symbol in places:
            continue
        addr = _align(elf, area.end, symbol.value, f"common symbol {symbol.name}")
        if addr + symbol.size - area.addr > IMAGE_LIMIT:
            raise InputError(
                f"{elf.name}: common symbol {symbol.name} of {symbol.size:#x} bytes; the limit is 1"
                " GiB an image"
            )
        area.size = addr + symbol.size - area.addr
        places[symbol] = addr
        if symbol.name and symbol.size:
            found.append(Symbol(symbol.name, addr, symbol.size, function=False))
    return places, tuple(found)
