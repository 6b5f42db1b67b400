"""This module loads executables and shared objects as glibc's elf/dl-load.c and dl-reloc.c do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Final

from arch_x86.images import relocs
from arch_x86.images.dynamic import Dynamic
from arch_x86.images.elf_file import ElfFile
from arch_x86.images.elf_records import (
    ABS,
    SHF_ALLOC,
    SHF_EXECINSTR,
    STB_LOCAL,
    STT_GNU_IFUNC,
    STT_NOTYPE,
    STT_SECTION,
    STT_TLS,
    UNDEF,
    ElfSymbol,
    Program,
    Rela,
    unpack_relas,
)
from arch_x86.images.image_memory import Area, Memory
from arch_x86.images.module import Bindings, Definition, DefinitionKind, ThreadBlock, Use
from arch_x86.images.plt import plt_entries
from arch_x86.images.special import (
    refuse_copy,
    refuse_place,
    refuse_relocation,
    refuse_thread_symbol,
)
from arch_x86.images.symbols import image_symbols
from arch_x86.images.undefined import use_in_text
from arch_x86.images.unwind import unnamed_functions
from arch_x86.isa.constants import PAGE_SIZE
from engine.errors import InputError
from engine.image import Symbol

__all__ = ("DynModule",)

_PF_X, _PF_W = 1, 2
# Segments may repeat pages of the file, but by no more than this in all, since a damaged file could
# ask for gigabytes.
_PADDING_LIMIT: Final = 16 << 20
_WORD: Final = 8


class DynModule:
    """This class is the :class:`~arch_x86.images.module.Module` of an executable or shared object.

    :param elf: the file.
    :param memory: where its segments are appended, behind what is there already.
    :param base: the address of its lowest page; None leaves it at the addresses that it was linked
        for.
    :param executes: False when no code will be run, so that data may be missing that would be
        copied from a library.
    :ivar entry: the address of the entry point, or None where the file has none in its text.
    :ivar warnings: one line for each thing that was assumed of its segments.
    :raises InputError: in the constructor, the file is damaged, has nothing to load, or is over the
        limits.
    """

    def __init__(
        self, elf: ElfFile, memory: Memory, base: int | None, *, executes: bool = True
    ) -> None:
        loads = [p for p in elf.programs if p.type == "PT_LOAD" and p.memsz]
        if not loads:
            raise InputError(
                f"{elf.name}: no loadable segment; give an executable or shared object with code"
            )
        self.name = elf.name
        self._elf = elf
        self._memory = memory
        self._executes = executes
        self._bias = bias = (
            0 if base is None else base - min(p.vaddr for p in loads) // PAGE_SIZE * PAGE_SIZE
        )
        for area in sorted(_areas(elf, loads, bias), key=lambda area: (area.addr, area.size)):
            memory.append(area)
        self._dynamic = Dynamic(elf, memory, bias)
        self._relas = [
            rela for rela in _relocations(elf, self._dynamic) if rela.kind != relocs.NONE
        ]
        self.has_descriptors = any(rela.kind == relocs.TLSDESC for rela in self._relas)
        self.thread = self._thread_block()
        self.interpreter = next(
            (_interpreter(elf, p) for p in elf.programs if p.type == "PT_INTERP"), ""
        )
        entry = (elf.entry + bias) % (1 << 64)
        self.entry = entry if elf.entry and memory.is_text(entry) else None
        self.warnings = tuple(_warnings(loads, bias))

    def _thread_block(self) -> ThreadBlock | None:
        header = next((p for p in self._elf.programs if p.type == "PT_TLS" and p.memsz), None)
        if header is None:
            return None
        if header.filesz > header.memsz:
            raise InputError(
                f"{self.name}: the thread-local segment has more bytes in the file than in memory;"
                " the file is damaged"
            )
        return ThreadBlock(
            (header.vaddr + self._bias) % (1 << 64), header.filesz, header.memsz, header.align
        )

    # Names ----------------------------------------------------------------------------------------

    def exports(self) -> Mapping[str, Definition]:
        """Return the definitions of the global names; the current version of a name wins."""
        found: dict[str, Definition] = {}
        for symbol in sorted(self._exported, key=lambda symbol: symbol.hidden):
            if symbol.name and symbol.name not in found and (own := self._own(symbol)) is not None:
                found[symbol.name] = own
        return found

    @cached_property
    def _exported(self) -> list[ElfSymbol]:
        table = self._elf.table("SHT_DYNSYM")
        symbols = self._elf.symbols(table) if table else self._dynamic.symbols()
        return [
            s
            for s in symbols
            if s.bind != STB_LOCAL and s.section != UNDEF and s.type != STT_SECTION
        ]

    def _own(self, symbol: ElfSymbol) -> Definition | None:
        """Return the module's own definition of ``symbol``, or None where it has none."""
        if symbol.section == UNDEF:
            return None
        if symbol.type == STT_TLS:
            block = self.thread
            if block is None:
                return None
            return Definition(
                block.distance(symbol.value),
                symbol.size,
                DefinitionKind.THREAD,
                block.distance(0),
                self.name,
            )
        kind = DefinitionKind.INDIRECT if symbol.type == STT_GNU_IFUNC else DefinitionKind.PLAIN
        return Definition(_address(symbol, self._bias) or 0, symbol.size, kind, owner=self.name)

    def references(self) -> Iterator[tuple[ElfSymbol, Use]]:
        """Yield the symbol of each relocation and how it is used, in the order of the symbol table.

        Copy relocations are left out: the data is defined in another file, and :meth:`relocate`
        asks for it.

        :raises InputError: a relocation is not supported.
        """
        for rela in sorted(self._relas, key=lambda rela: rela.symbol):
            symbol = self._dynamic.symbol(rela.symbol) if rela.symbol else None
            known = relocs.supported(rela.kind) and rela.kind not in relocs.GOT_TYPES
            if not known and rela.kind not in relocs.LOADER_TYPES:
                refuse_relocation(
                    self.name, rela.kind, symbol.name if symbol else "", f"{rela.offset:#x}"
                )
            if symbol is not None and rela.kind != relocs.COPY:
                yield symbol, self._use(rela)

    def _place(self, rela: Rela) -> int:
        """Return the address that a relocation changes."""
        return (rela.offset + self._bias) % (1 << 64)

    def _use(self, rela: Rela) -> Use:
        """Return how a relocation uses its symbol.

        A linked file has instructions to look at only where its text is relocated (DT_TEXTREL).
        """
        if rela.kind in relocs.THREAD_TYPES:
            return Use.THREAD
        if rela.kind in (relocs.JUMP_SLOT, relocs.PLT32):
            return Use.CALL
        place = self._place(rela)
        if (
            rela.kind in relocs.LOADER_TYPES
            or relocs.width(rela.kind) == _WORD
            or not self._memory.is_text(place)
        ):
            return Use.ADDRESS
        return (
            use_in_text(self._memory.read(place - 2, 2) or b"") & (Use.CALL | Use.DATA) or Use.DATA
        )

    # Relocation -----------------------------------------------------------------------------------

    def relocate(self, bindings: Bindings) -> None:
        """Apply all relocations, with what ``bindings`` gives for each name.

        :raises InputError: a relocation overflows, lies outside of the file's bytes, or does not
            fit its symbol.
        """
        for rela in self._relas:
            symbol = self._dynamic.symbol(rela.symbol) if rela.symbol else None
            place = self._place(rela)
            if rela.kind == relocs.COPY:
                copied = symbol is not None and bindings.copy(symbol.name, place, symbol.size)
                if not copied and self._executes:
                    refuse_copy(self.name, symbol.name if symbol else "", f"{rela.offset:#x}")
                continue
            found = (
                bindings.find(self, symbol, self._own(symbol), self._use(rela))
                if symbol is not None
                else None
            )
            if rela.kind == relocs.IRELATIVE:
                self._defer(bindings, rela, (rela.addend + self._bias) % (1 << 64), 0, "")
            elif rela.kind in relocs.THREAD_TYPES:
                self._thread_relocation(bindings, rela, symbol, found)
            elif found is not None and found.kind is DefinitionKind.THREAD:
                refuse_thread_symbol(
                    self.name, rela.kind, symbol.name if symbol else "", f"{rela.offset:#x}"
                )
            elif found is not None and found.kind is DefinitionKind.INDIRECT:
                name = symbol.name if symbol is not None else ""
                if rela.kind in relocs.INDIRECT_TYPES and self._memory.is_writable(place):
                    self._defer(
                        bindings, rela, found.addr, rela.addend if rela.kind == 1 else 0, name
                    )
                else:
                    self._store(rela, bindings.callable(found, name), symbol)
            elif symbol is None:
                self._store(rela, self._bias if rela.kind in relocs.RELATIVE_TYPES else 0, None)
            else:
                self._store(rela, found.addr if found is not None else 0, symbol)

    def _defer(self, bindings: Bindings, rela: Rela, resolver: int, addend: int, name: str) -> None:
        """Have the word of ``rela`` take the answer of ``resolver`` plus ``addend``.

        :raises InputError: the word is not writable, or the resolver is no code.
        """
        place = self._place(rela)
        if not self._memory.is_writable(place) or not self._memory.is_text(resolver):
            refuse_place(self.name, rela.kind, name, f"{rela.offset:#x}")
        bindings.defer(place, resolver, addend, name)

    def _thread_relocation(
        self, bindings: Bindings, rela: Rela, symbol: ElfSymbol | None, found: Definition | None
    ) -> None:
        """Apply a relocation for thread-local data.

        A relocation without a symbol is about the module's own block.

        :raises InputError: its symbol is not thread-local.
        """
        name, where = symbol.name if symbol is not None else "", f"{rela.offset:#x}"
        if symbol is None and self.thread is not None:
            start = self.thread.distance(0)
            found = Definition(start, kind=DefinitionKind.THREAD, block=start)
        if found is None or found.kind is not DefinitionKind.THREAD:
            refuse_thread_symbol(self.name, rela.kind, name, where)
        if rela.kind == relocs.DTPMOD64:
            self._store(rela, found.block, symbol)
        elif rela.kind == relocs.DTPOFF64:
            self._store(rela, (found.addr - found.block) % (1 << 64), symbol)
        elif rela.kind == relocs.TLSDESC:
            distance = (found.addr + rela.addend) % (1 << 64)
            words = bindings.descriptor_resolver.to_bytes(_WORD, "little") + distance.to_bytes(
                _WORD, "little"
            )
            self._write(rela, words, symbol)
        else:
            self._store(rela, found.addr, symbol)

    def _store(self, rela: Rela, value: int, symbol: ElfSymbol | None) -> None:
        """Store the value of the relocation's formula, whose S is ``value``.

        :raises InputError: the value does not fit, or the place lies outside of the file's bytes.
        """
        place = self._place(rela)
        data = relocs.compute(rela.kind, value, rela.addend, place)
        if data is None:
            numbers = f"({value:#x}{rela.addend:+#x} from {place:#x})"
            raise InputError(
                f"{self.name}: {_describe(rela, symbol)} overflows {numbers}; load the image at"
                " another address"
            )
        self._write(rela, data, symbol)

    def _write(self, rela: Rela, data: bytes, symbol: ElfSymbol | None) -> None:
        """Write ``data`` at the relocation's place.

        :raises InputError: the place lies outside of the file's bytes.
        """
        if not self._memory.write(self._place(rela), data):
            raise InputError(
                f"{self.name}: {_describe(rela, symbol)} lies outside of the bytes that the file"
                " brings; the file is damaged"
            )

    # Symbols --------------------------------------------------------------------------------------

    def symbols(self) -> tuple[tuple[Symbol, ...], tuple[str, ...]]:
        """Return the image's symbols, and warnings about those that had to be cut.

        They come from the symbol table, or else the dynamic one. Entries of the PLT follow, and at
        the end the functions that only the unwind table knows.
        """
        elf = self._elf
        table = elf.table("SHT_SYMTAB") or elf.table("SHT_DYNSYM")
        symbols = elf.symbols(table) if table else self._dynamic.symbols()
        named, cut = image_symbols(
            (s for s in symbols if not _is_boundary(elf, s)),
            self._memory,
            lambda symbol: _address(symbol, self._bias),
        )
        known = [*named, *plt_entries(elf, self._memory, self._bias, self._imported(), named)]
        return (*known, *unnamed_functions(elf.programs, self._memory, self._bias, known)), cut

    def _imported(self) -> dict[int, str]:
        """Return the names of imported functions by the address of the word that holds each.

        The dynamic linker fills these words. The addresses are those that the file is linked for.
        """
        words = (
            rela
            for rela in self._relas
            if rela.kind in (relocs.JUMP_SLOT, relocs.GLOB_DAT) and rela.symbol
        )
        named = ((rela.offset, self._dynamic.symbol(rela.symbol).name) for rela in words)
        return {offset: name for offset, name in named if name}


