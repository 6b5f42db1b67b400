"""Small images for the tests: some bytes at an address, one function over all of them."""

from __future__ import annotations

from typing import Any

from arch_x86.probes.code import CodeCache
from engine.image import Image, Segment, Symbol

BASE = 0xFFFF_FFFF_8100_0000


def image_of(text: bytes, addr: int = BASE, size: int | None = None, **lists: Any) -> Image:
    """``text`` as function ``f``; ``lists`` are fields of :class:`Image`."""
    symbol = Symbol("f", addr, len(text) if size is None else size)
    return Image(
        name="test", segments=(Segment(addr, text, len(text)),), symbols=(symbol,), **lists
    )


def cache_of(text: bytes, addr: int = BASE, size: int | None = None, **lists: Any) -> CodeCache:
    """A cache over :func:`image_of`."""
    return CodeCache(image_of(text, addr, size, **lists))
