"""Small ELF files made of parts, so that a test can say exactly what is in them. No compiler
needed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

ELF = Path(__file__).resolve().parents[2] / "workloads" / "elf"
A, W, X = 2, 1, 4  # section flags
PROGBITS, SYMTAB, STRTAB, RELA, NOBITS, REL = 1, 2, 3, 4, 8, 9
NOTYPE, OBJECT, FUNC, SECTION, TLS, IFUNC = 0, 1, 2, 3, 6, 10
THREAD = 0x400  # a section flag
LOCAL, GLOBAL, WEAK = 0, 1, 2
UNDEF, ABS, COMMON = 0, 0xFFF1, 0xFFF2


def header(
    kind: int,
    phoff: int = 0,
    phnum: int = 0,
    shoff: int = 0,
    shnum: int = 0,
    names: int = 0,
    entry: int = 0,
) -> bytes:
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    return ident + struct.pack(
        "<HHIQQQIHHHHHH", kind, 62, 1, entry, phoff, shoff, 0, 64, 56, phnum, 64, shnum, names
    )


class Names:
    """A string table."""

    def __init__(self) -> None:
        self.data = b"\0"

    def add(self, name: str) -> int:
        at = len(self.data)
        self.data += name.encode() + b"\0"
        return at


@dataclass
class Part:
    name: str
    kind: int
    flags: int
    data: bytes
    size: int
    align: int = 1
    link: int = 0
    info: int = 0
    entsize: int = 0


@dataclass
class Object:
    """A relocatable object. Sections and symbols are numbered from 1, as in the file."""

    parts: list[Part] = field(default_factory=list)
    names: Names = field(default_factory=Names)
    symbols: list[bytes] = field(default_factory=lambda: [bytes(24)])
    relas: dict[int, bytes] = field(default_factory=dict)
    rela_type: int = RELA

    def section(
        self,
        name: str,
        data: bytes = b"",
        flags: int = A,
        *,
        size: int | None = None,
        align: int = 1,
        entsize: int = 0,
    ) -> int:
        kind = PROGBITS if size is None else NOBITS
        self.parts.append(
            Part(
                name, kind, flags, data, len(data) if size is None else size, align, entsize=entsize
            )
        )
        return len(self.parts)

    def text(self, data: bytes, name: str = ".text", **options: int) -> int:
        return self.section(name, data, A | X, **options)

    def symbol(
        self,
        name: str,
        section: int = UNDEF,
        value: int = 0,
        size: int = 0,
        kind: int = NOTYPE,
        bind: int = GLOBAL,
    ) -> int:
        self.symbols.append(
            struct.pack(
                "<IBBHQQ",
                self.names.add(name) if name else 0,
                bind << 4 | kind,
                0,
                section,
                value,
                size,
            )
        )
        return len(self.symbols) - 1

    def rela(self, section: int, offset: int, kind: int, symbol: int, addend: int = 0) -> None:
        entry = struct.pack("<QQq", offset, symbol << 32 | kind, addend)
        self.relas[section] = self.relas.get(section, b"") + entry

    def build(self) -> bytes:
        parts = list(self.parts)
        symtab, strtab = len(parts) + 1, len(parts) + 2
        table = b"".join(self.symbols)
        parts += [
            Part(".symtab", SYMTAB, 0, table, len(table), 8, strtab, 1, 24),
            Part(".strtab", STRTAB, 0, self.names.data, len(self.names.data)),
        ]
        parts += [
            Part(".rela", self.rela_type, 0, data, len(data), 8, symtab, at, 24)
            for at, data in self.relas.items()
        ]
        names = Names()
        offsets = [names.add(part.name) for part in parts]
        own = names.add(".shstrtab")
        parts.append(Part(".shstrtab", STRTAB, 0, names.data, len(names.data)))
        offsets.append(own)
        body, headers = b"", bytes(64)
        for part, at in zip(parts, offsets, strict=True):
            headers += struct.pack(
                "<IIQQQQIIQQ",
                at,
                part.kind,
                part.flags,
                0,
                64 + len(body),
                part.size,
                part.link,
                part.info,
                part.align,
                part.entsize,
            )
            body += part.data
        return (
            header(1, shoff=64 + len(body), shnum=len(parts) + 1, names=len(parts)) + body + headers
        )


DATA_PAGE = 0x1000


@dataclass
class Dynamic:
    """A shared object: a text page at 0, and a writable page at 0x1000 with ``data``, behind it the
    dynamic tables.
    """

    text: bytes = b"\xc3"
    data: bytes = bytes(64)
    kind: int = 3
    names: Names = field(default_factory=Names)
    symbols: list[bytes] = field(default_factory=lambda: [bytes(24)])
    relas: bytes = b""
    plt_relas: bytes = b""
    relr: tuple[int, ...] = ()
    entry: int = 0
    text_flags: int = 5
    memsz: int | None = None
    tls: tuple[int, int, int] | None = (
        None  # bytes in the file (from the start of ``data``), in memory, alignment
    )
    interp: str = ""

    def symbol(
        self,
        name: str,
        section: int = UNDEF,
        value: int = 0,
        size: int = 0,
        kind: int = NOTYPE,
        bind: int = GLOBAL,
    ) -> int:
        self.symbols.append(
            struct.pack("<IBBHQQ", self.names.add(name), bind << 4 | kind, 0, section, value, size)
        )
        return len(self.symbols) - 1

    def rela(self, offset: int, kind: int, symbol: int = 0, addend: int = 0) -> None:
        self.relas += struct.pack("<QQq", offset, symbol << 32 | kind, addend)

    def plt_rela(self, offset: int, symbol: int) -> None:
        self.plt_relas += struct.pack("<QQq", offset, symbol << 32 | 7, 0)

    def build(self) -> bytes:
        body, at = self.data, {}
        tables = {
            "hash": struct.pack("<III", 1, len(self.symbols), 0),
            "strings": self.names.data,
            "symbols": b"".join(self.symbols),
            "relas": self.relas,
            "plt": self.plt_relas,
            "relr": struct.pack(f"<{len(self.relr)}Q", *self.relr),
        }
        for name, table in tables.items():
            at[name] = DATA_PAGE + len(body)
            body += table
        tags = [
            (4, at["hash"]),
            (5, at["strings"]),
            (10, len(self.names.data)),
            (6, at["symbols"]),
            (7, at["relas"]),
            (8, len(self.relas)),
        ]
        tags += [
            (23, at["plt"]),
            (2, len(self.plt_relas)),
            (20, 7),
            (36, at["relr"]),
            (35, 8 * len(self.relr)),
            (0, 0),
        ]
        dynamic, size = DATA_PAGE + len(body), 16 * len(tags)
        body += b"".join(struct.pack("<QQ", *tag) for tag in tags)
        memsz = len(body) if self.memsz is None else self.memsz
        programs = struct.pack("<IIQQQQQQ", 1, self.text_flags, 0, 0, 0, 0x1000, 0x1000, 0x1000)
        programs += struct.pack(
            "<IIQQQQQQ", 1, 6, 0x1000, DATA_PAGE, DATA_PAGE, len(body), memsz, 0x1000
        )
        programs += struct.pack("<IIQQQQQQ", 2, 6, dynamic, dynamic, dynamic, size, size, 8)
        if self.tls is not None:
            filesz, size, align = self.tls
            programs += struct.pack(
                "<IIQQQQQQ", 7, 4, 0x1000, DATA_PAGE, DATA_PAGE, filesz, size, align
            )
        if self.interp:
            body += self.interp.encode() + b"\0"
            at_end, size = 0x1000 + len(body) - len(self.interp) - 1, len(self.interp) + 1
            programs += struct.pack("<IIQQQQQQ", 3, 4, at_end, at_end, at_end, size, size, 1)
        front = header(self.kind, phoff=64, phnum=len(programs) // 56, entry=self.entry) + programs
        return front.ljust(TEXT, b"\0") + self.text.ljust(0x1000 - TEXT, b"\xcc") + body


TEXT = 0x200
"""Where the text of a :class:`Dynamic` starts."""
