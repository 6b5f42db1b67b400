"""ftrace's patch protocol: the sites of call tracing. Answers to arch/x86/kernel/ftrace.c.

A site is a no-op of five bytes, or a call of a trampoline, which may change to a call of another
one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from arch_x86.isa.onward import Onward
from arch_x86.protocols.protocol import Patch, Patcher, protocol

__all__ = ("ftrace_replace_code",)


@protocol(
    emulate_call="a CPU that hits the breakpoint makes the new call, instead of skipping the site"
)
def ftrace_replace_code(p: Patcher, patches: Sequence[Patch]) -> None:
    """All sites change behind breakpoints, whose handler makes the new call (5.2)."""
    told = patches if p.does("emulate-call") else [_skipped(patch) for patch in patches]
    p.handle(told)
    for patch in patches:
        p.breakpoint(patch)
    p.sync("breakpoints")
    for patch in patches:
        p.copy(patch.addr + 1, patch.new[1:], f"{patch.reason}: tail")
    p.sync("tails")
    for patch in patches:
        p.store(patch.addr, patch.new[:1], f"{patch.reason}: first byte")
    p.sync("first bytes")
    p.handled("references")


def _skipped(patch: Patch) -> Patch:
    """Return ``patch`` with a handler that goes on behind the site, as if it were a no-op."""
    return replace(patch, new_goes_on=Onward(patch.addr + len(patch.new), None))
