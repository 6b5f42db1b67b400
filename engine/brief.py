"""How records print: ``repr`` is one line of fewer than 200 characters, whatever a record holds."""

from __future__ import annotations

from typing import Final

__all__ = ("REPR_MAX", "count", "described", "shortened")

REPR_MAX: Final = 199
"""The most characters of a ``repr``."""
_TEXT_MAX: Final = 60


def shortened(text: str, most: int = _TEXT_MAX) -> str:
    """``text`` in at most ``most`` printable characters; what is cut off is shown by three dots."""
    if not text.isprintable():
        text = text[: most + 1].encode("unicode_escape").decode("ascii")
    return text if len(text) <= most else f"{text[: most - 3]}..."


def described(record: object, *facts: str) -> str:
    """The ``repr`` of ``record``, ``<Record fact, fact>``, cut so that it fits :data:`REPR_MAX`.

    Facts that are empty are left out.
    """
    name = type(record).__name__
    text = ", ".join(fact for fact in facts if fact)
    return f"<{name} {shortened(text, REPR_MAX - len(name) - 3)}>" if text else f"<{name}>"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """``number`` with its noun, such as ``1 site`` and ``1,024 sites``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
