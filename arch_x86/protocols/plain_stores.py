"""Protocols without a breakpoint: code is replaced by stores alone.

Several JIT compilers, a punning library and an ahead-of-time VM rewrite the displacement of a call
by one store; a small hooking library writes a jump by two.
"""

from __future__ import annotations

from collections.abc import Sequence

from arch_x86.protocols.protocol import Patch, Patcher, protocol

__all__ = ("four_and_four", "one_and_four", "one_store", "stop_by_fault")


@protocol(sync="every CPU fetches the new bytes when the protocol is done")
def one_store(p: Patcher, patches: Sequence[Patch]) -> None:
    """Each patch goes in by one store of 8 bytes, with a core sync behind it."""
    for patch in patches:
        p.store(patch.addr, patch.eight(), patch.reason)
        p.sync(patch.reason, step="sync")


@protocol(sync="every CPU fetches the new bytes when the protocol is done")
def four_and_four(p: Patcher, patches: Sequence[Patch]) -> None:
    """Five bytes go in as compilers copy them: 4 bytes at 0, and 4 bytes at 1."""
    for patch in patches:
        new = patch.eight()
        p.store(patch.addr, new[:4], f"{patch.reason}: 4 bytes at 0")
        p.store(patch.addr + 1, new[1:5], f"{patch.reason}: 4 bytes at 1")
        p.sync(patch.reason, step="sync")


@protocol(sync="every CPU fetches the new bytes when the protocol is done")
def one_and_four(p: Patcher, patches: Sequence[Patch]) -> None:
    """Five bytes go in as the first byte, and then 4 bytes at 1."""
    for patch in patches:
        new = patch.eight()
        p.store(patch.addr, new[:1], f"{patch.reason}: the first byte")
        p.store(patch.addr + 1, new[1:5], f"{patch.reason}: 4 bytes at 1")
        p.sync(patch.reason, step="sync")


@protocol(shootdown="every CPU has dropped its translation of the page before the bytes change")
def stop_by_fault(p: Patcher, patches: Sequence[Patch]) -> None:
    """The page is not executable while the bytes change; CPUs that come there fault and wait."""
    for patch in patches:
        p.hide(patch, f"set_memory_nx: {patch.reason}")
        p.sync("shootdown", step="shootdown")
        p.copy(patch.addr, patch.new, patch.reason)
        p.show(f"set_memory_x: {patch.reason}")
