"""Where a CPU goes on that hits the breakpoint over an instruction which is being replaced.

It answers to text_poke_loc_init() and poke_int3_handler() in arch/x86/kernel/alternative.c (v6.3):
the handler of the breakpoint does what the instruction would do, so the instruction has to be one
that it can do: a no-op, a relative jump or call, a conditional jump, or a return. A static call
that returns 0 is an ``xor`` in the text, in whose place the handler makes the call.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from arch_x86.isa.constants import MAX_INSN_SIZE
from arch_x86.isa.decode import decode
from arch_x86.isa.insn import Branch

__all__ = ("RETURN_0", "Onward", "nop", "onward")

_NOP, _LONG_NOP = b"\x90", b"\x0f\x1f"
_REP, _REX_B = 0xF3, 1
_RET = b"\xc3"
_CONDITION: Final = 15
"""The bits of a conditional jump's last opcode byte that are its condition."""
RETURN_0: Final = b"\x2e\x2e\x2e\x31\xc0"
"""``cs cs cs xor eax, eax``, one instruction of as many bytes as a call (static_call.c, v5.18)."""
_RETURNS_0: Final = (RETURN_0, b"\x66\x66\x48\x31\xc0")
"""That instruction, and ``data16 data16 xor rax, rax``, which v5.12 to v5.17 have in its place."""
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

    :ivar target: the address; of a conditional jump, the address that it leads to; None: the
        address is on the stack, since the instruction is a return.
    :ivar returns: the return address that is pushed first, where the instruction is a call.
    :ivar condition: the condition of a conditional jump, 0 to 15 (SDM vol. 1, appendix B); None:
        the instruction is none.
    :ivar behind: the address behind a conditional jump, where a CPU goes on if the condition does
        not hold.
    """

    target: int | None
    returns: int | None
    condition: int | None = None
    behind: int | None = None


def onward(code: bytes, addr: int, return0: int | None = None) -> Onward | None:
    """Return where a CPU goes on behind the first instruction of ``code``, which is at ``addr``.

    :param return0: the address of ``__static_call_return0()``, which a CPU calls in place of the
        ``xor`` of a static call that returns 0; None: there is no such function.
    :returns: None where the instruction is none that the handler of the breakpoint can do.
    """
    if return0 is not None and code.startswith(_RETURNS_0):
        return Onward(return0, addr + len(RETURN_0))
    insn = decode(code[:MAX_INSN_SIZE], addr)
    if insn is None:
        return None
    if insn.branch is Branch.JMP and insn.target is not None:
        return Onward(insn.target, None)
    if insn.branch is Branch.CALL and insn.target is not None:
        return Onward(insn.target, insn.end)
    if insn.branch is Branch.JCC and insn.target is not None:
        return Onward(insn.target, None, insn.opcode[-1] & _CONDITION, insn.end)
    if insn.raw == _RET:
        return Onward(None, None)
    plain = insn.opcode == _NOP and not insn.rex & _REX_B and _REP not in insn.prefixes
    return Onward(insn.end, None) if plain or insn.opcode == _LONG_NOP else None


def nop(size: int) -> bytes:
    """Return a no-op of ``size`` bytes: one instruction up to 9 bytes, and more behind that."""
    longest = len(_NOPS)
    whole, rest = divmod(size, longest)
    return _NOPS[-1] * whole + (_NOPS[rest - 1] if rest else b"")
