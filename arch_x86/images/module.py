"""This module has the linker's records of an ELF file, which answer to ld.so's struct link_map.

They say which names a file defines and uses, what its thread-local block is, and how it is
relocated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, Flag, auto
from typing import Protocol

from arch_x86.images.elf_records import ElfSymbol
from engine.image import Symbol

__all__ = ("Bindings", "Definition", "DefinitionKind", "Module", "ThreadBlock", "Use")


class Use(Flag):
    """A use says how relocations use a symbol; several uses of one symbol add up."""

    NONE = 0
    CALL = auto()  # PLT32, JUMP_SLOT, or the operand of a direct call or jump
    INDIRECT_CALL = auto()  # the operand of a call or jump through the GOT
    ADDRESS = auto()  # the symbol's address is stored: 64, GLOB_DAT, GOTPCREL
    DATA = auto()  # the operand of any other instruction
    THREAD = auto()  # the symbol's distance from the thread pointer is stored


class DefinitionKind(Enum):
    """A kind says what :attr:`Definition.addr` is."""

    PLAIN = auto()
    """It is the address of the symbol."""
    INDIRECT = auto()
    """It is the address of a resolver, which returns the function's address (STT_GNU_IFUNC)."""
    THREAD = auto()
    """It is the distance of the symbol from the thread pointer, modulo 2^64."""


@dataclass(frozen=True, slots=True)
class Definition:
    """A definition says where a name leads.

    :ivar size: the symbol's size in bytes.
    :ivar block: the distance of a thread-local symbol's block from the thread pointer, modulo 2^64.
    :ivar owner: the name of the file that has the definition.
    """

    addr: int
    size: int = 0
    kind: DefinitionKind = DefinitionKind.PLAIN
    block: int = 0
    owner: str = ""


@dataclass(slots=True)
class ThreadBlock:
    """This record is the thread-local memory of one file: initial content, then zeros.

    :ivar addr: where the initial content lies in the image.
    :ivar filesz: the size of the initial content in bytes.
    :ivar size: the size of the block in bytes.
    :ivar align: the alignment in bytes; the block in each thread is as far from a multiple of it as
        ``addr`` is.
    :ivar offset: how many bytes below the thread pointer the block starts.
        :meth:`ThreadLayout.place` sets it.
    """

    addr: int
    filesz: int
    size: int
    align: int
    offset: int = 0

    def distance(self, within: int) -> int:
        """Return how far the byte at offset ``within`` is from the thread pointer, modulo 2^64."""
        return (within - self.offset) % (1 << 64)


class Bindings(Protocol):
    """A module asks these methods for everything outside of it when it is relocated."""

    def find(
        self, module: Module, symbol: ElfSymbol, own: Definition | None, use: Use
    ) -> Definition | None:
        """Return what ``symbol`` stands for in a relocation of ``module``; None means address 0.

        :param own: the module's own definition, or None.
        :param use: how the relocation uses the symbol.
        """
        ...

    def callable(self, definition: Definition, name: str) -> int:
        """Return an address that may be called, or compared with another address of the function.

        For an indirect function this is the address of a jump to what its resolver returns.

        :raises InputError: there are too many such jumps.
        """
        ...

    def defer(self, place: int, resolver: int, addend: int, name: str) -> None:
        """Note that the word at ``place`` takes what ``resolver`` returns, plus ``addend``.

        The resolver runs when the image is loaded into a machine.
        """
        ...

    def copy(self, name: str, place: int, size: int) -> bool:
        """Note that ``place`` gets a copy of a library's data (R_X86_64_COPY) after relocation.

        It returns False when no library has data of this name.
        """
        ...

    @property
    def descriptor_resolver(self) -> int:
        """Return the address of the function for the first word of a TLS descriptor."""
        ...


class Module(Protocol):
    """A module is one ELF file that is loaded and not yet relocated.

    :ivar name: the file's name.
    :ivar thread: its thread-local memory, or None.
    :ivar interpreter: the path that PT_INTERP names, or "".
    :ivar has_descriptors: True when some relocation is a TLS descriptor.
    """

    name: str
    thread: ThreadBlock | None
    interpreter: str
    has_descriptors: bool

    def exports(self) -> Mapping[str, Definition]:
        """Return the definitions that other modules may bind to.

        Those of thread-local names are right once the offset of ``thread`` is set.
        """
        ...

    def references(self) -> Iterator[tuple[ElfSymbol, Use]]:
        """Yield the symbol of each relocation and how it is used.

        :raises InputError: a relocation is not supported.
        """
        ...

    def relocate(self, bindings: Bindings) -> None:
        """Apply all relocations, with what ``bindings`` gives for each name.

        :raises InputError: a relocation overflows, or does not fit its symbol or place.
        """
        ...

    def symbols(self) -> tuple[tuple[Symbol, ...], tuple[str, ...]]:
        """Return the engine's symbols, and warnings about those that had to be cut."""
        ...
