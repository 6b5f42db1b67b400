"""The text of modules that go away and come back: the checks of which pieces may."""

from __future__ import annotations

from bisect import bisect_left

from arch_x86.text.space import TextSpace
from engine.errors import InputError
from engine.image import Image, Symbol

__all__ = ("load_text", "unload_text")


def unload_text(image: Image, text: TextSpace, start: int, size: int) -> None:
    """Take the ``size`` bytes of text from ``start`` away.

    :raises InputError: they are not all text of the image that is loaded, or end inside of a
        function.
    """
    end = start + size
    inside = size > 0 and image.is_text(start) and image.is_text(end - 1)
    if not inside or not text.covers(start, size) or text.is_unloaded(start, size):
        raise InputError(
            f"{size} bytes at {start:#x} are not text that is loaded; give a range of the"
            " image's code"
        )
    for addr in (start, end):
        function = _function_around(image, addr)
        if function is not None:  # A jump may span what stays and what goes.
            raise InputError(
                f"{size} bytes at {start:#x}: {function.name} is cut in two at {addr:#x}; give"
                " whole functions"
            )
    text.unload(start, size)


def load_text(text: TextSpace, start: int, data: bytes) -> None:
    """Put ``data`` at ``start``, where text was unloaded.

    :raises InputError: nothing, or something of another size, was unloaded there.
    """
    if text.unloaded.get(start) != start + len(data):
        raise InputError(
            f"{len(data)} bytes at {start:#x}: that is not what was unloaded; give the same range"
        )
    text.load(start, data)


def _function_around(image: Image, addr: int) -> Symbol | None:
    """Return the function that has bytes on both sides of ``addr``, or None.

    A function without a size lasts until the next one, or to the end of its segment.
    """
    functions = image.functions
    at = bisect_left(functions, addr, key=lambda symbol: symbol.addr)
    if at == 0 or (at < len(functions) and functions[at].addr == addr):
        return None
    last = functions[at - 1]  # Of several that start at one address this is the longest.
    segment = image.segment_at(last.addr)
    end = last.addr + last.size if last.size or segment is None else segment.end
    return last if addr < end else None
