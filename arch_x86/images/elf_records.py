"""Records of an ELF file's tables, and their unpacking. Pure: bytes in, records out.

Source: System V ABI, chapter 4 ("Sections", "Symbol Table", "Relocation") and chapter 5 ("Program
Header").
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
# of one table: if damaged, it can make every name as long as itself
_NAMES_LIMIT: Final = 256 << 20
_SYMBOL: Final = struct.Struct("<IBBHQQ")
_RELA: Final = struct.Struct("<QQq")
_XINDEX: Final = 0xFFFF
_RESERVED: Final = {0xFFF1: ABS, 0xFFF2: COMMON, 0xFF02: COMMON}  # the last is SHN_X86_64_LCOMMON
_LORESERVE: Final = 0xFF00


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A section header (chapter 4, "Sections"). ``type`` is pyelftools' name, or the number of a
    type without one.
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
    """A program header (chapter 5)."""

    type: str | int
    flags: int
    offset: int
    vaddr: int
    filesz: int
    memsz: int
    align: int


@dataclass(frozen=True, slots=True)
class ElfSymbol:
    """A symbol table entry. ``section`` is a section's index, or one of UNDEF, ABS, COMMON,
    SPECIAL.

    ``hidden``: an old version, kept for programs linked against it (``memcpy@GLIBC_2.2.5``).
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
        """True for STB_WEAK."""
        return self.bind == STB_WEAK


@dataclass(frozen=True, slots=True)
class Rela:
    """A relocation entry with addend."""

    offset: int
    kind: int
    symbol: int
    addend: int


class Strings:
    """A string table. Names are cut at a version (``foo@@V``) and made printable."""

    def __init__(self, file: str, data: bytes) -> None:
        self._file = file
        self._data = data
        self._left = _NAMES_LIMIT

    def get(self, offset: int, *, plain: bool = True) -> str:
        """The name at ``offset``; without its version if ``plain``."""
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
    """The entries of a symbol ``table``; ``extended`` is the table of section indexes that do not
    fit (SHT_SYMTAB_SHNDX).
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
    """The entries of a RELA ``table``."""
    whole = len(table) - len(table) % _RELA.size
    for offset, info, addend in _RELA.iter_unpack(memoryview(table)[:whole]):
        yield Rela(offset, info & 0xFFFFFFFF, info >> 32, addend)
