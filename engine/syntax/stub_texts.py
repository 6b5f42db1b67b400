"""This module reads the stubs that a user gives for imported functions: ``SYM=ret:N``."""

from __future__ import annotations

from typing import Final

from engine.errors import InputError, printable

__all__ = ("parse_stub",)

_VALUES: Final = 1 << 64
"""How many values 64 bits have."""


def parse_stub(spec: str) -> tuple[str, int]:
    """Return the symbol and the value of ``"SYM=ret:N"``.

    The stub of SYM returns N. N is decimal, 0x hexadecimal or negative, and is returned modulo
    2^64.

    :raises InputError: the text has another form, or N is beyond 64 bits.
    """
    shown = printable(spec)
    symbol, equals, action = spec.partition("=")
    verb, colon, number = action.partition(":")
    if not (symbol and equals and colon) or verb != "ret" or not symbol.isprintable():
        raise InputError(f"stub {shown}: write SYM=ret:N, such as malloc=ret:0")
    try:
        value = int(number, 0)
    except ValueError:
        raise InputError(
            f"stub {shown}: {printable(number)} is no number; write SYM=ret:N, such as malloc=ret:0"
        ) from None
    if not -(_VALUES >> 1) <= value < _VALUES:
        raise InputError(
            f"stub {shown}: the number does not fit 64 bits; write SYM=ret:N, such as malloc=ret:0"
        )
    return symbol, value % _VALUES
