"""This module says where a probe may go: check_kprobe_address_safe() (kernel/kprobes.c, v6.1).

It answers also to arch_prepare_kprobe() (arch/x86/kernel/kprobes/core.c). The order of the
questions is that of Linux 6.1, for it decides which error is returned where several reasons hold.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from arch_x86.probes.areas import copies_reach, lies_in_reach
from arch_x86.probes.ftrace_location import is_patchable
from arch_x86.probes.prepare_emulation import is_unsupported
from arch_x86.probes.relocate import CopyRefusal, copy_refusal
from arch_x86.probes.slot import fits_slot
from engine.image import ReservedKind

if TYPE_CHECKING:
    from arch_x86.probes.code import CodeCache

__all__ = (
    "OK",
    "ProbeRefusal",
    "Verdict",
    "can_probe",
    "can_probe_address",
    "can_probe_instruction",
    "entry_offset",
    "is_ftrace_site",
)


class ProbeRefusal(StrEnum):
    """A refusal says why no probe goes to an address; this is the closed list of reasons."""

    NOT_MAPPED = "not-mapped"
    NOT_TEXT = "not-text"
    BLACKLISTED = "blacklisted"
    JUMP_LABEL = "jump-label"
    STATIC_CALL = "static-call"
    BUG_ENTRY = "bug-entry"
    ALTERNATIVES = "alternatives"
    NO_FUNCTION = "no-function"
    NOT_BOUNDARY = "not-boundary"
    UNDECODABLE_BEFORE = "undecodable-before"
    UNDECODABLE = "undecodable"
    FORCED_EMULATION = "forced-emulation"
    BREAKPOINT = "breakpoint"
    STACK_SEGMENT = "stack-segment"
    OUT_OF_REACH = "out-of-reach"
    NOT_EMULATED = "not-emulated"
    NO_ROOM = "no-room-in-slot"
    NOT_FTRACE = "no-ftrace-call"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verdict says whether a probe may go to an address; it is true when one may.

    :ivar errno: 0 when a probe may go there, or the positive number of the error that
        register_kprobe() returns.
    :ivar reason: why no probe may go there, or None.
    """

    errno: int
    reason: ProbeRefusal | None

    def __bool__(self) -> bool:
        return self.errno == 0


OK: Final = Verdict(0, None)

# All other reasons are EINVAL.
_ERRNO: Final = {
    ProbeRefusal.NOT_MAPPED: errno.ENOENT,
    ProbeRefusal.NO_FUNCTION: errno.EILSEQ,
    ProbeRefusal.NOT_BOUNDARY: errno.EILSEQ,
    ProbeRefusal.UNDECODABLE_BEFORE: errno.EILSEQ,
    ProbeRefusal.NOT_EMULATED: errno.EOPNOTSUPP,
    ProbeRefusal.NO_ROOM: errno.ENOSPC,
    ProbeRefusal.NOT_FTRACE: errno.ENODEV,
}
_REFUSED: Final = {
    reason: Verdict(_ERRNO.get(reason, errno.EINVAL), reason) for reason in ProbeRefusal
}
_ENDBR: Final = (b"\xf3\x0f\x1e\xfa", b"\xf3\x0f\x1e\xfb", b"\x66\x0f\x1f\x00")
"""These bytes are ENDBR64, ENDBR32, and a no-op.

A kernel puts the no-op over an ENDBR that no indirect jump or call leads to.
"""
_ENDBR_SIZE: Final = 4
_RESERVED: Final = (
    (ReservedKind.JUMP_LABEL, ProbeRefusal.JUMP_LABEL),
    (ReservedKind.STATIC_CALL, ProbeRefusal.STATIC_CALL),
    (ReservedKind.BUG, ProbeRefusal.BUG_ENTRY),
    (ReservedKind.ALTERNATIVES, ProbeRefusal.ALTERNATIVES),
)
_COPY: Final = {
    CopyRefusal.FORCED_EMULATION: ProbeRefusal.FORCED_EMULATION,
    CopyRefusal.BREAKPOINT: ProbeRefusal.BREAKPOINT,
    CopyRefusal.STACK_SEGMENT: ProbeRefusal.STACK_SEGMENT,
}


