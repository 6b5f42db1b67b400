"""Terminal output: colours, tables, one-line messages and a line of progress.

Text is coloured on a terminal only, and progress is shown on standard error if that is a terminal.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Final, TextIO

from engine.brief import count

__all__ = ("Progress", "Style", "complain", "count", "table")

_CODES: Final = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
}


class Style:
    """Colours text, or leaves it as it is."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled

    @classmethod
    def for_stream(cls, stream: TextIO) -> Style:
        """The style for ``stream``: colours on a terminal.

        There are none if NO_COLOR is set and not empty (no-color.org), or if the terminal is dumb.
        """
        return cls(
            stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        )

    def paint(self, text: str, *names: str) -> str:
        """``text`` in the named colours: bold, dim, red, green, yellow, blue, magenta, cyan."""
        if not self.enabled or not names or not text:
            return text
        return f"\x1b[{';'.join(_CODES[name] for name in names)}m{text}\x1b[0m"


class Progress:
    """A line on a terminal that is written over again and again. In a pipe there is nothing."""

    def __init__(self, label: str, stream: TextIO | None = None) -> None:
        self._label = label
        self._stream = stream or sys.stderr
        # A stream is None where the process was started with it closed.
        there = self._stream is not None  # pyright: ignore[reportUnnecessaryComparison]
        self._live = there and self._stream.isatty()
        self._shown = ""
        self._began = monotonic()

    def update(self, done: int, total: int, note: str = "") -> None:
        """Show that ``done`` of ``total`` pieces of work are done."""
        if not self._live:
            return
        share = 100 * done // total if total else 100
        filled = share * 30 // 100
        self._write(
            f"{self._label} [{'#' * filled}{'.' * (30 - filled)}] {done}/{total} {note}"[:99]
        )

    def schedules(self, done: int, most: int | None) -> None:
        """Show how many schedules are done, their rate, and the time that is left at that rate.

        :param most: the number of schedules at which the work ends, or None.
        """
        if not self._live:
            return
        spent = monotonic() - self._began
        rate = done / spent if spent else 0.0
        left = f", {(most - done) / rate:,.0f} s left" if most is not None and rate else ""
        self._write(f"{self._label} {done:,} schedules, {rate:,.0f}/s{left}"[:99])

    def note(self, text: str) -> None:
        """Show ``text``, which says what is being done."""
        if self._live:
            self._write(f"{self._label}: {text}"[:99])

    def _write(self, line: str) -> None:
        if line != self._shown:
            self._stream.write(f"\r{line}\x1b[K")
            self._stream.flush()
            self._shown = line

    def clear(self) -> None:
        """Remove the line from the terminal."""
        if self._live and self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._shown = ""


def complain(message: str) -> None:
    """Print ``message`` as one line on standard error.

    What does not print is escaped, and an error of standard error itself is ignored.
    """
    line = message if message.isprintable() else message.encode("unicode_escape").decode("ascii")
    # sys.stderr is None when standard error is closed (`2>&-`)
    if sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison]
        with suppress(OSError):
            print(f"optprobe: {line}", file=sys.stderr, flush=True)


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()
) -> str:
    """``rows`` under ``header`` in columns two blanks apart, as text.

    :param right: the indices of the columns that are aligned to the right.
    """
    cells = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    to_right = set(right)
    return "\n".join(
        "  ".join(
            cell.rjust(w) if i in to_right else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )
