"""This module reads and checks the stubs that a user gives for imported functions (``--stub``).

A stub is guest code in place of an undefined symbol (gABI, chapter 4, "Symbol Table", SHN_UNDEF);
it returns a value.
"""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches

from arch_x86.images.memory import ADDRESS_LIMIT
from arch_x86.images.routines import ROUTINES
from engine.errors import InputError, printable
from engine.image import Image

__all__ = ("check_stubs", "parse_stub")


def parse_stub(spec: str) -> tuple[str, int]:
    """Return the symbol and the value of ``"SYM=ret:N"``.

    The stub of SYM returns N in RAX. N is decimal, 0x hexadecimal or negative, and is returned
    modulo 2^64.

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
    if not -(ADDRESS_LIMIT >> 1) <= value < ADDRESS_LIMIT:
        raise InputError(
            f"stub {shown}: the number does not fit 64 bits; write SYM=ret:N, such as malloc=ret:0"
        )
    return symbol, value % ADDRESS_LIMIT


def check_stubs(image: Image, names: Collection[str]) -> None:
    """Check that each of ``names`` is an unresolved function of ``image``.

    The image was loaded with stubs for these names. Nothing would call the stub of any other name.

    :raises InputError: one of them is not; the message suggests names that could have been meant.
    """
    unresolved = {function.name for function in image.imports}
    for name in names:
        if name in unresolved:
            continue
        others = sorted(
            unresolved.difference(names)
            | {ours for ours in ROUTINES if ours in image.by_name and ours != name}
        )
        close = get_close_matches(name, others, n=3) or others[:5]
        right = (
            f"give one of the unresolved ones, such as {', '.join(close)}"
            if close
            else "there are none; leave --stub out"
        )
        what = "is defined already" if name in image.by_name else "is called by nothing"
        raise InputError(
            f"stub {printable(name)}: {image.name}: it {what}, and only unresolved functions take a"
            f" value; {right}"
        )