def can_probe(cache: CodeCache, addr: int) -> Verdict:
    """Return whether register_kprobe() takes ``addr``, and if not, why.

    Other probes are not considered.
    """
    return can_probe_address(cache, addr) and can_probe_instruction(cache, addr)


def can_probe_address(cache: CodeCache, addr: int) -> Verdict:
    """Return whether ``addr`` is text that nobody else patches (check_kprobe_address_safe).

    This half of :func:`can_probe` does not look at the text, so it may be asked while a poke
    protocol writes there.
    """
    image = cache.image
    if not image.is_text(addr):
        return _REFUSED[
            ProbeRefusal.NOT_MAPPED if image.segment_at(addr) is None else ProbeRefusal.NOT_TEXT
        ]
    return _REFUSED[_owner(cache, addr)] if addr in cache.off_limits else OK


def can_probe_instruction(cache: CodeCache, addr: int) -> Verdict:
    """Return whether the instruction at ``addr`` can be probed (arch_prepare_kprobe).

    This half of :func:`can_probe` decodes the function from its start, so it must not meet text
    that is half written.
    """
    reason = _refusal(cache, addr)
    return OK if reason is None else _REFUSED[reason]


def is_ftrace_site(cache: CodeCache, addr: int) -> bool:
    """Return True when ``addr`` is an ftrace location, so that its probe uses ftrace.

    Such a probe has the flag KPROBE_FLAG_FTRACE, but no breakpoint, no slot and no detour buffer.
    """
    return addr in cache.ftrace_sites


def entry_offset(cache: CodeCache, addr: int) -> int:
    """Return how many bytes behind ``addr`` a probe there goes.

    It is 4 for an ENDBR at a function's start. It is 0 everywhere else, and in images that are not
    for a kernel with IBT. Answers to arch_adjust_kprobe_addr() (arch/x86/kernel/kprobes/core.c,
    since v5.18).
    """
    if not cache.image.ibt or cache.read(addr, _ENDBR_SIZE) not in _ENDBR:
        return 0
    function = cache.function_at(addr)
    return _ENDBR_SIZE if function is not None and function.start == addr else 0


def _refusal(cache: CodeCache, addr: int) -> ProbeRefusal | None:
    """Return why the instruction at ``addr`` cannot be probed, or None.

    The order is the kernel's: __copy_instruction(), which asks for the reach of a RIP-relative
    operand, comes before prepare_emulation(), and room in the slot is asked for last.
    """
    if is_ftrace_site(cache, addr):
        if not is_patchable(cache.insn_at(addr)):
            return ProbeRefusal.NOT_FTRACE
        return None if lies_in_reach(addr, cache.areas.stubs) else ProbeRefusal.OUT_OF_REACH
    function = cache.function_at(addr)
    if function is None:
        return ProbeRefusal.NO_FUNCTION
    insn = function.insns.get(addr - function.start)
    if insn is None:
        if addr - function.start < function.decoded_size:
            return ProbeRefusal.NOT_BOUNDARY
        return (
            ProbeRefusal.UNDECODABLE
            if addr - function.start == function.decoded_size
            else ProbeRefusal.UNDECODABLE_BEFORE
        )
    refused = copy_refusal(insn)
    if refused is not None:
        return _COPY[refused]
    if not copies_reach((insn,), cache.areas.slots):
        return ProbeRefusal.OUT_OF_REACH
    if is_unsupported(insn, cache.quirks):
        return ProbeRefusal.NOT_EMULATED
    return None if fits_slot(insn) else ProbeRefusal.NO_ROOM


def _owner(cache: CodeCache, addr: int) -> ProbeRefusal:
    """Return why the off-limits text at ``addr`` takes no probe, asked in the order of 6.1."""
    if addr in cache.blacklist:
        return ProbeRefusal.BLACKLISTED
    return next(reason for kind, reason in _RESERVED if addr in cache.reserved[kind])
