"""Where a probe may go. Answers to check_kprobe_address_safe() (kernel/kprobes.c) and
arch_prepare_kprobe() (arch/x86), in 6.1's order.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from arch_x86.probes.areas import copies_reach, lies_in_reach
from arch_x86.probes.ftrace_site import is_patchable
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
    """Why no probe goes somewhere: the closed list."""

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
    """``errno``: 0 when a probe goes there, else what register_kprobe() returns, positive."""

    errno: int
    reason: ProbeRefusal | None

    def __bool__(self) -> bool:
        return self.errno == 0


OK: Final = Verdict(0, None)

# all others: EINVAL
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
"""ENDBR64, ENDBR32, and the no-op that a kernel puts over those that nothing jumps to."""
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
    """Whether register_kprobe() takes ``addr``, and why not. Says nothing about other probes."""
    return can_probe_address(cache, addr) and can_probe_instruction(cache, addr)


def can_probe_address(cache: CodeCache, addr: int) -> Verdict:
    """The part of :func:`can_probe` that does not look at the text, so that it may be asked while
    somebody writes to it: is it text, and nobody else's (check_kprobe_address_safe).
    """
    image = cache.image
    if not image.is_text(addr):
        return _REFUSED[
            ProbeRefusal.NOT_MAPPED if image.segment_at(addr) is None else ProbeRefusal.NOT_TEXT
        ]
    return _REFUSED[_owner(cache, addr)] if addr in cache.off_limits else OK


def can_probe_instruction(cache: CodeCache, addr: int) -> Verdict:
    """The part that decodes the function from its start, and must not meet half-written text
    (arch_prepare_kprobe).
    """
    reason = _refusal(cache, addr)
    return OK if reason is None else _REFUSED[reason]


def is_ftrace_site(cache: CodeCache, addr: int) -> bool:
    """True when the probe at ``addr`` is made of ftrace (KPROBE_FLAG_FTRACE): no breakpoint, no
    slot, no optimization.
    """
    return addr in cache.ftrace_sites


def entry_offset(cache: CodeCache, addr: int) -> int:
    """How far behind ``addr`` a probe there goes: 4, if that is a function's first byte, and an
    ENDBR in an image for a kernel with IBT.

    Answers to arch_adjust_kprobe_addr() (arch/x86/kernel/kprobes/core.c, since v5.18).
    """
    if not cache.image.ibt or cache.read(addr, _ENDBR_SIZE) not in _ENDBR:
        return 0
    function = cache.function_at(addr)
    return _ENDBR_SIZE if function is not None and function.start == addr else 0


def _refusal(cache: CodeCache, addr: int) -> ProbeRefusal | None:
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
    """Whose the off-limits text at ``addr`` is, in the order in which 6.1 asks."""
    if addr in cache.blacklist:
        return ProbeRefusal.BLACKLISTED
    return next(reason for kind, reason in _RESERVED if addr in cache.reserved[kind])
