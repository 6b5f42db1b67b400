"""What the tests of patch protocols share: a function that has a site at any offset in a line, and
what each protocol may come to there.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import optprobe

__all__ = ("LINE", "MODELS", "OFFSETS", "SIZE", "crosses", "function", "patched", "verdict")

LINE = 64
"""Bytes in a line."""
SIZE = 5
"""Bytes of the site: a no-op, which becomes a call."""
OFFSETS = (0, 6, 13, 29, 61)
"""Offsets of the site in its line, within a unit and across the borders of 8 to 64 bytes."""
MODELS = ("coherent", "stale", "unit:8", "unit:16", "unit:32", "unit:64", "torn")
_SAYS = {"torn-instruction": "torn", "guest-fault": "fault"}


@cache
def function(offset: int) -> optprobe.Image:
    """The function ``f`` whose no-op, ``f+0x3``, is ``offset`` bytes behind the start of a line.

    ``g``, which a call there may lead to, is so far in front that each byte of the call's
    displacement differs from the no-op's.
    """
    text = f"""
g:
    add ebx, 100
    ret
    .skip 70000, 0xcc
    .p2align 6
    .skip {(offset - 3) % LINE}, 0xcc
f:
    push rbx
    mov ebx, edi
    .byte 0x0f, 0x1f, 0x44, 0x00, 0x00
    lea eax, [rbx + 1]
    pop rbx
    ret
"""
    return optprobe.load_asm(text, "f.s")


def patched(
    offset: int,
    protocol: str | optprobe.PatchProtocol,
    fetch: str,
    *,
    without: Sequence[str] = (),
    back: bool = False,
) -> optprobe.PatchResult:
    """The no-op of ``function(offset)`` becomes a call of ``g`` while one CPU calls ``f`` once."""
    return optprobe.patch(
        function(offset),
        call="f",
        arguments=[5],
        sites=["f+0x3"],
        to=["call:g"],
        back=back,
        protocol=protocol,
        fetch=fetch,
        without=without,
        calls=1,
        preemptions=1,
    )


def verdict(result: optprobe.PatchResult) -> str:
    """``safe``, or in a word what breaks."""
    if not result.violations:
        return result.verdict
    kind = str(result.violations[0].violation.kind)
    return _SAYS.get(kind, kind)


def crosses(offset: int, fetch: str) -> bool:
    """Whether the site is fetched in several pieces in the model ``fetch``."""
    kind, _, unit = fetch.partition(":")
    return kind == "torn" or (kind == "unit" and offset % int(unit) + SIZE > int(unit))
