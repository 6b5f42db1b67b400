"""Where a CPU goes on that hits the breakpoint over an instruction which is being replaced.

It answers to text_poke_loc_init() and poke_int3_handler() in arch/x86/kernel/alternative.c (v6.1):
the handler of the breakpoint does what the instruction would do, so the instruction has to be one
that it can do: a no-op, a relative jump, or a relative call.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from arch_x86.isa.constants import MAX_INSN_SIZE
from arch_x86.isa.decode import decode
from arch_x86.isa.insn import Branch

__all__ = ("Onward", "nop", "onward")

_NOP, _LONG_NOP = b"\x90", b"\x0f\x1f"
_REP, _REX_B = 0xF3, 1
_NOPS: Final = (
    b"\x90",
    b"\x66\x90",
    b"\x0f\x1f\x00",
    b"\x0f\x1f\x40\x00",
    b"\x0f\x1f\x44\x00\x00",
    b"\x66\x0f\x1f\x44\x00\x00",
    b"\x0f\x1f\x80\x00\x00\x00\x00",
    b"\x0f\x1f\x84\x00\x00\x00\x00\x00",
    b"\x66\x0f\x1f\x84\x00\x00\x00\x00\x00",
)
"""The no-ops of 1 to 9 bytes that the SDM recommends (volume 2, NOP)."""


class Onward(NamedTuple):
    """Where a CPU goes on.

    :ivar target: the address.
    :ivar returns: the return address that is pushed first, where the instruction is a call.
    """

    target: int
    returns: int | None


def onward(code: bytes, addr: int) -> Onward | None:
    """Return where a CPU goes on behind the first instruction of ``code``, which is at ``addr``.

    :returns: None where it is no no-op, relative jump or relative call.
    """
    insn = decode(code[:MAX_INSN_SIZE], addr)
    if insn is None:
        return None
    if insn.branch is Branch.JMP and insn.target is not None:
        return Onward(insn.target, None)
    if insn.branch is Branch.CALL and insn.target is not None:
        return Onward(insn.target, insn.end)
    plain = insn.opcode == _NOP and not insn.rex & _REX_B and _REP not in insn.prefixes
    return Onward(insn.end, None) if plain or insn.opcode == _LONG_NOP else None


def nop(size: int) -> bytes:
    """Return a no-op of ``size`` bytes: one instruction up to 9 bytes, and more behind that."""
    longest = len(_NOPS)
    whole, rest = divmod(size, longest)
    return _NOPS[-1] * whole + (_NOPS[rest - 1] if rest else b"")
