"""How records print: ``repr`` is one line of fewer than 200 characters, whatever the record
holds.
"""

from __future__ import annotations

from typing import Final

__all__ = ("REPR_MAX", "count", "described", "shortened")

REPR_MAX: Final = 199
"""Most characters of a ``repr``."""
_TEXT_MAX: Final = 60


def shortened(text: str, most: int = _TEXT_MAX) -> str:
    """``text`` in at most ``most`` characters, all of them printable."""
    if not text.isprintable():
        text = text[: most + 1].encode("unicode_escape").decode("ascii")
    return text if len(text) <= most else f"{text[: most - 3]}..."


def described(record: object, *facts: str) -> str:
    """``<Record fact, fact>``: the ``repr`` of ``record``, cut where it would be longer than
    :data:`REPR_MAX`.
    """
    name = type(record).__name__
    text = ", ".join(fact for fact in facts if fact)
    return f"<{name} {shortened(text, REPR_MAX - len(name) - 3)}>" if text else f"<{name}>"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """``1 site``, ``1,024 sites``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
