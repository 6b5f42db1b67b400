"""What the linker knows of one ELF file: its names, its thread-local block, and how to relocate it.
Records only.
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
    """How relocations use a symbol."""

    NONE = 0
    CALL = auto()  # PLT32, JUMP_SLOT, or the operand of a direct call or jump
    INDIRECT_CALL = auto()  # the operand of a call or jump through the GOT
    ADDRESS = auto()  # its address is stored: 64, GLOB_DAT, GOTPCREL
    DATA = auto()  # the operand of some other instruction
    THREAD = auto()  # its place in thread-local memory


class DefinitionKind(Enum):
    """What :attr:`Definition.addr` is."""

    PLAIN = auto()
    """The symbol's address."""
    INDIRECT = auto()
    """Its resolver's address (STT_GNU_IFUNC)."""
    THREAD = auto()
    """Its distance from the thread pointer, modulo 2^64."""


@dataclass(frozen=True, slots=True)
class Definition:
    """Where a name leads. ``block`` is the distance of a thread-local symbol's block from the
    thread pointer; ``owner`` the file.
    """

    addr: int
    size: int = 0
    kind: DefinitionKind = DefinitionKind.PLAIN
    block: int = 0
    owner: str = ""


@dataclass(slots=True)
class ThreadBlock:
    """Thread-local memory of one file: ``filesz`` bytes of initial content at ``addr``, then zeros
    up to ``size``.

    ``offset`` is how far below the thread pointer it starts, known once all files are.
    """

    addr: int
    filesz: int
    size: int
    align: int
    offset: int = 0

    def distance(self, within: int) -> int:
        """From the thread pointer to the byte at ``within`` of the block, modulo 2^64."""
        return (within - self.offset) % (1 << 64)


class Bindings(Protocol):
    """What relocating a module takes from the outside."""

    def find(
        self, module: Module, symbol: ElfSymbol, own: Definition | None, use: Use
    ) -> Definition | None:
        """What ``symbol`` of ``module`` leads to; ``own`` is the module's own definition. None is
        address 0.
        """
        ...

    def callable(self, definition: Definition, name: str) -> int:
        """An address to call or compare: of an indirect function that of a jump to what its
        resolver returns.
        """
        ...

    def defer(self, place: int, resolver: int, addend: int, name: str) -> None:
        """The word at ``place`` takes a resolver's answer."""
        ...

    def copy(self, name: str, place: int, size: int) -> bool:
        """``place`` gets a copy of a library's data (R_X86_64_COPY), once all is relocated. False:
        no library has it.
        """
        ...

    @property
    def descriptor_resolver(self) -> int:
        """The function that the first word of a TLS descriptor names."""
        ...


class Module(Protocol):
    """One ELF file, loaded and not yet relocated.

    :ivar interpreter: what PT_INTERP names, or "".
    :ivar has_descriptors: some relocation is a TLS descriptor.
    """

    name: str
    thread: ThreadBlock | None
    interpreter: str
    has_descriptors: bool

    def exports(self) -> Mapping[str, Definition]:
        """What other modules may bind to. Good once ``thread`` has its offset."""
        ...

    def references(self) -> Iterator[tuple[ElfSymbol, Use]]:
        """Symbols that relocations name, each with a use."""
        ...

    def relocate(self, bindings: Bindings) -> None:
        """Apply all relocations."""
        ...

    def symbols(self) -> tuple[tuple[Symbol, ...], tuple[str, ...]]:
        """The engine's symbols, and warnings."""
        ...
