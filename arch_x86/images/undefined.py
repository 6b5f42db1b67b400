"""This module gives undefined symbols stand-ins (gABI, chapter 4, "Symbol Table", SHN_UNDEF).

A stand-in is a stub for a function and zeros for data. An object file seldom says which of the two
a symbol is, for gcc leaves undefined symbols without a type. So the relocations that use the symbol
decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from arch_x86.images.elf_records import STT_COMMON, STT_FUNC, STT_GNU_IFUNC, STT_NOTYPE, STT_OBJECT
from arch_x86.images.image_memory import Area, Memory
from arch_x86.images.module import Definition, Use
from arch_x86.isa.constants import PAGE_SIZE
from arch_x86.probes.areas import IMPORT_CELL
from engine.image import Import, Symbol

__all__ = ("StandIns", "Wanted", "place_stand_ins", "use_in_text")


@dataclass(slots=True)
class Wanted:
    """This record is a name that no file defines, with what all its references together say.

    :ivar use: all uses by relocations.
    :ivar type: the first symbol type that is not STT_NOTYPE.
    :ivar weak: True when every reference is weak, so that the name may stay undefined.
    """

    use: Use = Use.NONE
    type: int = STT_NOTYPE
    weak: bool = True

    @property
    def is_data(self) -> bool:
        """Return True when the name is more likely a data object than a function."""
        if self.type in (STT_OBJECT, STT_COMMON):
            return True
        if (
            self.type in (STT_FUNC, STT_GNU_IFUNC)
            or Use.CALL in self.use
            or Use.INDIRECT_CALL in self.use
        ):
            return False
        return Use.DATA in self.use


@dataclass(slots=True)
class StandIns:
    """This record has the stand-ins of undefined names.

    :ivar called: the stand-ins for relocations that call.
    :ivar valued: the stand-ins for all other relocations. A weak function has none here, so its
        address is 0.
    :ivar imports: the functions among them, each with the address of its stub.
    :ivar symbols: engine symbols of the data among them.
    :ivar warnings: one line for each name that stands for zeros.
    """

    called: dict[str, Definition] = field(default_factory=dict[str, Definition])
    valued: dict[str, Definition] = field(default_factory=dict[str, Definition])
    imports: list[Import] = field(default_factory=list[Import])
    symbols: list[Symbol] = field(default_factory=list[Symbol])
    warnings: list[str] = field(default_factory=list[str])

    def find(self, name: str, use: Use) -> Definition | None:
        """Return the stand-in of ``name`` for a relocation that uses it as ``use``, or None.

        Of a weak name there may be none, which means that its address is 0.
        """
        return (self.called if use is Use.CALL else self.valued).get(name)


def use_in_text(before: bytes) -> Use:
    """Return what a 32-bit PC-relative operand is for, from the two bytes ``before`` it.

    The answer is exact, no guess: in front of a memory operand there is a ModRM byte of 05, 0d, ..
    or 3d, which is none of the opcodes that are looked for.
    """
    if before[-1:] in (b"\xe8", b"\xe9") or (
        before[-2:-1] == b"\x0f" and before[-1] & 0xF0 == 0x80
    ):
        return Use.CALL
    return Use.INDIRECT_CALL if before in (b"\xff\x15", b"\xff\x25") else Use.DATA


def place_stand_ins(memory: Memory, wanted: Mapping[str, Wanted]) -> StandIns:
    """Return stand-ins for the ``wanted`` names, placed in the order of the names.

    Each data object gets a page of zeros, those of the dynamic linker two pages, which are added to
    ``memory``. Each function gets a cell of 16 bytes behind all areas, where the machine puts a
    stub.

    :raises InputError: the stand-ins exceed the limits on memory.
    """
    result = StandIns()
    functions: list[str] = []
    for name, want in wanted.items():
        if Use.THREAD in want.use:
            if name == "errno":
                continue  # errno is 0 at the start of every program, so zeros need no warning.
            result.warnings.append(f"unresolved thread-local data {name}: zero-filled")
        elif want.weak:
            functions += [name] if Use.CALL in want.use else []
        elif not want.is_data:
            functions.append(name)
        else:
            addr = memory.end
            size = 2 * PAGE_SIZE if name.startswith("_rtld_global") else PAGE_SIZE
            memory.append(Area(addr, bytearray(), size, writable=True))
            result.symbols.append(Symbol(name, addr, size, function=False))
            result.warnings.append(f"unresolved data {name}: zero-filled")
            result.called[name] = result.valued[name] = Definition(addr, size)
    _place_functions(result, memory, functions, wanted)
    return result


def _place_functions(
    result: StandIns, memory: Memory, names: Sequence[str], wanted: Mapping[str, Wanted]
) -> None:
    start = memory.reserve(IMPORT_CELL * len(names))
    for index, name in enumerate(names):
        cell = Definition(start + IMPORT_CELL * index, IMPORT_CELL)
        result.imports.append(Import(name, cell.addr))
        result.called[name] = cell
        if not wanted[name].weak:
            result.valued[name] = cell
