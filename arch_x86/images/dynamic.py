"""This module reads the dynamic section of an ELF file (gABI, chapter 5, "Dynamic Section").

The dynamic section says where an executable or shared object keeps its relocations and its dynamic
symbols. Everything is read from the loaded segments, as ld.so reads it, so a file without section
headers will do. Other sources: chapter 5, "Hash Table"; DT_RELR of the gABI draft; DT_GNU_HASH of
binutils.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cached_property
from typing import Final

from arch_x86.images.elf_file import ElfFile
from arch_x86.images.elf_records import (
    RELA_SIZE,
    SYMBOL_SIZE,
    ElfSymbol,
    Rela,
    Strings,
    unpack_relas,
    unpack_symbols,
)
from arch_x86.images.image_memory import Memory
from arch_x86.images.relocs import RELATIVE
from engine.errors import InputError

__all__ = ("Dynamic",)

_DT_PLTRELSZ, _DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_RELA, _DT_RELASZ, _DT_STRSZ = (
    2,
    4,
    5,
    6,
    7,
    8,
    10,
)
_DT_REL, _DT_RELSZ, _DT_PLTREL, _DT_JMPREL, _DT_RELRSZ, _DT_RELR = 17, 18, 20, 23, 35, 36
_DT_GNU_HASH: Final = 0x6FFFFEF5
_WORD: Final = 8


class Dynamic:
    """This class holds the dynamic section's tags, and reads the tables that they point to.

    A file without a dynamic section has no tags, hence no relocations and no symbols here.

    :param memory: the memory in which the segments of ``elf`` are loaded.
    :param bias: bytes by which the segments were moved from the addresses that they are linked for.
    :raises InputError: in the constructor and in each method, when an address in the section lies
        outside of the segments.
    """

    def __init__(self, elf: ElfFile, memory: Memory, bias: int) -> None:
        self._elf = elf
        self._memory = memory
        self._bias = bias
        self._symbols: dict[int, ElfSymbol] = {}
        self._tags: dict[int, int] = {}
        header = next((p for p in elf.programs if p.type == "PT_DYNAMIC"), None)
        if header is None:
            return
        data = self._read(header.vaddr, header.memsz - header.memsz % 16, "the dynamic section")
        for tag, value in struct.iter_unpack("<QQ", data):
            if tag == 0:
                break
            self._tags.setdefault(tag, value)

    def relocations(self) -> Iterator[Rela]:
        """Yield all relocations in the order in which ld.so applies them: RELR, RELA, the PLT's.

        A RELR relocation is given as one of type RELATIVE, with the addend that lies in its place.

        :raises InputError: the file has relocations of type REL, more than are read, or a table
            outside of the segments.
        """
        if self._tags.get(_DT_RELSZ) or (
            self._tags.get(_DT_PLTRELSZ) and self._tags.get(_DT_PLTREL, 7) != _DT_RELA
        ):
            raise InputError(f"{self._elf.name}: relocations of type REL; x86-64 files have RELA")
        yield from self._relr()
        for address, size in ((_DT_RELA, _DT_RELASZ), (_DT_JMPREL, _DT_PLTRELSZ)):
            if self._tags.get(size):
                self._elf.check_count(self._tags[size] // RELA_SIZE, "relocations")
                yield from unpack_relas(
                    self._read(self._tags.get(address, 0), self._tags[size], "the relocation table")
                )

    def symbol(self, number: int) -> ElfSymbol:
        """Return the dynamic symbol with this number.

        :raises InputError: there is no dynamic symbol table, or the symbol lies outside of the
            segments.
        """
        if number not in self._symbols:
            if _DT_SYMTAB not in self._tags:
                raise InputError(
                    f"{self._elf.name}: a relocation names symbol {number}, but there is no dynamic"
                    " symbol table"
                )
            entry = self._read(
                self._tags[_DT_SYMTAB] + SYMBOL_SIZE * number,
                SYMBOL_SIZE,
                f"dynamic symbol {number}",
            )
            self._symbols[number] = next(unpack_symbols(entry, self._strings))
        return self._symbols[number]

    def symbols(self) -> list[ElfSymbol]:
        """Return all dynamic symbols, the null symbol at index 0 included.

        No tag gives their number, so it is taken from a hash table: DT_HASH has it, and DT_GNU_HASH
        has its last chain.

        :raises InputError: there are more symbols than are read, or a table lies outside of the
            segments.
        """
        if _DT_SYMTAB not in self._tags:
            return []
        count = self._count()
        self._elf.check_count(count, "dynamic symbols")
        return [self.symbol(number) for number in range(count)]

    @cached_property
    def _strings(self) -> Strings:
        table = self._read(
            self._tags.get(_DT_STRTAB, 0), self._tags.get(_DT_STRSZ, 0), "the dynamic string table"
        )
        return Strings(self._elf.name, table)

    def _read(self, vaddr: int, size: int, what: str) -> bytes:
        data = (
            self._memory.read((vaddr + self._bias) % (1 << 64), size)
            if size <= len(self._elf.data)
            else None
        )
        if data is None:
            raise InputError(
                f"{self._elf.name}: {what} ({size:#x} bytes at {vaddr:#x}) lies outside of the"
                " segments; the file is damaged"
            )
        return data

    def _relr(self) -> Iterator[Rela]:
        """Yield the relocations of the RELR table, which packs them as words.

        An even word is the address of one place. An odd word is a bitmap that says which of the
        next 63 words in memory are places, too.
        """
        size = self._tags.get(_DT_RELRSZ, 0)
        if not size:
            return
        table = self._read(self._tags.get(_DT_RELR, 0), size - size % _WORD, "the RELR table")
        self._elf.check_count(8 * (size // _WORD), "relocations")
        following = 0
        for (word,) in struct.iter_unpack("<Q", table):
            if word & 1:
                places = [following + _WORD * bit for bit in range(63) if word >> (bit + 1) & 1]
                following += 63 * _WORD
            else:
                places = [word]
                following = word + _WORD
            for place in places:
                yield Rela(
                    place,
                    RELATIVE,
                    0,
                    int.from_bytes(self._read(place, _WORD, "a RELR relocation"), "little"),
                )

    def _count(self) -> int:
        """Return how many dynamic symbols there are, by the hash tables."""
        if _DT_HASH in self._tags:
            # The second word of DT_HASH is nchain, the number of symbols.
            return int.from_bytes(
                self._read(self._tags[_DT_HASH] + 4, 4, "the symbol hash table"), "little"
            )
        if _DT_GNU_HASH not in self._tags:
            return 0
        table = self._tags[_DT_GNU_HASH]
        buckets, first, bloom_words = struct.unpack(
            "<III", self._read(table, 12, "the symbol hash table")
        )
        at = table + 16 + _WORD * bloom_words
        self._elf.check_count(buckets, "hash buckets")
        heads = struct.unpack(f"<{buckets}I", self._read(at, 4 * buckets, "the symbol hash table"))
        last = max(heads, default=0)
        if last < first:
            return first
        # The last chain ends at the first entry with bit 0 set. The table has no entries for the
        # symbols below ``first``, so its start moves back by as many entries.
        at += 4 * buckets - 4 * first
        while not self._read(at + 4 * last, 4, "the symbol hash table")[0] & 1:
            last += 1
            self._elf.check_count(last, "dynamic symbols")
        return last + 1
