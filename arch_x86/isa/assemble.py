"""Assembling of fixed templates and of files that a user names as assembly. The only module that imports keystone.

keystone can end the process on some inputs (its issue 307), so generated text and text from elsewhere never reaches it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

from keystone import KS_ARCH_X86, KS_MODE_64, Ks, KsError  # pyright: ignore[reportMissingTypeStubs]

from engine.errors import InputError

__all__ = ("assemble",)


@lru_cache(maxsize=256)
def assemble(text: str, addr: int = 0) -> bytes:
    """Machine code of Intel-syntax ``text`` (statements split by newlines or ``;``) placed at ``addr``.

    :raises InputError: keystone does not take it; the message carries its reason.
    """
    try:
        assembler = cast("Any", Ks(KS_ARCH_X86, KS_MODE_64))
        encoding = cast("list[int] | None", assembler.asm(text, addr)[0])
    except KsError as error:
        raise InputError(f"assembly refused: {error}; keystone takes Intel syntax, one statement a line") from None
    return bytes(encoding or ())
