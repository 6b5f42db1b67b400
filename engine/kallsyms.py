"""Symbols by name and by address. Answers to kernel/kallsyms.c."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from engine.errors import printable
from engine.image import Image, Symbol

__all__ = ("Kallsyms",)


class Kallsyms:
    """The function symbols of one image.

    :param chosen: the functions that resolvers of indirect functions returned, under the names of
        the indirect functions.
    """

    def __init__(self, image: Image, chosen: Sequence[Symbol] = ()) -> None:
        self._image = image
        self._chosen = {s.name: s for s in reversed(chosen)}
        self._ordered = sorted((*image.functions, *chosen), key=lambda s: (s.addr, -s.size))
        self._starts = [s.addr for s in self._ordered]

    def lookup_name(self, name: str) -> Symbol | None:
        """The function called ``name``, or None (kallsyms_lookup_name).

        For an indirect function, the answer is the one that its resolver chose, if that is known.
        """
        symbol = self._image.by_name.get(name)
        if symbol is None or not symbol.function:
            return None
        return self._chosen.get(name, symbol) if symbol.indirect else symbol

    def function(self, text: str) -> Symbol | None:
        """The function whose name, or whose start address (``0x1000``), is ``text``, or None."""
        if text[:2].lower() != "0x":
            return self.lookup_name(text)
        try:
            found = self.lookup(int(text, 16))
        except ValueError:
            return None
        return found[0] if found is not None and found[1] == 0 else None

    def lookup(self, addr: int) -> tuple[Symbol, int] | None:
        """The function that holds ``addr`` and the offset in it, or None (kallsyms_lookup).

        The offset is in bytes.
        """
        at = bisect_right(self._starts, addr) - 1
        while at >= 0:
            symbol = self._ordered[at]
            if addr in symbol or (symbol.size == 0 and symbol.addr == addr):
                return symbol, addr - symbol.addr
            if symbol.size:
                return None
            at -= 1
        return None

    def describe(self, addr: int) -> str:
        """``addr`` as ``symbol+0xoffset``, or in hexadecimal where no function holds it."""
        found = self.lookup(addr)
        return f"{found[0].name}+{found[1]:#x}" if found else f"{addr:#x}"

    def suggest(self, name: str) -> str:
        """Function names to show for ``name``, which is not there: close ones, or the first few.

        It also says if ``name`` names data.
        """
        from difflib import get_close_matches

        names = sorted({s.name for s in self._ordered})
        close = get_close_matches(name, names, n=3) or names[:5]
        there = ", ".join(close) if close else "none: the image has no function symbols"
        return f"{there}; {printable(name)} names data" if self.names_data(name) else there

    def names_data(self, name: str) -> bool:
        """Whether ``name`` is a symbol of data, as a label in front of ``.byte`` is."""
        symbol = self._image.by_name.get(name)
        return symbol is not None and not symbol.function
