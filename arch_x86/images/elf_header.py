"""This module checks an ELF header before anything else reads it (gABI, chapter 4, "ELF Header").

It checks what kind of file it is, and that its two header tables lie within it. Counts that do not
fit in 16 bits stand in section header 0 (chapter 4, "Section Header Table Index").
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from engine.errors import InputError

__all__ = ("ELF_MAGIC", "HeaderShape", "check_header")

ELF_MAGIC: Final = b"\x7fELF"
_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION_SIZE: Final = 64
_PROGRAM_SIZE: Final = 56
_MACHINE_X86_64: Final = 62
_TYPES: Final = {0: "a file of no type", 4: "a core file"}
_GOOD_TYPES: Final = (1, 2, 3)
_XINDEX: Final = 0xFFFF
_WANTED: Final = "give an x86-64 relocatable object, executable or shared object"


@dataclass(frozen=True, slots=True)
class HeaderShape:
    """This record says where the two header tables of a file lie.

    :ivar section_headers: the file offset of each section header.
    :ivar program_headers: the file offset of each program header.
    :ivar names_index: the index of the section that holds the section names.
    :ivar type: the number of the file's type.
    :ivar entry: the address at which a program begins.
    """

    section_headers: range
    program_headers: range
    names_index: int
    type: int
    entry: int


def check_header(data: bytes, name: str) -> HeaderShape:
    """Return what the ELF header of ``data`` says about the two header tables.

    :param name: the file's name, which begins each message.
    :raises InputError: the file is no 64-bit little-endian x86-64 relocatable object, executable or
        shared object, or it is cut short.
    """
    if data[:4] != ELF_MAGIC:
        raise InputError(f"{name}: not an ELF file; {_WANTED}")
    # A short file of another kind is better told what it is than that it is truncated.
    if len(data) >= 6:
        _check_ident(data, name)
    if len(data) < _HEADER.size:
        raise InputError(
            f"{name}: {len(data)} bytes, but an ELF header has {_HEADER.size}; the file is"
            " truncated"
        )
    _, kind, machine, _, entry, phoff, shoff, _, _, phsize, phnum, shsize, shnum, names = (
        _HEADER.unpack_from(data)
    )
    if machine != _MACHINE_X86_64:
        raise InputError(f"{name}: an ELF file for {_machine_name(machine)}; {_WANTED}")
    if kind not in _GOOD_TYPES:
        raise InputError(f"{name}: {_TYPES.get(kind, f'an ELF file of type {kind}')}; {_WANTED}")
    sections = range(0)
    if shoff:
        first = _table(data, name, "section", shoff, 1, shsize, _SECTION_SIZE)
        _, _, _, _, _, extended_count, link, info, _, _ = struct.unpack_from(
            "<IIQQQQIIQQ", data, first[0]
        )
        sections = _table(
            data, name, "section", shoff, shnum or extended_count, shsize, _SECTION_SIZE
        )
        names = link if names == _XINDEX else names
        phnum = info if phnum == _XINDEX else phnum
    programs = (
        _table(data, name, "program", phoff, phnum, phsize, _PROGRAM_SIZE)
        if phoff and phnum
        else range(0)
    )
    return HeaderShape(sections, programs, names, kind, entry)


def _check_ident(data: bytes, name: str) -> None:
    if data[4] == 1:
        raise InputError(f"{name}: a 32-bit ELF file; {_WANTED}")
    if data[5] == 2:
        raise InputError(f"{name}: a big-endian ELF file; {_WANTED}")
    if data[4] != 2 or data[5] != 1:
        raise InputError(
            f"{name}: ELF class {data[4]} and data encoding {data[5]} do not exist; {_WANTED}"
        )


def _machine_name(machine: int) -> str:
    from elftools.elf.enums import ENUM_E_MACHINE  # few files are for another machine

    names = [text for text, number in ENUM_E_MACHINE.items() if number == machine]
    return names[0].removeprefix("EM_").lower() if names else f"machine number {machine}"


def _table(
    data: bytes, name: str, what: str, offset: int, count: int, size: int, wanted: int
) -> range:
    if size != wanted:
        raise InputError(
            f"{name}: {what} headers of {size} bytes; a 64-bit ELF file has {wanted}; the file is"
            " damaged"
        )
    end = offset + count * size
    if end > len(data):
        raise InputError(
            f"{name}: the {what} header table ends at offset {end:#x} but the file at"
            f" {len(data):#x}; the file is truncated or damaged"
        )
    return range(offset, end, size)
