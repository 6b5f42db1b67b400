"""The kernel's patch protocols. Answers to arch/x86/kernel/alternative.c (2.6.38, 6.1, 6.16).

The kprobes of a profile use :mod:`arch_x86.text.poke`, which batches, counts and names its steps as
that profile's kernel does. These are the bare protocols, for code that is no probe's.
"""

from __future__ import annotations

from collections.abc import Sequence

from arch_x86.isa.constants import INT3
from arch_x86.protocols.protocol import Patch, Patcher, protocol

__all__ = (
    "hlt_first",
    "text_poke",
    "text_poke_bp",
    "text_poke_bp_batch",
    "text_poke_bp_deferred",
    "text_poke_smp",
    "text_poke_smp_batch",
    "three_phases",
)


@protocol()
def text_poke(p: Patcher, patches: Sequence[Patch]) -> None:
    """The bytes are copied while the CPUs run, and nobody is told (text_poke())."""
    for patch in patches:
        p.copy(patch.addr, patch.new, patch.reason)


@protocol(stop_machine="no CPU runs while the bytes change")
def text_poke_smp(p: Patcher, patches: Sequence[Patch]) -> None:
    """Each patch is copied under a stop_machine() of its own (2.6.38)."""
    for patch in patches:
        p.stop_machine(
            lambda patch=patch: p.copy(patch.addr, patch.new, patch.reason),
            f"text_poke_smp: {patch.reason}",
            step="stop-machine",
        )


@protocol(stop_machine="no CPU runs while the bytes change")
def text_poke_smp_batch(p: Patcher, patches: Sequence[Patch]) -> None:
    """All patches are copied under one stop_machine() (2.6.38)."""

    def write() -> None:
        for patch in patches:
            p.copy(patch.addr, patch.new, patch.reason)

    p.stop_machine(write, f"text_poke_smp_batch of {len(patches)}", step="stop-machine")


_BP_STEPS = {
    "int3_first": "a breakpoint keeps CPUs off the bytes behind it while these change",
    "handler": "a CPU that hits the breakpoint goes on as the new instruction would",
    "sync_1": "every CPU fetches the breakpoint before the bytes behind it change",
    "sync_2": "every CPU fetches the new bytes before the breakpoint goes",
    "sync_3": "no CPU fetches the breakpoint any more when its handler goes",
    "refs": "no CPU reads the handler's record any more when it goes",
}


@protocol(**_BP_STEPS)
def text_poke_bp(p: Patcher, patches: Sequence[Patch]) -> None:
    """Each patch goes in behind a breakpoint of its own, with three core syncs (6.1)."""
    for patch in patches:
        _behind_breakpoints(p, [patch])


@protocol(**_BP_STEPS)
def text_poke_bp_batch(p: Patcher, patches: Sequence[Patch]) -> None:
    """All patches go in behind breakpoints, with three core syncs together (6.1)."""
    _behind_breakpoints(p, sorted(patches, key=lambda patch: patch.addr))


@protocol(**_BP_STEPS)
def text_poke_bp_deferred(p: Patcher, patches: Sequence[Patch]) -> None:
    """As text_poke_bp, but no core sync interrupts a CPU that is in user mode (RFC of 2026)."""
    for patch in patches:
        _behind_breakpoints(p, [patch], deferrable=True)


@protocol(
    handler="a CPU that faults at the HLT goes on as the new instruction would",
    sync_1="every CPU fetches the HLT before the bytes behind it change",
    sync_2="every CPU fetches the new bytes before the HLT goes",
    sync_3="no CPU fetches the HLT any more when its handler goes",
)
def hlt_first(p: Patcher, patches: Sequence[Patch]) -> None:
    """Each patch goes in behind a HLT, which faults in user mode (a sandbox's code copier)."""
    for patch in patches:
        p.handle([patch], step="handler")
        p.halt(patch)
        p.sync("hlt", step="sync-1")
        p.copy(patch.addr + 1, patch.new[1:], f"{patch.reason}: rest")
        p.sync("rest", step="sync-2")
        p.store(patch.addr, patch.new[:1], f"{patch.reason}: first byte")
        p.sync("first byte", step="sync-3")
        p.handled("fault handler")


def _behind_breakpoints(p: Patcher, patches: Sequence[Patch], *, deferrable: bool = False) -> None:
    p.handle(patches, step="handler")
    three_phases(p, patches, first="int3-first", deferrable=deferrable)
    p.handled("references", step="refs")


def three_phases(
    p: Patcher,
    patches: Sequence[Patch],
    *,
    first: str | None = None,
    deferrable: bool = False,
) -> None:
    """Store breakpoints, tails and first bytes, with a core sync behind each of the three.

    The syncs are the steps ``sync-1`` to ``sync-3`` of the protocol.

    :param first: the name of the step that stores the breakpoints; None: they are always stored.
    :param deferrable: the core syncs leave CPUs in user mode out.
    """
    for patch in patches:
        p.breakpoint(patch, step=first)
    p.sync("breakpoints", step="sync-1", deferrable=deferrable)
    for patch in patches:
        p.copy(patch.addr + 1, patch.new[1:], f"{patch.reason}: tail")
    p.sync("tails", step="sync-2", deferrable=deferrable)
    for patch in patches:
        if patch.new[:1] != INT3:
            p.store(patch.addr, patch.new[:1], f"{patch.reason}: first byte")
    p.sync("first bytes", step="sync-3", deferrable=deferrable)
