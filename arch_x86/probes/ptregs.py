"""This module has struct pt_regs (arch/x86/include/asm/ptrace.h, 64-bit).

It is the interrupted state as it lies on the guest's stack: 21 quad words, r15 at the lowest
address. A trap stub pushes them, handlers read and change them, and the stub pops them again.
"""

from __future__ import annotations

import struct
from operator import attrgetter
from typing import Final

from arch_x86.isa.constants import ADDRESS_MASK
from engine.brief import described

__all__ = ("PT_REGS_SIZE", "PtRegs")

_FIELDS: Final = (
    "r15",
    "r14",
    "r13",
    "r12",
    "bp",
    "bx",
    "r11",
    "r10",
    "r9",
    "r8",
    "ax",
    "cx",
    "dx",
    "si",
    "di",
    "orig_ax",
    "ip",
    "cs",
    "flags",
    "sp",
    "ss",
)
_all_fields: Final = attrgetter(*_FIELDS)
_LAYOUT: Final = struct.Struct("<21Q")
PT_REGS_SIZE: Final = _LAYOUT.size


class PtRegs:
    """This record has the registers by the kernel's names; each is an unsigned 64-bit integer."""

    __slots__ = _FIELDS

    r15: int
    r14: int
    r13: int
    r12: int
    bp: int
    bx: int
    r11: int
    r10: int
    r9: int
    r8: int
    ax: int
    cx: int
    dx: int
    si: int
    di: int
    orig_ax: int
    ip: int
    cs: int
    flags: int
    sp: int
    ss: int

    def __repr__(self) -> str:
        shown = ("ip", "sp", "flags", "ax", "di", "si", "dx")
        return described(
            self, *(f"{name}={getattr(self, name):#x}" for name in shown if hasattr(self, name))
        )

    @classmethod
    def unpack(cls, data: bytes) -> PtRegs:
        """Return the registers of :data:`PT_REGS_SIZE` bytes of guest memory."""
        regs = cls()
        (
            regs.r15,
            regs.r14,
            regs.r13,
            regs.r12,
            regs.bp,
            regs.bx,
            regs.r11,
            regs.r10,
            regs.r9,
            regs.r8,
            regs.ax,
            regs.cx,
            regs.dx,
            regs.si,
            regs.di,
            regs.orig_ax,
            regs.ip,
            regs.cs,
            regs.flags,
            regs.sp,
            regs.ss,
        ) = _LAYOUT.unpack(data)
        return regs

    def pack(self) -> bytes:
        """Return the registers as :data:`PT_REGS_SIZE` bytes, each cut to 64 bits."""
        values = _all_fields(self)
        try:
            return _LAYOUT.pack(*values)
        except struct.error:  # A handler has stored a negative number, or one of over 64 bits.
            return _LAYOUT.pack(*[value & ADDRESS_MASK for value in values])

    def argument(self, number: int) -> int:
        """Return integer argument ``number``, 0 to 5, at a function's entry (psABI, 3.2.3)."""
        return (self.di, self.si, self.dx, self.cx, self.r8, self.r9)[number]
