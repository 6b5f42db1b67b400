"""Optimized uprobes, as x86 has them in 2026. Answers to arch/x86/kernel/uprobes.c.

A site is a no-op of ten bytes, ``66 2e 0f 1f 84 00 00 00 00 00``. Optimized, it is ``lea rsp,
[rsp-128]``, which steps over the red zone, and a call of a trampoline. A task can be preempted
between these two. The breakpoint of either direction does what the no-op does, which is nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from arch_x86.protocols.protocol import Patch, Patcher, PatchProtocol, protocol

__all__ = ("uprobe_nop10", "uprobe_nop10_first")

_STEPS: Final = {
    "handler": "a CPU that hits the breakpoint goes on behind the no-op",
    "arm": "every CPU fetches the breakpoint before the bytes behind it change, on the way in",
    "o1": "every CPU fetches the lea and the call before the breakpoint goes, on the way in",
    "o2": "no CPU fetches the breakpoint any more when the way in is done",
    "u1": "every CPU fetches the breakpoint before the bytes behind it change, on the way out",
    "u2": "every CPU fetches the no-op before the breakpoint goes, on the way out",
    "u3": "no CPU fetches the breakpoint any more when the way out is done",
}
_LEA_SIZE: Final = 5


@protocol(**_STEPS)
def uprobe_nop10_first(p: Patcher, patches: Sequence[Patch]) -> None:
    """The first design: the way out puts the whole no-op back."""
    for patch in patches:
        _poke(p, patch, len(patch.new))


@protocol(**_STEPS)
def _merged(p: Patcher, patches: Sequence[Patch]) -> None:
    """As merged (554ba38456da): the way out leaves the call, as the no-op's displacement."""
    for patch in patches:
        out = patch.new_goes_on is not None
        _poke(p, patch, _LEA_SIZE if out else len(patch.new))


def _poke(p: Patcher, patch: Patch, size: int) -> None:
    """Replace the first ``size`` bytes of ``patch`` behind a breakpoint."""
    out = patch.new_goes_on is not None
    behind_breakpoint, behind_tail, behind_all = ("u1", "u2", "u3") if out else ("arm", "o1", "o2")
    p.handle([patch], as_old=not out, step="handler")
    p.breakpoint(patch)
    p.sync("breakpoint", step=behind_breakpoint)
    p.copy(patch.addr + 1, patch.new[1:size], f"{patch.reason}: tail")
    p.sync("tail", step=behind_tail)
    p.store(patch.addr, patch.new[:1], f"{patch.reason}: first byte")
    p.sync("first byte", step=behind_all)
    p.handled("uprobe")


def _leaves_call(old: bytes, new: bytes) -> bytes:
    """Return the no-op that has the call as its displacement."""
    return old[:_LEA_SIZE] + new[_LEA_SIZE:]


uprobe_nop10: Final[PatchProtocol] = replace(_merged, name="uprobe_nop10", leaves=_leaves_call)
