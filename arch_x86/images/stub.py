"""This module says which imported functions can have a stub (``--stub``).

A stub is guest code in place of an undefined symbol (gABI, chapter 4, "Symbol Table", SHN_UNDEF);
it returns a value.
"""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches

from arch_x86.images.routines import ROUTINES
from engine.errors import InputError, printable
from engine.image import Image

__all__ = ("check_stubs",)


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
