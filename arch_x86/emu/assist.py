"""Assists: instructions that the emulator runs almost right are mended by the host.

These instructions trap as the refused ones do (:mod:`arch_x86.emu.refused`).
:class:`~arch_x86.emu.cpu.Cpu` then executes the original instruction alone. A function of this
module runs around that: it prepares the registers before, and mends them afterwards.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from arch_x86.emu.alignment import GENERAL_PROTECTION, check_alignment, must_be_aligned
from arch_x86.emu.cpuid import offered
from arch_x86.emu.guards import guard_reason
from arch_x86.emu.remainder import partial_remainder
from arch_x86.emu.uc import RAX, RBX, RCX, RDX, RFLAGS, UcInstance
from arch_x86.isa.insn import Insn

__all__ = ("REFUSE", "Assist", "assist_for")

Run = Callable[[], bool]
Assist = Callable[[UcInstance, Insn, Run], int | None]
"""A function that has an instruction executed by ``run``, which returns whether it retired, and
mends the result. The function returns None, or the vector of the exception to raise instead; then
nothing is left of the execution.
"""

REFUSE: Final = 6
"""The vector (#UD) for an instruction that the assist has to refuse after all."""
_CF, _PF, _AF, _ZF, _SF, _OF = 1, 4, 0x10, 0x40, 0x80, 0x800
_CONTROL_WORD, _STATUS_WORD, _TAG_WORD = 16 * 8, 16 * 9, 16 * 10
_EMPTY: Final = 3
_FULL_PRECISION: Final = 0x300
_MXCSR: Final = 256
_REX_B, _REX_W = 1, 8
_LOW: Final = (1 << 32) - 1
_NOT_FINITE: Final = 0x7FFF
_ELEMENTS_MAX: Final = 16


def assist_for(insn: Insn) -> Assist | None:
    """Return how the guarded instruction ``insn`` can be executed, or None if it can't be."""
    if insn.vex:
        return _bmi_assist(insn)
    opcode = insn.opcode
    if opcode in (b"\xe0", b"\xe1"):
        return _loop
    if opcode in (b"\xdb", b"\xdf") and insn.mod == 3 and insn.reg in (5, 6):
        return _compare_to_flags
    if opcode == b"\xd9" and insn.modrm in (0xF1, 0xF9):
        return _logarithm
    if opcode == b"\xd9" and insn.modrm == 0xF4:
        return _extract_exponent
    if opcode == b"\xd9" and insn.modrm in (0xF5, 0xF8):
        return partial_remainder
    if opcode == b"\xd9" and insn.modrm == 0xFD:
        return _scale
    if opcode == b"\x0f\xb1" and insn.mod != 3:
        return _compare_exchange
    if opcode == b"\x0f\xa2":
        return _identify
    if opcode in (b"\x0f\x3a\x60", b"\x0f\x3a\x61"):
        return _string_compare
    if opcode == b"\x0f\xae":
        return _load_mxcsr
    return check_alignment if guard_reason(insn) is None and must_be_aligned(insn) else None


def _bmi_assist(insn: Insn) -> Assist | None:
    opcode, vex = insn.opcode[0], _Vex(insn)
    if insn.vex_map != 2 or insn.prefixes or insn.rex:
        return None
    if opcode == 0xF3 and insn.reg == 3:
        return _lowest_bit
    if opcode == 0xF5 and vex.selected == 0:
        return _zero_high_bits
    if opcode == 0xF7 and vex.selected == 0:
        return _extract_bits
    return _from_narrow_register if opcode == 0xF5 and not vex.wide and insn.mod == 3 else None


class _Vex:
    """The operands that the three bytes of a VEX prefix tell of (SDM vol. 2, 2.3.5)."""

    __slots__ = ("other", "register", "rm", "selected", "wide")

    def __init__(self, insn: Insn) -> None:
        first, second = insn.raw[1], insn.raw[2]
        self.wide = bool(second & 0x80)
        self.other = ~second >> 3 & 15
        self.selected = second & 3
        self.register = insn.reg | (~first & 0x80) >> 4
        self.rm = insn.rm | (~first & 0x20) >> 2


def _loop(_uc: UcInstance, _insn: Insn, run: Run) -> None:
    """Execute LOOPE or LOOPNE alone.

    The emulator leaves stale flags behind one that ends by its count if it executes other
    instructions together with it. Alone, the result is right.
    """
    run()


def _compare_to_flags(uc: UcInstance, insn: Insn, run: Run) -> None:
    """Execute FCOMI, FUCOMI, FCOMIP or FUCOMIP, and set the flags that the emulator gets wrong.

    OF, SF and AF become 0, and a comparison with a register that is not in use is unordered.
    """
    unordered = _is_empty(uc, 0) or _is_empty(uc, insn.rm)
    if run():
        uc.load()
        flags = uc.gpr[RFLAGS] & ~(_OF | _SF | _AF)
        uc.gpr[RFLAGS] = flags | _ZF | _PF | _CF if unordered else flags
        uc.store()


def _top(uc: UcInstance) -> int:
    return struct.unpack_from("<H", uc.extended.fpu_state(), _STATUS_WORD)[0] >> 11 & 7


def _is_empty(uc: UcInstance, position: int) -> bool:
    """Return whether the x87 register at a stack position is not in use."""
    physical = _top(uc) + position & 7
    return (
        struct.unpack_from("<H", uc.extended.fpu_state(), _TAG_WORD)[0] >> 2 * physical & 3
        == _EMPTY
    )


def _logarithm(uc: UcInstance, _insn: Insn, run: Run) -> int | None:
    """Execute FYL2X or FYL2XP1, and refuse it where the emulator has not popped.

    The processor pops always; the emulator does not where the logarithm has no value.
    """
    before = _top(uc)
    return REFUSE if run() and _top(uc) == before else None


def _extract_exponent(uc: UcInstance, _insn: Insn, run: Run) -> int | None:
    """Execute FXTRACT, but refuse it for an infinity or a NaN.

    The exponent of these is another one on a processor.
    """
    exponent = struct.unpack_from("<8xH", uc.extended.fpu_state(), 16 * _top(uc))[0]
    if exponent & _NOT_FINITE == _NOT_FINITE:
        return REFUSE
    run()
    return None


def _scale(uc: UcInstance, _insn: Insn, run: Run) -> None:
    """Execute FSCALE with full precision in the control word.

    A processor does not look at the precision for it (SDM vol. 1, 8.1.5.2); the emulator does.
    """
    control = struct.unpack_from("<H", uc.extended.fpu_state(), _CONTROL_WORD)[0]
    _set_control(uc, control | _FULL_PRECISION)
    run()
    _set_control(uc, control)


def _set_control(uc: UcInstance, control: int) -> None:
    state = bytearray(uc.extended.fpu_state())
    struct.pack_into("<H", state, _CONTROL_WORD, control)
    uc.extended.write_fpu(bytes(state))


def _identify(uc: UcInstance, _insn: Insn, run: Run) -> None:
    """Execute CPUID, and keep of the emulator's answer the features that work here."""
    uc.load()
    leaf, part = uc.gpr[RAX] & _LOW, uc.gpr[RCX] & _LOW
    if run():
        uc.load()
        registers = (RAX, RBX, RCX, RDX)
        for register, value in zip(
            registers,
            offered(leaf, part, [uc.gpr[register] for register in registers]),
            strict=True,
        ):
            uc.gpr[register] = value
        uc.store()


def _compare_exchange(uc: UcInstance, _insn: Insn, run: Run) -> None:
    """Execute CMPXCHG of 32 bits of memory, and restore RAX if the two values were equal.

    A processor changes the upper half of RAX only if it loads RAX, that is, if they are not equal.
    """
    uc.load()
    before = uc.gpr[RAX]
    if run():
        uc.load()
        if uc.gpr[RFLAGS] & _ZF:
            uc.gpr[RAX] = before
            uc.store()


def _string_compare(uc: UcInstance, insn: Insn, run: Run) -> None:
    """Execute PCMPESTRI or PCMPESTRM with lengths that the emulator takes right.

    A length counts up to the number of elements only, so it is cut to that before.
    """
    uc.load()
    lengths = uc.gpr[RAX], uc.gpr[RDX]
    uc.gpr[RAX], uc.gpr[RDX] = (
        _saturated(length, wide=bool(insn.rex & _REX_W)) for length in lengths
    )
    uc.store()
    run()
    uc.load()
    uc.gpr[RAX], uc.gpr[RDX] = lengths
    uc.store()


def _saturated(length: int, *, wide: bool) -> int:
    bits = 64 if wide else 32
    value = length & (1 << bits) - 1
    return min(value if not value >> bits - 1 else (1 << bits) - value, _ELEMENTS_MAX)


def _load_mxcsr(uc: UcInstance, _insn: Insn, run: Run) -> int | None:
    """Execute LDMXCSR or FXRSTOR, and raise #GP if reserved bits were set.

    :returns: :data:`REFUSE` where the new MXCSR asks for what the emulator lacks.
    """
    if not run():
        return None
    mxcsr = struct.unpack_from("<I", uc.extended.vector_state(), _MXCSR)[0]
    if mxcsr >> 16:
        return GENERAL_PROTECTION
    return REFUSE if mxcsr & 0x8040 or mxcsr & 0x1F80 != 0x1F80 else None


def _lowest_bit(uc: UcInstance, insn: Insn, run: Run) -> None:
    """Execute BLSI, and set CF to whether the source was not 0, which the emulator has inverted."""
    if run():
        uc.load()
        found = uc.gpr[_Vex(insn).other] != 0
        uc.gpr[RFLAGS] = uc.gpr[RFLAGS] & ~_CF | found
        uc.store()


def _zero_high_bits(uc: UcInstance, insn: Insn, run: Run) -> int | None:
    """Execute BZHI, whose result is the operand itself if the first bit is beyond the operand."""
    vex = _Vex(insn)
    bits = 64 if vex.wide else 32
    uc.load()
    first, source = uc.gpr[vex.other] & 0xFF, uc.gpr[vex.rm]
    if first >= bits and insn.mod != 3:
        return REFUSE
    if not run():
        return None
    uc.load()
    result = source & (1 << bits) - 1 if first >= bits else uc.gpr[vex.register]
    uc.gpr[vex.register] = result
    flags = uc.gpr[RFLAGS] & ~(_CF | _ZF | _SF | _OF)
    uc.gpr[RFLAGS] = flags | (first >= bits) | _ZF * (result == 0) | _SF * (result >> bits - 1)
    uc.store()
    return None


def _extract_bits(uc: UcInstance, insn: Insn, run: Run) -> int | None:
    """Execute BEXTR, which the emulator can do for at most all bits but one.

    For an operand of 32 bits, :func:`_from_narrow_register` applies as well.
    """
    vex = _Vex(insn)
    bits = 64 if vex.wide else 32
    uc.load()
    source, first, count = uc.gpr[vex.rm], uc.gpr[vex.other] & 0xFF, uc.gpr[vex.other] >> 8 & 0xFF
    if first > 0 or count < bits:
        if vex.wide or insn.mod != 3:
            run()
        else:
            _from_narrow_register(uc, insn, run)
        return None
    if insn.mod != 3:
        return REFUSE
    if run():
        uc.load()
        result = uc.gpr[vex.register] = source & (1 << bits) - 1
        uc.gpr[RFLAGS] = uc.gpr[RFLAGS] & ~(_CF | _ZF | _OF) | _ZF * (result == 0)
        uc.store()
    return None


def _from_narrow_register(uc: UcInstance, insn: Insn, run: Run) -> None:
    """Execute BEXTR, PDEP or PEXT of 32 bits with the upper half of the source register set to 0.

    The emulator uses that half, too; a processor does not.
    """
    vex = _Vex(insn)
    uc.load()
    source = uc.gpr[vex.rm]
    uc.gpr[vex.rm] = source & _LOW
    uc.store()
    retired = run()
    if not retired or vex.rm != vex.register:
        uc.load()
        uc.gpr[vex.rm] = source
        uc.store()
