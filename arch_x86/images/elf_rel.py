"""This module loads relocatable objects (``.o``, ``.ko``) as kernel/module.c loads modules.

It answers to simplify_symbols() and apply_relocate_add(); :mod:`arch_x86.images.sections` has
layout_sections(). Sections are laid out in groups of the same protection, each on pages of its own,
and relocated there. Unlike the kernel's loader, this one keeps what the kernel frees after
initialization, and accepts code that uses a GOT.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from arch_x86.images import relocs
from arch_x86.images.elf_file import ElfFile
from arch_x86.images.elf_records import (
    ABS,
    COMMON,
    RELA_SIZE,
    SHF_EXECINSTR,
    STB_LOCAL,
    STT_GNU_IFUNC,
    STT_SECTION,
    STT_TLS,
    UNDEF,
    ElfSymbol,
    Rela,
    Section,
    unpack_relas,
)
from arch_x86.images.image_memory import Area, page_up, printable
from arch_x86.images.module import Bindings, Definition, DefinitionKind, Use
from arch_x86.images.sections import lay_out
from arch_x86.images.special import refuse_relocation, refuse_thread_symbol
from arch_x86.images.symbols import image_symbols
from arch_x86.images.tables import KernelTables, read_tables
from arch_x86.images.undefined import use_in_text
from engine.errors import InputError
from engine.image import Symbol

__all__ = ("RelModule",)

_SLOT_SIZE: Final = 8
_FOR_LOADERS: Final = relocs.LOADER_TYPES | {relocs.DTPMOD64, relocs.DTPOFF64}


@dataclass(frozen=True, slots=True)
class _Fixup:
    """This record is one relocation to apply.

    :ivar section: the section that it changes.
    :ivar place: the address that it changes.
    :ivar use: how it uses ``symbol``.
    """

    section: Section
    place: int
    rela: Rela
    symbol: ElfSymbol
    use: Use

    @property
    def where(self) -> str:
        """Return the section and offset of the relocation, as messages name them."""
        return f"{self.section.name}+{self.rela.offset:#x}"


class RelModule:
    """This class is the :class:`~arch_x86.images.module.Module` of a relocatable object.

    :param elf: the file.
    :param base: the address at which its first group of sections is laid out.
    :ivar memory: the memory in which its sections lie.
    :ivar warnings: one line for each thing that was assumed of its sections.
    :raises InputError: in the constructor, the file is damaged or over the limits, or has a
        relocation that is not supported.
    """

    interpreter = ""
    has_descriptors = False

    def __init__(self, elf: ElfFile, base: int) -> None:
        self.name = elf.name
        self._elf = elf
        table = elf.table("SHT_SYMTAB")
        self._symbols = elf.symbols(table) if table else []
        layout = lay_out(elf, self._symbols, base)
        self.memory = layout.memory
        self.thread = layout.thread
        self.warnings = layout.warnings
        self._places = layout.places
        self._commons = layout.commons
        self._common_symbols = layout.common_symbols
        self._fixups = self._read_fixups(table)
        self._got = self._place_got()

    def _read_fixups(self, table: Section | None) -> list[_Fixup]:
        fixups: list[_Fixup] = []
        elf = self._elf
        for section in elf.sections:
            if section.type not in ("SHT_RELA", "SHT_REL") or section.info not in self._places:
                continue  # Debugging information is not loaded, so it is not relocated.
            if section.type == "SHT_REL":
                raise InputError(
                    f"{elf.name}: section {section.name} is of type REL; x86-64 objects have RELA"
                )
            if section.size and (table is None or section.link != table.index):
                raise InputError(
                    f"{elf.name}: section {section.name} does not link to the symbol table; the"
                    " file is damaged"
                )
            elf.check_count(len(fixups) + section.size // RELA_SIZE, "relocations")
            target = elf.sections[section.info]
            data = elf.contents(target)
            relas = unpack_relas(elf.contents(section))
            fixups += [
                self._fixup(target, data, rela) for rela in relas if rela.kind != relocs.NONE
            ]
        return fixups

    def _fixup(self, target: Section, data: bytes, rela: Rela) -> _Fixup:
        where = f"{target.name}+{rela.offset:#x}"
        if rela.symbol >= len(self._symbols):
            count = len(self._symbols)
            raise InputError(
                f"{self.name}: relocation at {where} names symbol {rela.symbol} of {count}; the"
                " file is damaged"
            )
        symbol = self._symbols[rela.symbol]
        if not relocs.supported(rela.kind) or rela.kind in _FOR_LOADERS:
            refuse_relocation(self.name, rela.kind, self._symbol_name(symbol), where)
        if rela.offset + relocs.width(rela.kind) > len(data):
            what = f"relocation {relocs.type_name(rela.kind)} at {where}"
            raise InputError(
                f"{self.name}: {what} lies outside of its section's {len(data):#x} bytes; the file"
                " is damaged"
            )
        return _Fixup(
            target, self._places[target.index] + rela.offset, rela, symbol, _use(target, data, rela)
        )

    def _place_got(self) -> dict[int, int]:
        """Append a GOT to the memory and return the addresses of its slots by symbol number."""
        numbers = dict.fromkeys(
            fixup.rela.symbol for fixup in self._fixups if fixup.rela.kind in relocs.GOT_TYPES
        )
        if not numbers:
            return {}
        start = self.memory.end
        size = page_up(_SLOT_SIZE * len(numbers))
        self.memory.append(Area(start, bytearray(size), size))
        return {number: start + _SLOT_SIZE * index for index, number in enumerate(numbers)}

    # Names ----------------------------------------------------------------------------------------

    def exports(self) -> Mapping[str, Definition]:
        """Return the definitions of the global names."""
        found: dict[str, Definition] = {}
        for symbol in self._symbols:
            if (
                symbol.name
                and symbol.bind != STB_LOCAL
                and symbol.type != STT_SECTION
                and (own := self._own(symbol)) is not None
            ):
                found.setdefault(symbol.name, own)
        return found

    def _own(self, symbol: ElfSymbol) -> Definition | None:
        """Return the module's own definition of ``symbol``, or None where it has none."""
        addr = self._address(symbol)
        if addr is None:
            return None
        if self._is_thread_local(symbol) and self.thread is not None:
            block = self.thread
            return Definition(
                block.distance(addr - block.addr),
                symbol.size,
                DefinitionKind.THREAD,
                block.distance(0),
                self.name,
            )
        kind = DefinitionKind.INDIRECT if symbol.type == STT_GNU_IFUNC else DefinitionKind.PLAIN
        return Definition(addr, symbol.size, kind, owner=self.name)

    def _is_thread_local(self, symbol: ElfSymbol) -> bool:
        """Return True for thread-local symbols and for the symbols of their sections."""
        block = self.thread
        if symbol.type != STT_SECTION or block is None:
            return symbol.type == STT_TLS
        return (
            block.addr
            <= self._places.get(symbol.section, 0)
            < max(block.addr + block.size, block.addr + 1)
        )

    def references(self) -> Iterator[tuple[ElfSymbol, Use]]:
        """Yield each relocation's symbol and how it is used, in the symbol table's order."""
        return (
            (fixup.symbol, fixup.use)
            for fixup in sorted(self._fixups, key=lambda fixup: fixup.rela.symbol)
        )

    # Relocation -----------------------------------------------------------------------------------

    def relocate(self, bindings: Bindings) -> None:
        """Apply all relocations, with what ``bindings`` gives for each name.

        :raises InputError: a relocation overflows, or does not fit its symbol.
        """
        for fixup in self._fixups:
            self._apply(fixup, self._value(bindings, fixup))

    def _value(self, bindings: Bindings, fixup: _Fixup) -> int:
        """Return the S of the relocation's formula: an address, or a distance."""
        symbol = fixup.symbol
        own = self._own(symbol)
        if own is None and symbol.section != UNDEF:
            name = self._symbol_name(symbol)
            raise InputError(
                f"{self.name}: relocation at {fixup.where} needs {name}, which lies in a section"
                " that is not loaded"
            )
        found = bindings.find(self, symbol, own, fixup.use)
        if found is None:
            return 0
        if (found.kind is DefinitionKind.THREAD) != (fixup.use is Use.THREAD):
            refuse_thread_symbol(self.name, fixup.rela.kind, self._symbol_name(symbol), fixup.where)
        return (
            bindings.callable(found, symbol.name)
            if found.kind is DefinitionKind.INDIRECT
            else found.addr
        )

    def _apply(self, fixup: _Fixup, value: int) -> None:
        """Store the value of the relocation's formula, whose S is ``value``.

        For a GOT type, ``value`` goes to the symbol's slot, and S is the slot's address.

        :raises InputError: the value does not fit.
        """
        rela = fixup.rela
        if rela.kind in relocs.GOT_TYPES:
            self.memory.write(self._got[rela.symbol], value.to_bytes(_SLOT_SIZE, "little"))
            value = self._got[rela.symbol]
        data = relocs.compute(rela.kind, value, rela.addend, fixup.place)
        if data is None:
            what = (
                f"relocation {relocs.type_name(rela.kind)} against"
                f" {self._symbol_name(fixup.symbol)} at {fixup.where}"
            )
            raise InputError(
                f"{self.name}: {what} overflows ({value:#x}{rela.addend:+#x} from"
                f" {fixup.place:#x}); load the image at another address"
            )
        self.memory.write(fixup.place, data)

    # Symbols --------------------------------------------------------------------------------------

    def symbols(self) -> tuple[tuple[Symbol, ...], tuple[str, ...]]:
        """Return the image's symbols, common ones last, and warnings about cut ones."""
        found, cut = image_symbols(self._symbols, self.memory, self._address)
        return (*found, *self._common_symbols), cut

    def tables(self, found: tuple[Symbol, ...]) -> KernelTables:
        """Return the kernel's lists of text that probes must respect.

        :param found: the image's symbols, by which ranges get their sizes.
        """
        return read_tables(self._elf, self.memory, self._places, found)

    def _address(self, symbol: ElfSymbol) -> int | None:
        if symbol.section == ABS:
            return symbol.value
        if symbol.section == COMMON:
            return self._commons.get(symbol)
        place = self._places.get(symbol.section) if symbol.section > UNDEF else None
        return (place + symbol.value) % (1 << 64) if place is not None else None

    def _symbol_name(self, symbol: ElfSymbol) -> str:
        if symbol.type == STT_SECTION and 0 < symbol.section < len(self._elf.sections):
            return self._elf.sections[symbol.section].name
        return printable(symbol.name) or "(no symbol)"


def _use(target: Section, data: bytes, rela: Rela) -> Use:
    """Return how the relocation ``rela`` of section ``target`` uses its symbol.

    In text the instruction around the place tells; in any other section the relocation stores an
    address.

    :param data: the bytes of the section.
    """
    before = data[max(rela.offset - 2, 0) : rela.offset]
    in_text = bool(target.flags & SHF_EXECINSTR)
    if rela.kind in relocs.THREAD_TYPES:
        return Use.THREAD
    if rela.kind == relocs.PLT32:
        return Use.CALL
    if rela.kind in relocs.GOT_TYPES:
        return (
            Use.INDIRECT_CALL
            if in_text and use_in_text(before) is Use.INDIRECT_CALL
            else Use.ADDRESS
        )
    if rela.kind == relocs.PC32 and in_text:
        return use_in_text(before) & (Use.CALL | Use.DATA) or Use.DATA
    return Use.ADDRESS if relocs.width(rela.kind) == 8 or not in_text else Use.DATA
