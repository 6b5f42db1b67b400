"""A function that begins with an ftrace location, of each kind that code has."""

from __future__ import annotations

from dataclasses import replace

from engine.image import Image, Reserved, ReservedKind, Segment
from tests.conftest import BASE, asm_image

__all__ = ("BODY", "LOCATION", "SITES", "traced")

FENTRY = BASE + 0x200  # the function h, which returns at once
GOT = BASE + 0x1000
SITES = {
    "nop": (bytes.fromhex("0f1f440000"), b"\xe8"),
    "call": (b"\xe8" + (0x200 - 5).to_bytes(4, "little"), b"\xe8"),
    "call through a word": (b"\xff\x15" + (0x1000 - 6).to_bytes(4, "little"), b"\x67\xe8"),
    "addr32 call": (b"\x67\xe8" + (0x200 - 6).to_bytes(4, "little"), b"\x67\xe8"),
}
BODY = "; mov eax, edi; add eax, 3; ret"  # f(n) = n + 3
OTHER = "mov eax, edi; add eax, 5; nop; nop; ret"
LOCATION = Reserved(BASE, 5, ReservedKind.FTRACE_SITE)


def traced(site: str = "nop", body: str = BODY, **fields) -> Image:
    """An image whose function f begins with an ftrace location.

    g is another function, and h is what the location calls, where it is a call.
    """
    code = SITES[site][0]
    image = asm_image(
        ".byte " + ", ".join(map(hex, code)) + body, OTHER, "ret", reserved=(LOCATION,), **fields
    )
    word = Segment(GOT, FENTRY.to_bytes(8, "little"), 8, executable=False)
    return replace(image, segments=(*image.segments, word))
