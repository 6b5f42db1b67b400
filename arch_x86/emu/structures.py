"""The structures of Unicorn's interface (unicorn/x86.h)."""

from __future__ import annotations

import ctypes

__all__ = ("Mmr", "Msr")


class Mmr(ctypes.Structure):
    """The structure ``uc_x86_mmr``, which has a selector, a base, a limit and flags."""

    _fields_ = (
        ("selector", ctypes.c_uint16),
        ("base", ctypes.c_uint64),
        ("limit", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
    )


class Msr(ctypes.Structure):
    """The structure ``uc_x86_msr``, which has a model-specific register's number and value."""

    _fields_ = (("rid", ctypes.c_uint32), ("value", ctypes.c_uint64))
