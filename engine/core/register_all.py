"""Registering several at once, or none of them."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from engine.errors import KprobeError

__all__ = ("register_all",)

T = TypeVar("T")


def register_all(
    given: Sequence[T],
    register: Callable[[T], None],
    unregister: Callable[[Sequence[T]], object],
    together: AbstractContextManager[None] | None = None,
) -> None:
    """``register`` each of ``given``; when one fails, ``unregister`` those before it and let the
    failure through.

    :param together: what is held while all are registered, and not any more when some are
        unregistered again.
    :raises KprobeError: EINVAL for an empty list, or the first failure.
    """
    if not given:
        raise KprobeError(errno.EINVAL, "an empty list of probes")
    done, failure = 0, None
    with together or nullcontext():
        for one in given:
            try:
                register(one)
            except KprobeError as error:
                failure = error
                break
            done += 1
    if failure is not None:
        if done:
            unregister(given[:done])
        raise failure
