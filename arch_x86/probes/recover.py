"""This module gives text without probes: recover_probed_instruction() (arch/x86/kernel/kprobes).

It answers also to __recover_optprobed_insn(). All code that decodes a function must see the
original bytes, also where probes stand in it.

What the text holds decides, not a probe's state: a breakpoint at a first byte, a jump, and what
lies between the two while one is being turned into the other. Where ftrace writes for a probe, the
original is known as long as the probe is in the table.
"""

from __future__ import annotations

from collections.abc import Callable

from arch_x86.isa.constants import (
    ADDRESS_SIZE_PREFIX,
    CALL32_OPCODE,
    INT3_OPCODE,
    JMP32_OPCODE,
    JMP32_SIZE,
)
from arch_x86.probes.ftrace_site import FTRACE_SIZE_MAX, FtraceInsn
from arch_x86.probes.records import Ainsn, OptInsn
from arch_x86.text.space import TextSpace
from engine.kprobe import AggrKprobe, Kprobe

__all__ = ("recover",)

_STARTS = frozenset((INT3_OPCODE, JMP32_OPCODE, CALL32_OPCODE, ADDRESS_SIZE_PREFIX))
"""A probe's bytes begin with one of these, as a breakpoint, a jump or a call does."""


def recover(
    text: TextSpace,
    lookup: Callable[[int], Kprobe | None],
    addr: int,
    size: int,
    *,
    jumps: bool = True,
    queued: bool = True,
) -> bytes:
    """Return ``size`` bytes of the current text at ``addr`` with all probes taken out.

    They are fewer where the text ends.

    :param lookup: returns the probe in the table at an address (get_kprobe).
    :param jumps: take out jumps, too (86b4ce3156c0); else only breakpoints.
    :param queued: take out the jump of a probe, too, that waits to be undone (868a6fc0ca24).
    """
    # A jump or call that starts in front of ``addr`` may reach into the bytes there.
    before = FTRACE_SIZE_MAX - 1
    while before and not text.covers(addr - before, 1):
        before -= 1
    data = bytearray(text.read(addr - before, before + size + JMP32_SIZE - 1))
    start = addr - before
    for offset in range(min(before + size, len(data))):
        if data[offset] in _STARTS:
            p = lookup(start + offset)
            if p is not None and p.ainsn is not None:
                _take_out(data, offset, p, jumps=jumps, queued=queued)
    return bytes(data[before : before + size])


def _take_out(data: bytearray, offset: int, p: Kprobe, *, jumps: bool, queued: bool) -> None:
    """Put the original bytes in the place of those of probe ``p``, which start at ``data[offset]``.

    A jump is known by its displacement, for its first byte is a breakpoint while the jump is being
    written or undone. A kernel without 868a6fc0ca24 (``queued`` is False) leaves the displacement
    of a jump that waits to be undone.
    """
    ainsn: Ainsn | FtraceInsn = p.ainsn
    if isinstance(ainsn, FtraceInsn):
        original = ainsn.insn.raw[: len(data) - offset]
        data[offset : offset + len(original)] = original
        return
    if jumps and isinstance(p, AggrKprobe) and p.optinsn is not None:
        optinsn: OptInsn = p.optinsn
        tail = bytes(data[offset + 1 : offset + JMP32_SIZE])
        if tail == optinsn.jump[1 : 1 + len(tail)]:
            if queued or not p.queued:
                data[offset + 1 : offset + JMP32_SIZE] = optinsn.original[1 : 1 + len(tail)]
            data[offset] = ainsn.opcode[0]
    if data[offset] == INT3_OPCODE:
        data[offset] = ainsn.opcode[0]
