"""This module unpacks the records of an ELF file's tables (System V gABI, chapters 4 and 5).

The sections of chapter 4 are "Sections", "Symbol Table" and "Relocation", that of chapter 5 is
"Program Header". The functions are pure: bytes go in, and records come out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from engine.errors import InputError

__all__ = (
    "ABS",
    "COMMON",
    "RELA_SIZE",
    "SHF_ALLOC",
    "SHF_EXECINSTR",
    "SHF_TLS",
    "SHF_WRITE",
    "SPECIAL",
    "STB_LOCAL",
    "STB_WEAK",
    "STT_COMMON",
    "STT_FUNC",
    "STT_GNU_IFUNC",
    "STT_NOTYPE",
    "STT_OBJECT",
    "STT_SECTION",
    "STT_TLS",
    "SYMBOL_SIZE",
    "UNDEF",
    "ElfSymbol",
    "Program",
    "Rela",
    "Section",
    "Strings",
    "unpack_relas",
    "unpack_symbols",
)

UNDEF, ABS, COMMON, SPECIAL = 0, -1, -2, -3
STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_SECTION, STT_COMMON, STT_TLS, STT_GNU_IFUNC = (
    0,
    1,
    2,
    3,
    5,
    6,
    10,
)
STB_LOCAL, STB_WEAK = 0, 2
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR, SHF_TLS = 1, 2, 4, 0x400
SYMBOL_SIZE: Final = 24
RELA_SIZE: Final = 24
# At most this many bytes of names are read from one string table, for in a damaged file every name
# can be as long as the whole table.
_NAMES_LIMIT: Final = 256 << 20
_SYMBOL: Final = struct.Struct("<IBBHQQ")
_RELA: Final = struct.Struct("<QQq")
_XINDEX: Final = 0xFFFF
# The third is SHN_X86_64_LCOMMON, the common symbols of the large code model.
_RESERVED: Final = {0xFFF1: ABS, 0xFFF2: COMMON, 0xFF02: COMMON}
_LORESERVE: Final = 0xFF00


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """This record is a section header (chapter 4, "Sections") with its index in the table.

    :ivar type: the name of the type (``"SHT_PROGBITS"``), or the number of a type without a
        name.
    """

    index: int
    name: str
    type: str | int
    flags: int
    addr: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entsize: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """This record is a program header (chapter 5, "Program Header"), which describes one segment.

    :ivar type: the name of the type (``"PT_LOAD"``), or the number of a type without a
        name.
    """

    type: str | int
    flags: int
    offset: int
    vaddr: int
    filesz: int
    memsz: int
    align: int


@dataclass(frozen=True, slots=True)
class ElfSymbol:
    """This record is an entry of a symbol table (chapter 4, "Symbol Table").

    :ivar section: the index of the section that defines it, or one of UNDEF, ABS, COMMON and
        SPECIAL.
    :ivar hidden: True for an old version that is kept for programs linked against it
        (``memcpy@GLIBC_2.2.5``).
    """

    name: str
    value: int
    size: int
    type: int
    bind: int
    section: int
    hidden: bool = False

    @property
    def weak(self) -> bool:
        """Return True when the symbol's binding is STB_WEAK, so that it may stay undefined."""
        return self.bind == STB_WEAK


@dataclass(frozen=True, slots=True)
class Rela:
    """This record is a relocation entry with an addend (chapter 4, "Relocation").

    :ivar offset: the place: an offset in its section in a relocatable object, an address in a
        linked file.
    :ivar kind: the relocation type, R_X86_64_*.
    :ivar symbol: the number of its symbol, 0 for none.
    """

    offset: int
    kind: int
    symbol: int
    addend: int


class Strings:
    """This class is a string table.

    :param file: the file's name, which begins each message.
    :param data: the bytes of the table.
    """

    def __init__(self, file: str, data: bytes) -> None:
        self._file = file
        self._data = data
        self._left = _NAMES_LIMIT

    def get(self, offset: int, *, plain: bool = True) -> str:
        """Return the name at ``offset`` of the table, with what does not print escaped.

        :param plain: cut the name at a version (``foo@@V``).
        :raises InputError: the name lies outside of the table, or more than 256 MiB of names were
            read from it.
        """
        end = self._data.find(b"\0", offset)
        if end < 0:
            raise InputError(
                f"{self._file}: a name at offset {offset:#x} lies outside of its string table; the"
                " file is damaged"
            )
        self._left -= end - offset
        if self._left < 0:
            raise InputError(
                f"{self._file}: more than {_NAMES_LIMIT >> 20} MiB of symbol names; the file is"
                " damaged"
            )
        text = self._data[offset:end].decode("utf-8", "backslashreplace")
        name = text.split("@", 1)[0] if plain and text[:1] != "@" else text
        return name if name.isprintable() else name.encode("unicode_escape").decode("ascii")


def unpack_symbols(table: bytes, strings: Strings, extended: bytes = b"") -> Iterator[ElfSymbol]:
    """Yield the entries of a symbol ``table``.

    :param strings: the string table that holds their names.
    :param extended: the table of section indexes that do not fit in 16 bits (SHT_SYMTAB_SHNDX).
    :raises InputError: a name lies outside of its string table.
    """
    whole = len(table) - len(table) % SYMBOL_SIZE
    for index, (name, info, _other, section, value, size) in enumerate(
        _SYMBOL.iter_unpack(memoryview(table)[:whole])
    ):
        place: int = section
        if section == _XINDEX and len(extended) >= 4 * index + 4:
            place = int.from_bytes(extended[4 * index : 4 * index + 4], "little")
        elif section >= _LORESERVE:
            place = _RESERVED.get(section, SPECIAL)
        yield ElfSymbol(strings.get(name), value, size, info & 15, info >> 4, place)


def unpack_relas(table: bytes) -> Iterator[Rela]:
    """Yield the entries of a RELA ``table``; bytes behind the last whole entry are ignored."""
    whole = len(table) - len(table) % _RELA.size
    for offset, info, addend in _RELA.iter_unpack(memoryview(table)[:whole]):
        yield Rela(offset, info & 0xFFFFFFFF, info >> 32, addend)
