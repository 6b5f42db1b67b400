"""An image cut into pages: text, read-only data, writable data."""

from __future__ import annotations

from dataclasses import dataclass, field

from arch_x86.isa.constants import INT3, PAGE_SIZE
from engine.errors import InputError
from engine.image import Image, Segment

__all__ = ("ImagePages", "split_pages")


@dataclass(slots=True)
class ImagePages:
    """The content of each page, by virtual page number; a page is in one of the three groups."""

    text: dict[int, bytearray] = field(default_factory=dict[int, bytearray])
    const: dict[int, bytearray] = field(default_factory=dict[int, bytearray])
    data: dict[int, bytearray] = field(default_factory=dict[int, bytearray])


def split_pages(image: Image) -> ImagePages:
    """Cut ``image`` into pages of text, of read-only data and of writable data.

    Unused bytes of text pages are int3, those of other pages are 0. Read-only data that shares a
    page with text or with writable data goes with it.

    :raises InputError: code and writable data share a page.
    """
    pages = ImagePages()
    for segment in sorted(image.segments, key=lambda s: (not s.executable, not s.writable)):
        for vpn in range(segment.addr // PAGE_SIZE, -(-segment.end // PAGE_SIZE)):
            if segment.executable:
                home, fill = pages.text, INT3
            elif segment.writable:
                if vpn in pages.text:
                    raise InputError(
                        f"{image.name}: page {vpn * PAGE_SIZE:#x} holds both code and writable"
                        " data; put them on pages of their own"
                    )
                home, fill = pages.data, b"\0"
            else:
                home, fill = (
                    (
                        pages.text
                        if vpn in pages.text
                        else pages.data
                        if vpn in pages.data
                        else pages.const
                    ),
                    b"\0",
                )
            page = home.get(vpn)
            if page is None:
                page = home[vpn] = bytearray(fill * PAGE_SIZE)
            _place(page, vpn * PAGE_SIZE, segment)
    return pages


def _place(page: bytearray, base: int, segment: Segment) -> None:
    start = max(base, segment.addr)
    stop = min(base + PAGE_SIZE, segment.end)
    content = segment.data[start - segment.addr : stop - segment.addr]
    page[start - base : stop - base] = content + bytes(stop - start - len(content))
