"""This module takes an ELF file apart into typed records (System V gABI, chapters 4 and 5).

Each offset is checked against the file's size, since a damaged file must end in an
:class:`InputError` whatever it holds. Symbols and relocations are unpacked by
:mod:`arch_x86.images.elf_records`.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from functools import cached_property
from typing import Final

from arch_x86.images.elf_header import check_header
from arch_x86.images.elf_names import FILE_TYPES, PROGRAM_TYPES, SECTION_TYPES
from arch_x86.images.elf_records import (
    SYMBOL_SIZE,
    ElfSymbol,
    Program,
    Section,
    Strings,
    unpack_symbols,
)
from arch_x86.images.image_memory import printable
from engine.errors import InputError

__all__ = ("COUNT_LIMIT", "ElfFile")

_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_OFFSET, _SIZE = 4, 5
"""The indices of sh_offset and sh_size in a section header."""
_PROGRAM: Final = struct.Struct("<IIQQQQQQ")

COUNT_LIMIT: Final = 4 << 20
"""At most this many relocations, and this many symbols, are read from one file: 4 Mi."""


class ElfFile:
    """This class is a little-endian 64-bit ELF file for x86-64.

    The constructor checks that the two header tables lie within the file. What they point to is
    checked on use.

    :param data: the bytes of the file.
    :param name: the file's name, which begins each message.
    :raises InputError: in the constructor, the file is of another kind or damaged; in each method,
        what is asked for lies outside of the file.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self.name = name
        self.data = data
        shape = check_header(data, name)
        self.type = FILE_TYPES[shape.type]
        self.entry = shape.entry
        self._sections = [_SECTION.unpack_from(data, at) for at in shape.section_headers]
        self.programs = tuple(
            _program(_PROGRAM.unpack_from(data, at)) for at in shape.program_headers
        )
        self._names = shape.names_index

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """Return the sections by their index; none when the section header table is stripped."""
        raw = self._sections
        if not raw:
            return ()
        strings = Strings(self.name, b"\0")
        if 0 < self._names < len(raw):
            table = raw[self._names]
            strings = Strings(
                self.name,
                self.slice(table[_OFFSET], table[_SIZE], "the section name table"),
            )
        return tuple(_section(index, header, strings) for index, header in enumerate(raw))

    def slice(self, offset: int, size: int, what: str) -> bytes:
        """Return the ``size`` bytes of the file from ``offset``.

        :param what: what these bytes are, for the message.
        :raises InputError: the file is shorter.
        """
        if offset + size > len(self.data):
            ends = f"ends at offset {offset + size:#x} but the file at {len(self.data):#x}"
            raise InputError(f"{self.name}: {what} {ends}; the file is truncated or damaged")
        return self.data[offset : offset + size]

    def contents(self, section: Section) -> bytes:
        """Return the bytes of ``section`` in the file, of which one of type SHT_NOBITS has none.

        :raises InputError: the file ends before.
        """
        if section.type in ("SHT_NOBITS", "SHT_NULL"):
            return b""
        return self.slice(section.offset, section.size, f"section {section.name or section.index}")

    def linked(self, section: Section) -> Section:
        """Return the section that ``section.link`` names.

        :raises InputError: there is no section with this index.
        """
        if not 0 < section.link < len(self.sections):
            raise InputError(
                f"{self.name}: section {section.name or section.index} links to section"
                f" {section.link}, which does not exist"
            )
        return self.sections[section.link]

    def table(self, kind: str) -> Section | None:
        """Return the first section of type ``kind``, such as ``"SHT_SYMTAB"``, or None."""
        return next((section for section in self.sections if section.type == kind), None)

    def symbols(self, table: Section) -> list[ElfSymbol]:
        """Return all entries of the symbol table ``table``, the null symbol at index 0 included.

        :raises InputError: there are too many, or the table or one of its names lies outside of the
            file.
        """
        extended = next(
            (s for s in self.sections if s.type == "SHT_SYMTAB_SHNDX" and s.link == table.index),
            None,
        )
        data = self.contents(table)
        self.check_count(len(data) // SYMBOL_SIZE, "symbols")
        strings = Strings(self.name, self.contents(self.linked(table)))
        symbols = list(unpack_symbols(data, strings, self.contents(extended) if extended else b""))
        versions = next(
            (s for s in self.sections if s.type == "SHT_GNU_versym" and s.link == table.index), None
        )
        if versions is None:
            return symbols
        # An entry has 16 bits, of which bit 15 is VERSYM_HIDDEN, so the high bytes are enough.
        marks = self.contents(versions)[1::2].ljust(len(symbols), b"\0")
        return [
            replace(symbol, hidden=True) if mark >> 7 else symbol
            for symbol, mark in zip(symbols, marks, strict=False)
        ]

    def check_count(self, count: int, what: str) -> None:
        """Check that a table with ``count`` entries may be read.

        :param what: what the entries are, for the message.
        :raises InputError: there are more than :data:`COUNT_LIMIT`, or more than the file has
            bytes.
        """
        if count > COUNT_LIMIT:
            raise InputError(f"{self.name}: {count} {what}; the limit is {COUNT_LIMIT}")
        # Tables that overlap each other, or lie in zero-filled memory, can have more entries than
        # the file has bytes. They are refused before any time is spent on them.
        if count > len(self.data):
            raise InputError(
                f"{self.name}: {count} {what} in a file of {len(self.data)} bytes; the file is"
                " damaged"
            )


def _program(header: tuple[int, ...]) -> Program:
    kind, flags, offset, vaddr, _paddr, filesz, memsz, align = header
    return Program(
        type=PROGRAM_TYPES.get(kind, kind),
        flags=flags,
        offset=offset,
        vaddr=vaddr,
        filesz=filesz,
        memsz=memsz,
        align=align,
    )


def _section(index: int, header: tuple[int, ...], strings: Strings) -> Section:
    name, kind, flags, addr, offset, size, link, info, align, entsize = header
    return Section(
        index=index,
        name=printable(strings.get(name, plain=False)),
        type=SECTION_TYPES.get(kind, kind),
        flags=flags,
        addr=addr,
        offset=offset,
        size=size,
        link=link,
        info=info,
        align=align,
        entsize=entsize,
    )
