"""This module says which instructions ftrace locations may hold (arch/x86/kernel/ftrace.c, v6.1).

It answers to ftrace_verify_code(). What a probe puts there is in
:mod:`arch_x86.probes.ftrace_site`; whoever only asks where probes may go needs none of that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from arch_x86.isa.encode import CALL32_SIZE

if TYPE_CHECKING:
    from arch_x86.isa.insn import Insn

__all__ = ("is_patchable",)

_NOP5: Final = b"\x0f\x1f\x44\x00\x00"
_CALL, _GROUP_5, _ADDR32 = b"\xe8", b"\xff\x15", b"\x67"


def is_patchable(insn: Insn | None) -> bool:
    """Return True when ``insn`` is what an ftrace location may hold.

    That is the no-op of five bytes, or a call of ``__fentry__`` as compilers and linkers have it:
    ``call rel32``, ``call [rip + disp32]`` in position-independent code, or ``addr32 call rel32``,
    into which a linker turns the latter.
    """
    return insn is not None and (insn.raw == _NOP5 or _is_call(insn))


def _is_call(insn: Insn) -> bool:
    return (
        insn.raw[:2] == _GROUP_5
        or (insn.raw[:1] == _CALL and insn.length == CALL32_SIZE)
        or insn.raw[:2] == _ADDR32 + _CALL
    )
