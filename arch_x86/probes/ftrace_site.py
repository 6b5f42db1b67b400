"""Ftrace locations: what stands there, and what ftrace writes over it for a probe. Answers to
ftrace_modify_code_direct() and ftrace_replace_code() (arch/x86/kernel/ftrace.c, v6.1) and to
arch_prepare_kprobe_ftrace() (arch/x86/kernel/kprobes/ftrace.c).

A kernel turns each ``call __fentry__`` into a 5-byte no-op when it loads code; a probe then turns
the no-op into a call of a trampoline and back. Here code runs as the image has it, so what stands
at the site while no probe is armed there is what the image has: the no-op, or the call of
``__fentry__``, which comes back at once. While a probe is armed the call of the trampoline stands
there, in as many bytes, as one instruction, since a task may be about to return behind it when the
original comes back. All of it is written by ``text_poke_bp``: whoever meets the breakpoint that
stands there meanwhile goes on as if the new instruction had been executed (poke_int3_handler).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from arch_x86.isa.encode import CALL32_SIZE, call32
from arch_x86.text.poke import TextPokeParam

if TYPE_CHECKING:
    from collections.abc import Callable

    from arch_x86.isa.insn import Insn

__all__ = ("FTRACE_SIZE_MAX", "FtraceInsn", "ftrace_insn", "is_patchable")

FTRACE_SIZE_MAX: Final = 6
"""Bytes of the longest instruction that ftrace replaces here."""

_NOP5: Final = b"\x0f\x1f\x44\x00\x00"
_CALL, _GROUP_5, _ADDR32 = b"\xe8", b"\xff\x15", b"\x67"


def is_patchable(insn: Insn | None) -> bool:
    """``insn`` is what an ftrace location may hold: the no-op of five bytes, or a call of
    ``__fentry__`` as compilers and linkers have it (``call rel32``, ``call [rip + disp32]`` in
    position-independent code, ``addr32 call rel32`` where the linker knew better).
    """
    return insn is not None and (insn.raw == _NOP5 or _is_call(insn))


def _is_call(insn: Insn) -> bool:
    return (
        insn.raw[:2] == _GROUP_5
        or (insn.raw[:1] == _CALL and insn.length == CALL32_SIZE)
        or insn.raw[:2] == _ADDR32 + _CALL
    )


@dataclass(frozen=True, slots=True)
class FtraceInsn:
    """What a probe on an ftrace location has in place of a copy: the ``insn`` there, and the
    ``call`` of ``trampoline`` that takes its place. The kernel has nothing there, ``p->ainsn.insn``
    is NULL.

    ``boostable`` and ``slot`` are as of any probe's ``ainsn``: there is no copy.
    """

    insn: Insn
    call: bytes
    trampoline: int

    @property
    def boostable(self) -> bool:
        """There is no copy that could end in a jump back."""
        return False

    @property
    def slot(self) -> int:
        """There is none."""
        return 0

    @property
    def end(self) -> int:
        """Where the trampoline returns to."""
        return self.insn.end

    def arming(self) -> TextPokeParam:
        """The call goes in."""
        at = self.insn.addr
        return TextPokeParam(at, self.call, f"ftrace: arm {at:#x}", self.trampoline, self.end)

    def disarming(self, read_u64: Callable[[int], int | None]) -> TextPokeParam:
        """The original comes back. ``read_u64`` gives the word at an address, since the original
        may call through one; where that is not mapped, so that the call would fault, whoever comes
        goes on behind it.
        """
        insn = self.insn
        target = insn.target
        if target is None and insn.memory_address is not None:
            target = read_u64(insn.memory_address)
        reason = f"ftrace: disarm {insn.addr:#x}"
        if target is None:
            return TextPokeParam(insn.addr, insn.raw, reason, self.end)
        return TextPokeParam(insn.addr, insn.raw, reason, target, self.end)


def ftrace_insn(insn: Insn, trampoline: int) -> FtraceInsn:
    """The record for a probe on ``insn``, which :func:`is_patchable`.

    :raises RelativeRangeError: ``trampoline`` is out of reach.
    """
    # without a meaning in a relative call, but for its length
    prefix = _ADDR32[: insn.length - CALL32_SIZE]
    return FtraceInsn(insn, prefix + call32(insn.addr + len(prefix), trampoline), trampoline)
