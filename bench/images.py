"""Images to measure: shipped workloads, assembly text, and cold functions to put probes in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from arch_x86.images import load_image
from arch_x86.isa.assemble import assemble
from arch_x86.isa.constants import PAGE_SIZE
from arch_x86.lab.demo import many_functions
from engine.image import Image, Segment, Symbol

__all__ = ("asm_image", "shipped", "with_cold_functions")

_BASE: Final = 0x1000_0000
_ALIGN: Final = 16


def shipped(name: str) -> Image:
    """The image of the file ``workloads/elf/NAME``."""
    return load_image(Path(__file__).resolve().parents[1] / "workloads" / "elf" / name)


def asm_image(text: str) -> Image:
    """An image of one function ``f``, given as Intel-syntax assembly."""
    code = assemble(text, _BASE)
    return Image(
        name="generated",
        segments=(Segment(_BASE, code, len(code)),),
        symbols=(Symbol("f", _BASE, len(code)),),
    )


def with_cold_functions(image: Image, number: int) -> Image:
    """``image`` and ``number`` functions that nothing calls.

    As many as fit lie in the last page of the image's code, and the others behind the image.
    """
    last = max(
        (segment for segment in image.segments if segment.executable),
        key=lambda segment: segment.end,
    )
    start = -(-last.end // _ALIGN) * _ALIGN
    page_end = -(-last.end // PAGE_SIZE) * PAGE_SIZE
    behind = -(-max(segment.end for segment in image.segments) // PAGE_SIZE) * PAGE_SIZE
    near = min(number, (page_end - start) // _ALIGN)
    added: list[Segment] = []
    symbols: list[Symbol] = []
    for at, first, count in ((start, 0, near), (behind, near, number - near)):
        cold = many_functions(count)
        if count:
            added.append(replace(cold.segments[0], addr=at))
            moved = at - cold.segments[0].addr
            symbols += (
                Symbol(f"cold{first + i}", s.addr + moved, s.size)
                for i, s in enumerate(cold.symbols)
            )
    return replace(image, segments=(*image.segments, *added), symbols=(*image.symbols, *symbols))
