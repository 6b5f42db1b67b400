"""What ``optprobe patch`` is asked, and what the CPU side makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.patching.control_code import ControlCode
from engine.patching.patched_sites import PatchedSite

__all__ = ("PatchPlan", "PatchSpec")


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchSpec:
    """Which code is to be replaced, by what, and how.

    :ivar sites: the places, ``SYM+OFF`` or ``0xADDR``.
    :ivar codes: the new code of each place, as of ``--to``; one alone is the new code of all.
    :ivar moves: for protocols that suspend tasks, texts ``FROM:TO``: a task that stands at the one
        place when the new code comes goes on at the other.
    :ivar lock: ``FROM..TO``, the places between which a task holds the allocator's lock, or None.
    :ivar user: ``FROM..TO``, the places between which a vCPU in a call still counts as in user
        mode, or None.
    :ivar back: whether the old code comes back.
    :ivar protocol: the name of a patch protocol, a Python file that has it, or the protocol itself
        as the CPU side has it.
    :ivar without: the names of the protocol's steps that are left out.
    """

    sites: tuple[str, ...]
    codes: tuple[str, ...]
    moves: tuple[str, ...] = ()
    lock: str | None = None
    user: str | None = None
    back: bool = False
    protocol: Any
    without: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchPlan:
    """What an exploration of a patch needs.

    :ivar sites: the places, in ascending order, none over another one.
    :ivar lock: the addresses at which a task holds the allocator's lock, or None.
    :ivar user: the addresses at which a vCPU in a call still counts as in user mode, or None.
    :ivar code: the control task that makes the patch.
    :ivar poke: makes the poke protocol, in the form that the CPU side has for it.
    :ivar protocol: the name of the patch protocol.
    :ivar tag: a text that differs where the control task does something else.
    """

    sites: tuple[PatchedSite, ...]
    lock: range | None
    user: range | None
    code: ControlCode
    poke: Callable[..., Any]
    protocol: str
    tag: str
