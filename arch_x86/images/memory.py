"""The address space of an image under construction: areas that relocations may still change, and
the limits on them.
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
"""Most bytes of memory that one image may ask for, and of file that is read: 1 GiB."""
DEFAULT_BASE: Final = 0x10000000
"""Where images without an address of their own go: below 2 GiB, so that R_X86_64_32 and
R_X86_64_32S both reach.
"""
_CANONICAL: Final = 1 << 47


def page_up(addr: int) -> int:
    """``addr``, or the next page boundary."""
    return (addr + PAGE_SIZE - 1) & -PAGE_SIZE


def check_base(name: str, base: int) -> int:
    """``base`` when an image may be loaded there.

    :raises InputError: not on a page boundary, or not a 64-bit address.
    """
    if not 0 <= base < ADDRESS_LIMIT or base % PAGE_SIZE:
        raise InputError(
            f"{name}: text base {base:#x} is unusable; give a multiple of {PAGE_SIZE:#x} below 2^64"
        )
    return base


@dataclass(slots=True)
class Area:
    """``size`` bytes from ``addr``; those behind ``data`` are zero."""

    addr: int
    data: bytearray
    size: int
    writable: bool = False
    executable: bool = False

    @property
    def end(self) -> int:
        """First address behind the area."""
        return self.addr + self.size


class Memory:
    """Areas in address order, none overlapping, within the limits.

    :raises InputError: in the constructor and :meth:`append`, when they are not; the message starts
        with ``name``.
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
        """First page boundary behind all areas; 0 when there are none."""
        return page_up(self._areas[-1].end) if self._areas else 0

    def append(self, area: Area) -> None:
        """Add ``area`` behind the others."""
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
        """Where ``size`` bytes behind all areas start, for something that is no part of the
        image.
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
        """The area that holds ``addr``."""
        at = bisect_right(self._starts, addr) - 1
        return self._areas[at] if at >= 0 and addr < self._areas[at].end else None

    def read(self, addr: int, size: int) -> bytes | None:
        """``size`` bytes at ``addr``, None unless all of them are in one area."""
        area = self.area_at(addr)
        if area is None or size < 0 or addr + size > area.end:
            return None
        start = addr - area.addr
        data = bytes(area.data[start : start + size])
        return data + bytes(size - len(data))

    def write(self, addr: int, data: bytes) -> bool:
        """Put ``data`` at ``addr``; False, and nothing done, where the file brings no bytes."""
        area = self.area_at(addr)
        if area is None or addr - area.addr + len(data) > len(area.data):
            return False
        area.data[addr - area.addr : addr - area.addr + len(data)] = data
        return True

    def fill(self, addr: int, data: bytes) -> bool:
        """Put ``data`` at ``addr``, where the file may bring no bytes; False, and nothing done,
        outside of one area.
        """
        area = self.area_at(addr)
        if area is None or addr + len(data) > area.end:
            return False
        start = addr - area.addr
        area.data.extend(bytes(max(0, start + len(data) - len(area.data))))
        area.data[start : start + len(data)] = data
        return True

    def is_writable(self, addr: int) -> bool:
        """True when the 8 bytes at ``addr`` are memory that the guest may write."""
        area = self.area_at(addr)
        return area is not None and area.writable and not area.executable and addr + 8 <= area.end

    def is_text(self, addr: int) -> bool:
        """True when ``addr`` lies in an executable area."""
        area = self.area_at(addr)
        return area is not None and area.executable

    def segments(self) -> tuple[Segment, ...]:
        """The finished image's segments. Text is never writable.

        :raises InputError: there is no text.
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
