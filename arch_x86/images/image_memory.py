"""This module is the memory of an image under construction (gABI, chapter 5, "Program Loading").

It holds areas whose bytes relocations may still change, and keeps the limits on them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from arch_x86.isa.constants import PAGE_SIZE
from engine.errors import InputError, printable
from engine.image import Segment

__all__ = (
    "ADDRESS_LIMIT",
    "DEFAULT_BASE",
    "IMAGE_LIMIT",
    "Area",
    "Memory",
    "check_base",
    "page_up",
    "printable",
)

ADDRESS_LIMIT: Final = 1 << 64
IMAGE_LIMIT: Final = 1 << 30
"""This is the most memory of one image, and the most bytes read from a file: 1 GiB."""
DEFAULT_BASE: Final = 0x10000000
"""The address at which an image is loaded that has none of its own.

It lies below 2 GiB, so that R_X86_64_32 and R_X86_64_32S both reach.
"""
_CANONICAL: Final = 1 << 47


def page_up(addr: int) -> int:
    """Return ``addr`` if it is a page boundary, or else the next page boundary."""
    return (addr + PAGE_SIZE - 1) & -PAGE_SIZE


def check_base(name: str, base: int) -> int:
    """Return ``base`` when an image may be loaded at this address.

    :param name: the image's name, which begins the message.
    :raises InputError: ``base`` is no page boundary, or no 64-bit address.
    """
    if not 0 <= base < ADDRESS_LIMIT or base % PAGE_SIZE:
        raise InputError(
            f"{name}: text base {base:#x} is unusable; give a multiple of {PAGE_SIZE:#x} below 2^64"
        )
    return base


@dataclass(slots=True)
class Area:
    """An area is ``size`` bytes of memory from ``addr``.

    :ivar data: its first bytes; those behind them are zero.
    """

    addr: int
    data: bytearray
    size: int
    writable: bool = False
    executable: bool = False

    @property
    def end(self) -> int:
        """Return the first address behind the area."""
        return self.addr + self.size


class Memory:
    """This class holds areas in address order, of which none overlap.

    :param name: the image's name, which begins each message.
    :raises InputError: in the constructor and :meth:`append`, areas overlap, are over 1 GiB in all,
        or lie outside of the 64-bit canonical addresses.
    """

    def __init__(self, name: str, areas: Iterable[Area]) -> None:
        self._name = name
        self._areas: list[Area] = []
        self._starts: list[int] = []
        self._total = 0
        for area in sorted(
            (area for area in areas if area.size), key=lambda area: (area.addr, area.size)
        ):
            self.append(area)

    @property
    def end(self) -> int:
        """Return the first page boundary behind all areas, or 0 when there are none."""
        return page_up(self._areas[-1].end) if self._areas else 0

    def append(self, area: Area) -> None:
        """Add ``area`` behind all other areas.

        :raises InputError: it overlaps the last one, exceeds 1 GiB in all, or has no canonical
            addresses.
        """
        last = self._areas[-1] if self._areas else None
        self._total += area.size
        if self._total > IMAGE_LIMIT:
            raise InputError(
                f"{self._name}: the image wants {self._total:#x} bytes of memory or more; the limit"
                " is 1 GiB"
            )
        if last is not None and area.addr < last.end:
            raise InputError(
                f"{self._name}: segments overlap at {area.addr:#x}; each address may be given once"
            )
        self._check(area.addr, area.size)
        self._areas.append(area)
        self._starts.append(area.addr)

    def reserve(self, size: int) -> int:
        """Return the address behind all areas, for ``size`` bytes that are no part of the image.

        :raises InputError: these bytes have no canonical addresses.
        """
        self._check(self.end, size)
        return self.end

    def _check(self, addr: int, size: int) -> None:
        if not 0 <= addr <= ADDRESS_LIMIT - size:
            raise InputError(
                f"{self._name}: {size:#x} bytes at {addr:#x} reach beyond 64-bit addresses; choose"
                " a lower address"
            )
        if not (addr + size <= _CANONICAL or addr >= ADDRESS_LIMIT - _CANONICAL):
            raise InputError(
                f"{self._name}: address {addr:#x} is not canonical; use one below {_CANONICAL:#x}"
                " or in the top 128 TiB"
            )

    def area_at(self, addr: int) -> Area | None:
        """Return the area that holds ``addr``, or None."""
        at = bisect_right(self._starts, addr) - 1
        return self._areas[at] if at >= 0 and addr < self._areas[at].end else None

    def read(self, addr: int, size: int) -> bytes | None:
        """Return the ``size`` bytes at ``addr``, or None unless all of them lie in one area."""
        area = self.area_at(addr)
        if area is None or size < 0 or addr + size > area.end:
            return None
        start = addr - area.addr
        data = bytes(area.data[start : start + size])
        return data + bytes(size - len(data))

    def write(self, addr: int, data: bytes) -> bool:
        """Put ``data`` at ``addr`` and return True, if the file brings bytes for all of it.

        Otherwise nothing is changed, and False is returned.
        """
        area = self.area_at(addr)
        if area is None or addr - area.addr + len(data) > len(area.data):
            return False
        area.data[addr - area.addr : addr - area.addr + len(data)] = data
        return True

    def fill(self, addr: int, data: bytes) -> bool:
        """Put ``data`` at ``addr`` and return True, if it lies in one area.

        The file need not bring bytes there. Outside of an area nothing is changed, and False is
        returned.
        """
        area = self.area_at(addr)
        if area is None or addr + len(data) > area.end:
            return False
        start = addr - area.addr
        area.data.extend(bytes(max(0, start + len(data) - len(area.data))))
        area.data[start : start + len(data)] = data
        return True

    def is_writable(self, addr: int) -> bool:
        """Return True when the guest may write the 8 bytes at ``addr``."""
        area = self.area_at(addr)
        return area is not None and area.writable and not area.executable and addr + 8 <= area.end

    def is_text(self, addr: int) -> bool:
        """Return True when ``addr`` lies in an executable area."""
        area = self.area_at(addr)
        return area is not None and area.executable

    def segments(self) -> tuple[Segment, ...]:
        """Return the segments of the finished image, in which text is never writable.

        :raises InputError: no area is executable.
        """
        if not any(area.executable for area in self._areas):
            raise InputError(f"{self._name}: no code; give a file with executable bytes")
        return tuple(
            Segment(
                area.addr,
                bytes(area.data),
                area.size,
                writable=area.writable and not area.executable,
                executable=area.executable,
            )
            for area in self._areas
        )
