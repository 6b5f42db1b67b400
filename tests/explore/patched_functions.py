"""What the tests of patch protocols share: a function that has a site at any offset in a line, and
what each protocol may come to there.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import optprobe

__all__ = (
    "LINE",
    "MODELS",
    "OFFSETS",
    "SIZE",
    "UPROBE_SIZE",
    "crosses",
    "function",
    "patched",
    "uprobed",
    "verdict",
)

LINE = 64
"""Bytes in a line."""
SIZE = 5
"""Bytes of the site: a no-op, which becomes a call."""
UPROBE_SIZE = 10
"""Bytes of the site of an optimized uprobe: a no-op, which becomes a ``lea`` and a call."""
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


@cache
def uprobe_function(offset: int) -> tuple[optprobe.Image, str]:
    """The function ``f`` with a no-op of ten bytes at ``f+0x3``, and what an uprobe makes of it."""
    site = ".byte 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0"
    text = f"""
g:
    add ebx, 100
    ret 128
    .skip 70000, 0xcc
    .p2align 6
    .skip {(offset - 3) % LINE}, 0xcc
f:
    push rbx
    mov ebx, edi
    {site}
    lea eax, [rbx + 1]
    pop rbx
    ret
"""
    image = optprobe.load_asm(text, "f.s")
    behind = image.by_name["f"].addr + 3 + UPROBE_SIZE
    displacement = image.by_name["g"].addr - behind
    call = b"\xe8" + displacement.to_bytes(4, "little", signed=True)
    return image, (bytes.fromhex("488d642480") + call).hex()


def uprobed(
    offset: int, protocol: str, fetch: str, *, without: Sequence[str] = ()
) -> optprobe.PatchResult:
    """The no-op becomes an optimized uprobe, and a no-op again, while one CPU calls ``f`` once."""
    image, new = uprobe_function(offset)
    return optprobe.patch(
        image,
        call="f",
        arguments=[5],
        sites=["f+0x3"],
        to=[new],
        back=True,
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


def crosses(offset: int, fetch: str, size: int = SIZE) -> bool:
    """Whether the site's first ``size`` bytes are fetched in several pieces in the model."""
    kind, _, unit = fetch.partition(":")
    return kind == "torn" or (kind == "unit" and offset % int(unit) + size > int(unit))
