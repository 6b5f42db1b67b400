"""Relocations that have no place here, each refused in one line that says why and what would be
right.
"""

from __future__ import annotations

from typing import NoReturn

from arch_x86.images.memory import printable
from arch_x86.images.relocs import type_name
from engine.errors import InputError

__all__ = ("refuse_copy", "refuse_place", "refuse_relocation", "refuse_thread_symbol")


def _refuse(file: str, kind: int, symbol: str, place: str, hint: str) -> NoReturn:
    against = f" against {printable(symbol)}" if symbol else ""
    raise InputError(f"{file}: relocation {type_name(kind)}{against} at {place}: {hint}")


def refuse_relocation(file: str, kind: int, symbol: str, place: str) -> NoReturn:
    """Refuse a relocation of a ``kind`` that is not known here.

    :raises InputError: always; it names kind, symbol and place, as all of this module do.
    """
    _refuse(
        file,
        kind,
        symbol,
        place,
        "this type is not supported; "
        "rebuild without dynamic thread-local storage or the large code model",
    )


def refuse_copy(file: str, symbol: str, place: str) -> NoReturn:
    """Refuse to copy data that no library has.

    :raises InputError: always.
    """
    _refuse(
        file,
        5,
        symbol,
        place,
        "data copied from a shared library; name the library that defines it by --with LIB",
    )


def refuse_thread_symbol(file: str, kind: int, symbol: str, place: str) -> NoReturn:
    """Refuse a thread-local relocation against what is not thread-local, or the other way round.

    :raises InputError: always.
    """
    _refuse(
        file,
        kind,
        symbol,
        place,
        "one of the two is thread-local and the other is not; the file is damaged",
    )


def refuse_place(file: str, kind: int, symbol: str, place: str) -> NoReturn:
    """Refuse an indirect function whose address would go to read-only memory, or whose resolver is
    no code.

    :raises InputError: always.
    """
    _refuse(
        file,
        kind,
        symbol,
        place,
        "an indirect function needs a writable word and a resolver in the code; "
        "the file is damaged",
    )
