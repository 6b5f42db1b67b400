"""The record of a task's call in an exploration."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ("PlannedCall",)


class PlannedCall(NamedTuple):
    """This record says which call a task makes.

    The tasks of vCPU ``n`` are ``2n`` and, with preemption, ``2n + 1``.

    :ivar addr: the address of the function that it calls.
    :ivar times: how often it makes the call.
    """

    addr: int
    times: int