def _interpreter(elf: ElfFile, header: Program) -> str:
    text = (
        elf.slice(header.offset, header.filesz, "the interpreter's name")
        .split(b"\0", 1)[0]
        .decode("utf-8", "replace")
    )
    return text if text.isprintable() else ""


def _describe(rela: Rela, symbol: ElfSymbol | None) -> str:
    return (
        f"relocation {relocs.type_name(rela.kind)}{f' against {symbol.name}' if symbol else ''} at"
        f" {rela.offset:#x}"
    )


def _areas(elf: ElfFile, loads: Iterable[Program], bias: int) -> list[Area]:
    areas: list[Area] = []
    left = len(elf.data) + _PADDING_LIMIT
    for load in loads:
        if load.filesz > load.memsz:
            raise InputError(
                f"{elf.name}: the segment at {load.vaddr:#x} has more bytes in the file than in"
                " memory; the file is damaged"
            )
        left -= load.filesz
        if left < 0:
            raise InputError(
                f"{elf.name}: the segments repeat the file's bytes many times over; the file is"
                " damaged"
            )
        data = bytearray(elf.slice(load.offset, load.filesz, f"the segment at {load.vaddr:#x}"))
        areas.append(
            Area(
                load.vaddr + bias,
                data,
                load.memsz,
                writable=bool(load.flags & _PF_W),
                executable=bool(load.flags & _PF_X),
            )
        )
    return areas


