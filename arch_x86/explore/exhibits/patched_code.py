"""Code for exhibits: a function ``f`` whose code is replaced, and what it calls or jumps to.

What it calls lies 70,000 bytes in front, so that each of the four bytes of a displacement differs
from those of a no-op.
"""

from __future__ import annotations

from typing import Final

__all__ = ("CALLEES", "LINE", "NOP5", "TRAMPOLINE", "UPROBE_SITE", "call_of_start", "function")

CALLEES: Final = """
g: add ebx, 100
 ret
h: add ebx, 1000
 ret
"""
"""Each adds another number to the result of ``f``."""
TRAMPOLINE: Final = """
g: add ebx, 100
 ret 128
"""
"""A trampoline of uprobes: it gives back the red zone that ``lea`` in front of its call skipped."""
NOP5: Final = ".byte 0x0f, 0x1f, 0x44, 0, 0"
UPROBE_SITE: Final = ".byte 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0"
_BEFORE_SITE: Final = 3
"""So many bytes of ``f`` stand in front of its site."""
_GAP: Final = 70_000
LINE: Final = 64


def function(site: str, callees: str = CALLEES, at: int = _BEFORE_SITE, behind: str = "") -> str:
    """Return the assembly of ``f``, whose code at ``f+0x3`` is ``site``.

    :param callees: what stands at the start, at most 16 bytes.
    :param at: the offset of ``f+0x3`` in its line of 64 bytes.
    :param behind: what stands behind ``f``.
    """
    return f"""{callees}
.skip {_GAP}, 0xcc
.p2align 6
.skip {(at - _BEFORE_SITE) % LINE}, 0xcc
.globl f
f: push rbx
 mov ebx, edi
 {site}
 lea eax, [rbx + 1]
 pop rbx
 ret
{behind}
"""


def call_of_start(behind: int, at: int = _BEFORE_SITE) -> str:
    """Return the hexadecimal digits of a call of the first callee.

    :param behind: the offset of the call's end from the start of the site.
    :param at: the offset of the site in its line.
    """
    line = (_GAP + LINE) // LINE * LINE
    displacement = -(line + at + behind)
    return (b"\xe8" + displacement.to_bytes(4, "little", signed=True)).hex()
