"""Rows in columns of fixed width.

They are for listings that are printed while they are made, so that their cells can't be measured
first.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from textwrap import wrap
from typing import Final, TypeAlias

from engine.report.terminal import Style

__all__ = ("LINE_WIDTH", "Cell", "Columns", "ascii_text", "chopped")

LINE_WIDTH: Final = 100
"""The most characters of a line."""

Cell: TypeAlias = tuple[str, str]
"""A text and the name of its colour, which is "" for none."""


class Columns:
    """Columns one blank apart.

    A text that is too long for its column goes on in lines beneath, so no line is longer than all
    columns together.

    :param widths: the width of each column, in characters.
    :param indent: the number of blanks in front of each row.
    """

    def __init__(self, widths: Sequence[int], style: Style, *, indent: int = 0) -> None:
        self._style = style
        self._indent = " " * indent
        # a last cell may take the room from its column to the end of the line
        self._rooms = tuple(sum(widths[at:]) + len(widths) - 1 - at for at in range(len(widths)))
        self._widths = tuple(widths)

    def row(self, *cells: Cell) -> str:
        """The lines of one row. The last of ``cells`` has all the room that is left."""
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
        """One line of cells, each of which fits its room."""
        parts: list[str] = []
        # Blanks are written only when a text follows them, so that no line ends in blanks.
        owed = self._indent
        for (text, colour), room in zip(cells, rooms, strict=True):
            if text:
                parts += (owed, self._style.paint(text, colour) if colour else text)
                owed = ""
            owed += " " * (room - len(text) + 1)
        return "".join(parts)


def ascii_text(text: str) -> str:
    """``text`` with all characters beyond ASCII escaped.

    So each character is one column wide, and prints in every locale.
    """
    return text if text.isascii() else text.encode("ascii", "backslashreplace").decode("ascii")


def chopped(text: str, width: int = LINE_WIDTH) -> list[str]:
    """``text`` in pieces of at most ``width`` characters.

    It is for names, which have no better places to break.
    """
    return [text[at : at + width] for at in range(0, len(text), width)]
