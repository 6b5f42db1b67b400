"""Undefined symbols: which are functions, which are data, and where their stand-ins go.

An object file seldom says (gcc leaves undefined symbols without a type), so the relocations that
use a symbol decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from arch_x86.images.elf_records import STT_COMMON, STT_FUNC, STT_GNU_IFUNC, STT_NOTYPE, STT_OBJECT
from arch_x86.images.memory import Area, Memory
from arch_x86.images.module import Definition, Use
from arch_x86.isa.constants import PAGE_SIZE
from arch_x86.probes.areas import IMPORT_CELL
from engine.image import Import, Symbol

__all__ = ("StandIns", "Wanted", "place_stand_ins", "use_in_text")


@dataclass(slots=True)
class Wanted:
    """A name that no file defines, as all references together say. ``weak``: none of them
    insists.
    """

    use: Use = Use.NONE
    type: int = STT_NOTYPE
    weak: bool = True

    @property
    def is_data(self) -> bool:
        """True when it is more likely an object than a function."""
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
    """Stand-ins for undefined names. ``called`` are for relocations that call, ``valued`` for all
    others; neither knows: 0.
    """

    called: dict[str, Definition] = field(default_factory=dict[str, Definition])
    valued: dict[str, Definition] = field(default_factory=dict[str, Definition])
    imports: list[Import] = field(default_factory=list[Import])
    symbols: list[Symbol] = field(default_factory=list[Symbol])
    warnings: list[str] = field(default_factory=list[str])

    def find(self, name: str, use: Use) -> Definition | None:
        """What ``name`` counts as in a relocation that uses it as ``use``; a weak one may be
        None.
        """
        return (self.called if use is Use.CALL else self.valued).get(name)


def use_in_text(before: bytes) -> Use:
    """What a 32-bit PC-relative operand is for, from the two bytes ``before`` it.

    Exact, not a guess: a memory operand's ModRM byte is 05, 0d, .. 3d, hence never one of the
    opcodes looked for.
    """
    if before[-1:] in (b"\xe8", b"\xe9") or (
        before[-2:-1] == b"\x0f" and before[-1] & 0xF0 == 0x80
    ):
        return Use.CALL
    return Use.INDIRECT_CALL if before in (b"\xff\x15", b"\xff\x25") else Use.DATA


def place_stand_ins(memory: Memory, wanted: Mapping[str, Wanted]) -> StandIns:
    """Stand-ins for the ``wanted`` names, in their order.

    Data gets a page of zeros each (the dynamic linker's own two), added to ``memory``; functions
    get a cell each behind all of it, where the machine puts a stub.
    """
    result = StandIns()
    functions: list[str] = []
    for name, want in wanted.items():
        if Use.THREAD in want.use:
            if name == "errno":
                continue  # 0 is what it starts as anywhere
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
