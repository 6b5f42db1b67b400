"""An ELF file taken apart into typed records, each checked against the file's size. The only user
of pyelftools' parser.

pyelftools parses the two header tables; symbols and relocations are unpacked by
:mod:`arch_x86.images.elf_records`, since they are many, and since a damaged file must end in an
:class:`InputError` whatever it holds.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from io import BytesIO
from typing import Any, Final

from elftools.common.utils import struct_parse
from elftools.elf.elffile import ELFFile

from arch_x86.images.elf_header import check_header
from arch_x86.images.elf_records import (
    SYMBOL_SIZE,
    ElfSymbol,
    Program,
    Section,
    Strings,
    unpack_symbols,
)
from arch_x86.images.memory import printable
from engine.errors import InputError

__all__ = ("COUNT_LIMIT", "ElfFile")

COUNT_LIMIT: Final = 4 << 20
"""Most relocations, and most symbols, that are read from one file: 4 Mi."""


class ElfFile:
    """A little-endian 64-bit x86 ELF file. The two header tables lie within the file; what they
    point to is checked on use.

    :raises InputError: it is something else, or damaged.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self.name = name
        self.data = data
        shape = check_header(data, name)
        try:
            elf = ELFFile(BytesIO(data))
            self.type = str(elf["e_type"])
            self.entry = int(elf["e_entry"])
            self._sections = [
                struct_parse(elf.structs.Elf_Shdr, elf.stream, at) for at in shape.section_headers
            ]
            self.programs = tuple(
                _program(struct_parse(elf.structs.Elf_Phdr, elf.stream, at))
                for at in shape.program_headers
            )
        # pyelftools raises whatever its parser meets: construct errors, struct.error, KeyError, ...
        except Exception as error:
            raise InputError(
                f"{name}: the ELF header tables are damaged ({type(error).__name__}); give an"
                " intact file"
            ) from None
        self._names = shape.names_index

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """All sections; empty when the section header table is stripped."""
        raw = self._sections
        if not raw:
            return ()
        strings = Strings(self.name, b"\0")
        if 0 < self._names < len(raw):
            table = raw[self._names]
            strings = Strings(
                self.name,
                self.slice(
                    int(table["sh_offset"]), int(table["sh_size"]), "the section name table"
                ),
            )
        return tuple(_section(index, header, strings) for index, header in enumerate(raw))

    def slice(self, offset: int, size: int, what: str) -> bytes:
        """``size`` bytes from ``offset``; ``what`` they are, for the message when the file is
        shorter.
        """
        if offset + size > len(self.data):
            ends = f"ends at offset {offset + size:#x} but the file at {len(self.data):#x}"
            raise InputError(f"{self.name}: {what} {ends}; the file is truncated or damaged")
        return self.data[offset : offset + size]

    def contents(self, section: Section) -> bytes:
        """The bytes of ``section`` in the file; none for SHT_NOBITS."""
        if section.type in ("SHT_NOBITS", "SHT_NULL"):
            return b""
        return self.slice(section.offset, section.size, f"section {section.name or section.index}")

    def linked(self, section: Section) -> Section:
        """The section that ``section.link`` names."""
        if not 0 < section.link < len(self.sections):
            raise InputError(
                f"{self.name}: section {section.name or section.index} links to section"
                f" {section.link}, which does not exist"
            )
        return self.sections[section.link]

    def table(self, kind: str) -> Section | None:
        """The first section of type ``kind``, such as ``"SHT_SYMTAB"``."""
        return next((section for section in self.sections if section.type == kind), None)

    def symbols(self, table: Section) -> list[ElfSymbol]:
        """All entries of symbol table ``table``, the null symbol at index 0 included."""
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
        # high bytes of 16-bit entries; bit 15 is VERSYM_HIDDEN
        marks = self.contents(versions)[1::2].ljust(len(symbols), b"\0")
        return [
            replace(symbol, hidden=True) if mark >> 7 else symbol
            for symbol, mark in zip(symbols, marks, strict=False)
        ]

    def check_count(self, count: int, what: str) -> None:
        """Refuse a file with more than ``COUNT_LIMIT`` of ``what``."""
        if count > COUNT_LIMIT:
            raise InputError(f"{self.name}: {count} {what}; the limit is {COUNT_LIMIT}")
        # before the time is spent: tables that overlap each other, or lie in zero-filled memory
        if count > len(self.data):
            raise InputError(
                f"{self.name}: {count} {what} in a file of {len(self.data)} bytes; the file is"
                " damaged"
            )


def _program(header: Any) -> Program:
    return Program(
        type=header["p_type"],
        flags=int(header["p_flags"]),
        offset=int(header["p_offset"]),
        vaddr=int(header["p_vaddr"]),
        filesz=int(header["p_filesz"]),
        memsz=int(header["p_memsz"]),
        align=int(header["p_align"]),
    )


def _section(index: int, header: Any, strings: Strings) -> Section:
    return Section(
        index=index,
        name=printable(strings.get(int(header["sh_name"]), plain=False)),
        type=header["sh_type"],
        flags=int(header["sh_flags"]),
        addr=int(header["sh_addr"]),
        offset=int(header["sh_offset"]),
        size=int(header["sh_size"]),
        link=int(header["sh_link"]),
        info=int(header["sh_info"]),
        align=int(header["sh_addralign"]),
        entsize=int(header["sh_entsize"]),
    )
