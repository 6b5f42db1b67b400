"""Rows in columns of fixed width, for listings that are printed as they are made and so can't be
measured first.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from textwrap import wrap
from typing import Final, TypeAlias

from engine.report.terminal import Style

__all__ = ("LINE_WIDTH", "Cell", "Columns", "ascii_text", "chopped")

LINE_WIDTH: Final = 100

Cell: TypeAlias = tuple[str, str]
"""A text and its colour, "" for none."""


class Columns:
    """Columns one blank apart. What is too long for its column goes on beneath, so that no line is
    longer than all columns.

    :param widths: of each column.
    """

    def __init__(self, widths: Sequence[int], style: Style, *, indent: int = 0) -> None:
        self._style = style
        self._indent = " " * indent
        # The room from each column to the end of the line, for a last cell.
        self._rooms = tuple(sum(widths[at:]) + len(widths) - 1 - at for at in range(len(widths)))
        self._widths = tuple(widths)

    def row(self, *cells: Cell) -> str:
        """``(text, colour)`` each, without a colour ``""``; the last cell has all the room that is
        left.
        """
        last = len(cells) - 1
        rooms = (*self._widths[:last], self._rooms[last])
        if all(len(text) <= room for (text, _colour), room in zip(cells, rooms, strict=True)):
            return self._line(cells, rooms)
        pieces = [
            wrap(text, room) or [""] for (text, _colour), room in zip(cells, rooms, strict=True)
        ]
        return "\n".join(
            self._line(
                [(text, colour) for text, (_whole, colour) in zip(texts, cells, strict=True)], rooms
            )
            for texts in zip_longest(*pieces, fillvalue="")
        )

    def _line(self, cells: Sequence[Cell], rooms: Sequence[int]) -> str:
        parts: list[str] = []
        owed = self._indent  # blanks are written only when something follows them
        for (text, colour), room in zip(cells, rooms, strict=True):
            if text:
                parts += (owed, self._style.paint(text, colour) if colour else text)
                owed = ""
            owed += " " * (room - len(text) + 1)
        return "".join(parts)


def ascii_text(text: str) -> str:
    """``text`` with all beyond ASCII escaped: each character is one column wide then, and prints in
    every locale.
    """
    return text if text.isascii() else text.encode("ascii", "backslashreplace").decode("ascii")


def chopped(text: str, width: int = LINE_WIDTH) -> list[str]:
    """``text`` in pieces of at most ``width`` characters; names have no better places to break
    them.
    """
    return [text[at : at + width] for at in range(0, len(text), width)]
