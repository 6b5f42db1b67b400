"""This module refuses relocations that cannot be applied (AMD64 psABI, section 4.4.1).

Each message is one line that says why, and what would be right.
"""

from __future__ import annotations

from typing import NoReturn

from arch_x86.images.image_memory import printable
from arch_x86.images.relocs import type_name
from engine.errors import InputError

__all__ = ("refuse_copy", "refuse_place", "refuse_relocation", "refuse_thread_symbol")


def _refuse(file: str, kind: int, symbol: str, place: str, hint: str) -> NoReturn:
    against = f" against {printable(symbol)}" if symbol else ""
    raise InputError(f"{file}: relocation {type_name(kind)}{against} at {place}: {hint}")


def refuse_relocation(file: str, kind: int, symbol: str, place: str) -> NoReturn:
    """Refuse a relocation of a type ``kind`` that is not supported.

    :param symbol: the name of its symbol, or "".
    :param place: where the relocation stands, in words.
    :raises InputError: always; the message names the file, the type, the symbol and the place.
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
    """Refuse a copy relocation for data that no library has.

    :raises InputError: always; the message names the file, the symbol and the place.
    """
    _refuse(
        file,
        5,
        symbol,
        place,
        "data copied from a shared library; name the library that defines it by --with LIB",
    )


def refuse_thread_symbol(file: str, kind: int, symbol: str, place: str) -> NoReturn:
    """Refuse a thread-local relocation of a symbol that is not thread-local, or the reverse.

    :raises InputError: always; the message names the file, the type, the symbol and the place.
    """
    _refuse(
        file,
        kind,
        symbol,
        place,
        "one of the two is thread-local and the other is not; the file is damaged",
    )


def refuse_place(file: str, kind: int, symbol: str, place: str) -> NoReturn:
    """Refuse a relocation for an indirect function that cannot be deferred.

    Either its address would go to read-only memory, or its resolver lies outside of the code.

    :raises InputError: always; the message names the file, the type, the symbol and the place.
    """
    _refuse(
        file,
        kind,
        symbol,
        place,
        "an indirect function needs a writable word and a resolver in the code; "
        "the file is damaged",
    )
