"""Registering several at once, or none of them."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import TypeVar

from engine.errors import KprobeError

__all__ = ("register_all",)

T = TypeVar("T")


def register_all(given: Sequence[T], register: Callable[[T], None], unregister: Callable[[Sequence[T]], object]) -> None:
    """``register`` each of ``given``; when one fails, ``unregister`` those before it and let the failure through.

    :raises KprobeError: EINVAL for an empty list, or the first failure.
    """
    if not given:
        raise KprobeError(errno.EINVAL, "an empty list of probes")
    for index, one in enumerate(given):
        try:
            register(one)
        except KprobeError:
            if index:
                unregister(given[:index])
            raise
