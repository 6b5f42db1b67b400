"""This module says which instructions are emulated: prepare_emulation() (core.c, since v5.13).

The kernel's file is arch/x86/kernel/kprobes/core.c. Since v5.13 a probe steps by an INT3 behind the
copy. So whatever does not arrive there has to be emulated, and what the kernel cannot emulate
cannot be probed.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from arch_x86.isa.constants import ADDRESS_SIZE_PREFIX
from arch_x86.isa.insn import QUIRKS_6_1, Insn, KernelQuirks

__all__ = ("Emulation", "emulation_of", "is_unsupported")


class Emulation(StrEnum):
    """This enumeration says how Linux 6.1 emulates an instruction."""

    CALL = "call"
    CALL_INDIRECT = "call_indirect"
    JMP = "jmp"
    JMP_INDIRECT = "jmp_indirect"
    JCC = "jcc"
    LOOP = "loop"
    RET = "ret"
    IF_MODIFIERS = "ifmodifiers"


_BY_OPCODE: Final[dict[int, Emulation]] = {
    **dict.fromkeys(range(0x70, 0x80), Emulation.JCC),
    **dict.fromkeys((0x9C, 0x9D, 0xFA, 0xFB), Emulation.IF_MODIFIERS),  # PUSHF, POPF, CLI, STI
    # 6.1 takes far returns for near ones, so they lose their CS.
    **dict.fromkeys((0xC2, 0xC3, 0xCA, 0xCB), Emulation.RET),
    **dict.fromkeys(range(0xE0, 0xE4), Emulation.LOOP),
    0xE8: Emulation.CALL,
    **dict.fromkeys((0xE9, 0xEB), Emulation.JMP),
}
_UNSUPPORTED: Final = frozenset((0x9A, 0xCF, 0xEA))  # CALL far, IRET, JMP far
_GROUP_5: Final = 0xFF
_VM_GROUP: Final = b"\x0f\x01"


def emulation_of(insn: Insn, quirks: KernelQuirks = QUIRKS_6_1) -> Emulation | None:
    """Return how Linux 6.1 emulates ``insn``.

    It is None where the instruction is stepped, and where it cannot be probed
    (:func:`is_unsupported`).
    """
    if insn.vex and not quirks.vex_as_legacy:
        return None
    opcode = insn.opcode
    if len(opcode) == 1:
        if opcode[0] == _GROUP_5:
            return (
                None
                if is_unsupported(insn)
                else {2: Emulation.CALL_INDIRECT, 4: Emulation.JMP_INDIRECT}.get(insn.reg)
            )
        return _BY_OPCODE.get(opcode[0])
    if len(opcode) == 2 and opcode[1] & 0xF0 == 0x80:
        return Emulation.JCC
    return None


def is_unsupported(insn: Insn, quirks: KernelQuirks = QUIRKS_6_1) -> bool:
    """Return True when ``insn`` would have to be emulated and Linux 6.1 cannot do it (-EOPNOTSUPP).

    These are far branches, IRET, near indirect branches through memory or with 32-bit addresses,
    and ``0f 01 c0`` to ``c7`` (VMCALL ...).
    """
    if insn.vex and not quirks.vex_as_legacy:
        return False
    opcode = insn.opcode
    if len(opcode) == 1:
        if opcode[0] == _GROUP_5:
            if insn.reg not in (2, 3, 4, 5):
                return False
            return insn.reg in (3, 5) or insn.mod != 3 or ADDRESS_SIZE_PREFIX in insn.prefixes
        return opcode[0] in _UNSUPPORTED
    return opcode == _VM_GROUP and insn.mod == 3 and insn.reg == 0
