"""The designs that ``make tribunal`` compares: ways of replacing code, as their users do it.

Each stores in its own order. A column is a fetch model, and says where the site lies: at offset 3
of a line of 64 bytes it crosses no aligned unit of 8 bytes, and at offset 61 it crosses all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from arch_x86.explore.exhibits.patched_code import (
    LINE,
    NOP5,
    TRAMPOLINE,
    UPROBE_SITE,
    call_of_start,
    function,
)
from engine.patching.design import Column, Design
from engine.patching.exhibit import PatchCase
from engine.search.explorable import ViolationKind

__all__ = ("COLUMNS", "DESIGNS")

_INSIDE, _ACROSS = 3, 61
COLUMNS: Final = (
    Column("coherent", "coherent", _INSIDE),
    Column("stale", "stale", _INSIDE),
    Column("unit:8, inside", "unit:8", _INSIDE),
    Column("unit:64, across", "unit:64", _ACROSS),
    Column("torn", "torn", _INSIDE),
)
"""The columns of the table."""
_ALL: Final = frozenset(one.name for one in COLUMNS)
_LATE: Final = _ALL - {"coherent"}
"""Where a CPU that has not synchronized may fetch what was there before a store."""
_SPLIT: Final = frozenset({"unit:64, across", "torn"})
"""Where the bytes of one instruction may be fetched from different stores."""
_UPROBE_NEW: Final = "488d642480"
"""``lea rsp, [rsp - 128]``, with the call of the trampoline behind it."""
_UPROBE_SIZE: Final = 10
_NOPS: Final = "nop\n nop\n nop\n nop\n nop"

_Site = Callable[[int], PatchCase]


def _nop_to_call(protocol: str, *without: str) -> _Site:
    """Return what makes a call of a no-op of five bytes."""

    def case(at: int) -> PatchCase:
        return PatchCase(
            image=function(NOP5, at=at),
            sites=("f+0x3",),
            codes=("call:g",),
            protocol=protocol,
            without=without,
        )

    return case


def _call_to_call(protocol: str) -> _Site:
    """Return what makes a call of another function of a call."""

    def case(at: int) -> PatchCase:
        return PatchCase(
            image=function("call g", at=at, behind=_NEAR),
            sites=("f+0x3",),
            codes=("call:near",),
            protocol=protocol,
        )

    return case


_NEAR: Final = """
.globl near
near: add ebx, 1000
 ret
"""
"""Each byte of its displacement differs from that of a call of ``g``, which is far in front."""


def _to_jump(protocol: str, site: str) -> _Site:
    """Return what makes a jump of the no-ops ``site``, where tasks are preempted."""

    def case(at: int) -> PatchCase:
        return PatchCase(
            image=function(site, _LEAVES, at),
            sites=("f+0x3",),
            codes=("jmp:g",),
            old="one no-op of five bytes" if site == NOP5 else "five no-ops of one byte",
            protocol=protocol,
            preempt=True,
        )

    return case


_LEAVES: Final = """
g: lea eax, [rbx + 100]
 pop rbx
 ret
