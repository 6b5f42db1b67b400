"""Assembling of fixed templates and of files that a user names as assembly. The only module that
imports keystone.

keystone can end the process on some inputs (its issue 307), so generated text and text from
elsewhere never reaches it.
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
    """Machine code of Intel-syntax ``text`` (statements split by newlines or ``;``) placed at
    ``addr``.

    :raises InputError: keystone does not take it; the message carries its reason.
    """
    try:
        encoding = cast("list[int] | None", _assembler().asm(text, addr)[0])
    except KsError as error:
        raise InputError(
            f"assembly refused: {error}; keystone takes Intel syntax, one statement a line"
        ) from None
    return bytes(encoding or ())


def _assembler() -> Any:
    """One that takes numbers for decimal.

    keystone does not initialize the radix: where its memory happens to hold 16 from an earlier use,
    ``add rsp, 24`` adds 0x24. There is no way to set it to 10.
    """
    unfit: list[Any] = []  # kept until one is found, or the next would get the same memory
    while len(unfit) < _TRIES_MAX:
        assembler = cast("Any", Ks(KS_ARCH_X86, KS_MODE_64))
        if bytes(assembler.asm(_TEN)[0]) == _TEN_CODE:
            return assembler
        unfit.append(assembler)
    raise EngineBug(f"keystone takes decimal numbers for hexadecimal, {_TRIES_MAX} times running")