def _warnings(loads: Iterable[Program], bias: int) -> Iterable[str]:
    for load in loads:
        if load.flags & _PF_W and load.flags & _PF_X:
            yield (
                f"the segment at {load.vaddr + bias:#x} is writable and executable: loaded as text,"
                " not writable"
            )


def _relocations(elf: ElfFile, dynamic: Dynamic) -> Iterable[Rela]:
    yield from dynamic.relocations()
    if any(p.type == "PT_DYNAMIC" for p in elf.programs):
        return
    # A static executable has no dynamic section. Its start-up code relocates it, and only the
    # sections say where its relocations are.
    for section in elf.sections:
        if section.type == "SHT_RELA" and section.flags & SHF_ALLOC:
            yield from unpack_relas(elf.contents(section))


def _is_boundary(elf: ElfFile, symbol: ElfSymbol) -> bool:
    """Return True for a mark that the linker made (``_etext``, ``__bss_start``).

    Such a symbol has no type and lies in no section of text.
    """
    if symbol.type != STT_NOTYPE or not 0 < symbol.section < len(elf.sections):
        return False
    section = elf.sections[symbol.section]
    return not (
        section.flags & SHF_EXECINSTR and section.addr <= symbol.value < section.addr + section.size
    )


def _address(symbol: ElfSymbol, bias: int) -> int | None:
    if symbol.section == ABS:
        return symbol.value
    return (symbol.value + bias) % (1 << 64) if symbol.section > UNDEF else None