"""
"""What a jump out of ``f`` leads to: it returns for ``f``."""


def _uprobe(protocol: str, *without: str) -> _Site:
    """Return what makes an optimized uprobe of a no-op of ten bytes, and the no-op again."""

    def case(at: int) -> PatchCase:
        return PatchCase(
            image=function(UPROBE_SITE, TRAMPOLINE, at),
            sites=("f+0x3",),
            codes=(_UPROBE_NEW + call_of_start(_UPROBE_SIZE, at),),
            back=True,
            protocol=protocol,
            without=without,
            preempt=True,
        )

    return case


def _entered(code: str, site_at: int, user: int | None) -> _Site:
    """Return what makes a call of a no-op in code that runs when a CPU leaves user mode.

    :param code: the code, which synchronizes the CPU, and says that it has left user mode.
    :param site_at: the offset of the no-op in ``f``.
    :param user: the offset of the code in ``f`` behind the place where it says so; None: the
        protocol interrupts CPUs in user mode, too.
    """

    def case(at: int) -> PatchCase:
        return PatchCase(
            image=function(code, at=(at - site_at + _INSIDE) % LINE),
            sites=(f"f+{site_at:#x}",),
            codes=("call:g",),
            protocol="text_poke_bp" if user is None else "text_poke_bp_deferred",
            user=None if user is None else f"f..f+{user:#x}",
        )

    return case


_SIGNAL, _ENTER = "nop", "invlpg [rsp]"
"""The entry of the kernel says that the CPU has left user mode (``kernel_cr3_loaded = 1``), and
synchronizes it. The kernel stores to CR3, which these machines do not; INVLPG serializes, too."""
_BEHIND_ENTRY: Final = _entered(f"{_SIGNAL}\n {_ENTER}\n {NOP5}", 8, 4)
_LATE_SIGNAL: Final = _entered(f"{_ENTER}\n {_SIGNAL}\n {NOP5}", 8, 8)
_IN_ENTRY: Final = f"{NOP5}\n {_SIGNAL}\n {_ENTER}"


def _without(
    step: str,
    refuted: frozenset[str],
    told: tuple[str, str],
    kind: ViolationKind = ViolationKind.TORN,
) -> Design:
    """Return the design of ``text_poke_bp`` without a core sync."""
    return Design(
        name=f"text_poke_bp-without-{step}",
        what=f"three phases behind a breakpoint, without core sync {step[-1]}",
        used="nobody: it shows what the sync is for",
        site=_nop_to_call("text_poke_bp", step),
        refuted=refuted,
        told=told,
        mended=_nop_to_call("text_poke_bp"),
        kind=kind,
    )


DESIGNS: Final = (
    Design(
        name="text_poke_bp",
        what="breakpoint, sync, tail, sync, first byte, sync",
        used="Linux since 3.12",
        site=_nop_to_call("text_poke_bp"),
    ),
    _without(
        "sync-1",
        _SPLIT,
        (
            "A CPU that has not fetched the breakpoint goes on fetching the first byte of the old"
            " instruction.",
            "It meets the new bytes behind that byte.",
        ),
    ),
    _without(
        "sync-2",
        _SPLIT,
        (
            "A CPU that has not fetched the new bytes behind the breakpoint fetches old ones.",
            "It meets the new first byte in front of them.",
        ),
    ),
    _without(
        "sync-3",
        _ALL,
        (
            "The handler of the breakpoint goes while a CPU still fetches the breakpoint, or has"
            " just trapped there.",
            "The breakpoint is nobody's then, and the kernel dies of it.",
        ),
        ViolationKind.GUEST_FAULT,
    ),
    Design(
        name="hlt_first",
        what="the same with HLT in place of the breakpoint, which faults in user mode",
        used="a sandbox's code copier",
        site=_nop_to_call("hlt_first"),
    ),
    Design(
        name="text_poke_bp_deferred",
        what="text_poke_bp, whose syncs leave out CPUs in user mode; they synchronize on entry",
        used="a series of 2026 for isolated CPUs (RFC v8, March; v9, May)",
        site=_BEHIND_ENTRY,
    ),
    Design(
        name="deferred-in-entry",
        what="deferred syncs (text_poke_bp_deferred) for code that a CPU runs before it"
        " synchronizes on its entry",
        used="nobody: the series has objtool find such static keys and static calls",
        site=_entered(_IN_ENTRY, 3, 9),
        refuted=_LATE,
        told=(
            "A CPU is in user mode while code of the kernel's entry is replaced, so that no core"
            " sync waits for it.",
            "It comes back, still fetches the breakpoint in the entry's code, in front of what"
            " would synchronize it, and the breakpoint has no handler any more.",
        ),
        mended=_entered(_IN_ENTRY, 3, None),
        kind=ViolationKind.GUEST_FAULT,
    ),
    Design(
        name="deferred-late-signal",
        what="deferred syncs (text_poke_bp_deferred) where a CPU says that it is in the kernel"
        " only when it has synchronized",
        used="nobody: the series says so in front of the store to CR3",
        site=_LATE_SIGNAL,
        refuted=_LATE,
        told=(
            "A CPU has synchronized on its way into the kernel, and has not said yet that it is"
            " there, so that core syncs still leave it out.",
            "It goes on to the code that is replaced, and fetches the breakpoint there, whose"
            " handler is gone.",
        ),
        mended=_BEHIND_ENTRY,
        kind=ViolationKind.GUEST_FAULT,
    ),
    Design(
        name="one_store",
        what="one store of 8 bytes over a call",
        used="several JIT compilers, a punning library, an ahead-of-time VM",
        site=_call_to_call("one_store"),
        refuted=_SPLIT,
        told=(
            "A store of 8 bytes is one store, but no rule says that another CPU fetches all of its"
            " bytes at once.",
            "Where it does not, the CPU calls an address that has bytes of both displacements.",
        ),
        mended=_call_to_call("text_poke_bp"),
    ),
    Design(
        name="four_and_four",
        what="4 bytes at 0 and 4 bytes at 1, as a memcpy() of 5 bytes is compiled",
        used="hooking libraries that copy a jump into place",
        site=_nop_to_call("four_and_four"),
        refuted=_ALL,
        told=(
            "The copy is two stores, and the first one leaves the last byte as it was.",
            "A CPU that comes in between calls an address that is in neither instruction.",
        ),
        mended=_nop_to_call("text_poke_bp"),
    ),
    Design(
        name="one_and_four",
        what="the first byte, and then 4 bytes at 1",
        used="a small hooking library",
        site=_nop_to_call("one_and_four"),
        refuted=_ALL,
        told=(
            "The new first byte goes in before the displacement behind it.",
            "A CPU that comes in between calls an address made of the old instruction's bytes.",
        ),
        mended=_nop_to_call("text_poke_bp"),
    ),
    Design(
        name="five-nops",
        what="five no-ops of one byte become a jump behind a breakpoint (text_poke_bp)",
        used="a proposal of 2026 for uprobes; ftrace's no-op of 2008 had two parts",
        site=_to_jump("text_poke_bp", _NOPS),
        refuted=_ALL,
        told=(
            "A task is preempted behind the first of the five no-ops, and a breakpoint at the first"
            " one does not keep it out.",
            "It goes on in the middle of the jump that took the place of all five.",
        ),
        mended=_to_jump("text_poke_bp", NOP5),
    ),
    Design(
        name="five-nops-one-store",
        what="five no-ops of one byte become a jump by one store of 8 bytes",
        used="a proposal of 2026 for uprobes",
        site=_to_jump("one_store", _NOPS),
        refuted=_ALL,
        told=(
            "A task is preempted behind the first of the five no-ops, and one store replaces all.",
            "However whole the store is, the task goes on in the middle of the jump.",
        ),
        mended=_to_jump("text_poke_bp", NOP5),
    ),
    Design(
        name="uprobe_nop10_first",
        what="a no-op of 10 bytes becomes lea, call, and the whole no-op comes back",
        used="the first design of optimized uprobes of 10 bytes, 2026",
        site=_uprobe("uprobe_nop10_first"),
        refuted=_ALL,
        told=(
            "A task is preempted behind the lea and in front of the call, and the whole no-op of"
            " ten bytes comes back.",
            "The task goes on at the sixth byte of the no-op, which is no instruction of it.",
        ),
        mended=_uprobe("uprobe_nop10"),
    ),
    Design(
        name="uprobe_nop10",
        what="the same, but the way out leaves the call, as displacement bytes of the no-op",
        used="Linux as merged (554ba38456da)",
        site=_uprobe("uprobe_nop10"),
    ),
)
"""The designs, in the order of the table."""
