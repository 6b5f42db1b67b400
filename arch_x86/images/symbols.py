"""This module turns ELF symbols into the engine's (gABI, chapter 4, "Symbol Table")."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from arch_x86.images.elf_records import (
    STB_LOCAL,
    STT_FUNC,
    STT_GNU_IFUNC,
    STT_NOTYPE,
    STT_OBJECT,
    ElfSymbol,
)
from arch_x86.images.image_memory import Memory
from engine.image import Symbol

__all__ = ("image_symbols",)

_FUNCTIONS: Final = (STT_FUNC, STT_GNU_IFUNC)


def image_symbols(
    symbols: Iterable[ElfSymbol], memory: Memory, address: Callable[[ElfSymbol], int | None]
) -> tuple[tuple[Symbol, ...], tuple[str, ...]]:
    """Return engine symbols for the defined ``symbols``, each name and address once, and warnings.

    Global symbols come first and old versions last, so that a name finds the symbol that a caller
    would get. Functions are STT_FUNC, STT_GNU_IFUNC, and global labels without a type in text, as
    hand-written assembly has them. Data is STT_OBJECT. Every other symbol is left out, and so is
    what lies outside of the image (``_end``).

    :param address: returns where a symbol lies, or None when it is not in the image.
    :returns: the symbols, and one line for each whose size had to be cut.
    """

    def made(symbol: ElfSymbol, addr: int, size: int) -> Symbol:
        return Symbol(
            symbol.name,
            addr,
            size,
            symbol.type != STT_OBJECT,
            symbol.type == STT_GNU_IFUNC,
            symbol.hidden,
        )

    found: dict[tuple[str, int], Symbol] = {}
    warnings: list[str] = []
    for symbol in sorted(symbols, key=lambda symbol: (symbol.hidden, symbol.bind == STB_LOCAL)):
        label = symbol.type == STT_NOTYPE and symbol.bind != STB_LOCAL
        if not symbol.name or not (label or symbol.type == STT_OBJECT or symbol.type in _FUNCTIONS):
            continue
        addr = address(symbol)
        area = memory.area_at(addr) if addr is not None else None
        if addr is None or area is None or (not area.executable and symbol.type != STT_OBJECT):
            continue
        size = symbol.size
        if addr + size > area.end:
            size = area.end - addr
            warnings.append(
                f"symbol {symbol.name}: its size {symbol.size:#x} reaches beyond its segment, cut"
                f" to {size:#x}"
            )
        found.setdefault((symbol.name, addr), made(symbol, addr, size))
    return tuple(found.values()), tuple(warnings)
