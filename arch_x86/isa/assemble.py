"""This module assembles Intel syntax by keystone, as GNU as would; it alone imports keystone.

It assembles fixed templates, and files that a user names as assembly. keystone can end the process
on some inputs (its issue 307), so generated text and text from elsewhere never reaches it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, cast

from keystone import KS_ARCH_X86, KS_MODE_64, Ks, KsError  # pyright: ignore[reportMissingTypeStubs]

from engine.errors import EngineBug, InputError

__all__ = ("assemble",)

_TEN: Final = "mov eax, 10"
_TEN_CODE: Final = b"\xb8\x0a\x00\x00\x00"
_TRIES_MAX: Final = 1_000


@lru_cache(maxsize=256)
def assemble(text: str, addr: int = 0) -> bytes:
    """Return the machine code of Intel-syntax ``text`` for address ``addr``.

    Statements are separated by newlines or ``;``.

    :raises InputError: keystone refuses the text; the message carries its reason.
    """
    try:
        encoding = cast("list[int] | None", _assembler().asm(text, addr)[0])
    except KsError as error:
        raise InputError(
            f"assembly refused: {error}; keystone takes Intel syntax, one statement a line"
        ) from None
    return bytes(encoding or ())


def _assembler() -> Any:
    """Return a keystone assembler that takes numbers for decimal.

    keystone does not initialize the radix. Where its memory happens to hold 16 from an earlier use,
    ``add rsp, 24`` adds 0x24. There is no way to set the radix to 10, so assemblers are made until
    one has it.

    :raises EngineBug: none of the first 1,000 has it.
    """
    # Unfit ones are kept until a fit one is found, for the next would get their memory otherwise.
    unfit: list[Any] = []
    while len(unfit) < _TRIES_MAX:
        assembler = cast("Any", Ks(KS_ARCH_X86, KS_MODE_64))
        if bytes(assembler.asm(_TEN)[0]) == _TEN_CODE:
            return assembler
        unfit.append(assembler)
    raise EngineBug(f"keystone takes decimal numbers for hexadecimal, {_TRIES_MAX} times running")
