"""Registers several probes, or none of them. Answers to kernel/kprobes.c."""

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
    """Call ``register`` on each of ``given``, and undo that if one of them fails.

    ``unregister`` is then called with those before it, and the failure is raised.

    :param together: a lock that is held while all are registered. It is dropped before some are
        unregistered again, which takes locks of its own.
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
