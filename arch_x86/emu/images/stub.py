"""Stubs for imported functions, as the user writes them."""

from __future__ import annotations

from arch_x86.emu.images.memory import ADDRESS_LIMIT, printable
from engine.errors import InputError

__all__ = ("parse_stub",)


def parse_stub(spec: str) -> tuple[str, int]:
    """``"SYM=ret:N"`` -> the symbol and what its stub returns in RAX: decimal, 0x hexadecimal or negative, modulo 2^64.

    :raises InputError: in any other form, or N beyond 64 bits.
    """
    shown = printable(spec)
    symbol, equals, action = spec.partition("=")
    verb, colon, number = action.partition(":")
    if not (symbol and equals and colon) or verb != "ret" or not symbol.isprintable():
        raise InputError(f"stub {shown}: write SYM=ret:N, such as malloc=ret:0")
    try:
        value = int(number, 0)
    except ValueError:
        raise InputError(f"stub {shown}: {printable(number)} is no number; write SYM=ret:N, such as malloc=ret:0") from None
    if not -(ADDRESS_LIMIT >> 1) <= value < ADDRESS_LIMIT:
        raise InputError(f"stub {shown}: the number does not fit 64 bits; write SYM=ret:N, such as malloc=ret:0")
    return symbol, value % ADDRESS_LIMIT
