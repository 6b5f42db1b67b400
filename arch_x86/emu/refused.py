"""Refused instructions: Unicorn 2.1.4 runs them otherwise than a processor, or ends its process.

Each rule was found by the records of a real processor (``tests/hardware``). Differences in status
that nothing computes with are not refused but listed in docs/processor.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import permutations
from typing import Final

from arch_x86.isa.insn import Insn

__all__ = ("ENDS_PROCESS", "RULES", "SSE4A", "SUSPECT", "UNKNOWN", "wrong_reason")

_PREFIX: Final = rb"[\x26\x2e\x36\x3e\x64-\x67\xf0\xf2\xf3\x40-\x4f]*"
_PREFIX_MORE: Final = rb"[\x26\x2e\x36\x3e\x64-\x67\xf0\xf2\xf3]*"
SUSPECT: Final = b"|".join(
    (
        rb"[\x40-\x4f][\x9e\x9f]",  # LAHF, SAHF
        rb"[\xc0\xc1][\x10-\x1f\x50-\x5f\x90-\x9f\xd0-\xdf]",  # RCL, RCR
        rb"[\x8f\xc6\xc7][\x08-\x3f\x48-\x7f\x88-\xbf\xc8-\xff]",
        rb"\xd9[\xd8-\xdf\xf1\xf4\xf5\xf8\xf9\xfd]|[\xdb\xdd][\x08-\x0f\x48-\x4f\x88-\x8f]",
        rb"\xdf[\x30-\x37\x70-\x77\xb0-\xb7]|[\xdb\xdf][\xe8-\xf7]",
        rb"\x0f\xae[\x08-\x17\x48-\x57\x88-\x97]",
        rb"[\x6c-\x6f\xe0\xe1\xe4-\xe7\xec-\xef]",
        rb"\x0f[\x00\x01]"
        rb"[\x10-\x1f\x30-\x37\x50-\x5f\x70-\x77\x90-\x9f\xb0-\xb7\xd0-\xdf\xf0-\xf7]",
        rb"\x0f[\x06\x07\x0f\x22\x23\x2b\x30\x33\x35\x78\x79\xa2\xa4\xa5\xac\xad\xb1]",
        rb"\x0f\x38[\x00-\x0b\x1c-\x1e]|\x0f\x3a[\x0f\x60\x61]",
        rb"\xf0"
        + _PREFIX
        + rb"(?:[\x00-\x0e\x10-\x25\x27-\x2d\x2f-\x35\x37-\x3d\x3f]"
        + rb"|[\x50-\x63\x68-\xef\xf1\xf4-\xff]|\x0f)",
        rb"(?:"
        + b"|".join(
            one + _PREFIX_MORE + other
            for one, other in permutations((rb"\x66", rb"\xf2", rb"\xf3"), 2)
        )
        + rb")"
        + _PREFIX
        + rb"[\x0f\xa4-\xa7\xaa-\xaf]",
        rb"[\x40-\x4f][\x26\x2e\x36\x3e\x64-\x67\xf0\xf2\xf3]",
        rb"[\x64\x65]"
        + _PREFIX_MORE
        + rb"[\x26\x2e\x36\x3e\x64\x65]|[\x26\x2e\x36\x3e]"
        + _PREFIX_MORE
        + rb"[\x64\x65]",
    )
)
"""A regular expression of bytes for what could start a refused instruction; a dot stands for any
byte. VEX instructions are not in it, since all of them are decoded anyway.
"""

_LOCK, _OPERAND, _REPNE, _REP = 0xF0, 0x66, 0xF2, 0xF3
_MANDATORY: Final = frozenset({_OPERAND, _REPNE, _REP})
_SEGMENTS: Final = frozenset({0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65})
_FS_GS: Final = frozenset({0x64, 0x65})
_REX_W, _REX_R, _REX_B = 8, 4, 1
_BIT_TESTS: Final = frozenset(bytes((0x0F, opcode)) for opcode in (0xA3, 0xAB, 0xB3, 0xBA, 0xBB))
_STRING: Final = frozenset(bytes((opcode,)) for opcode in (*range(0xA4, 0xA8), *range(0xAA, 0xB0)))
_POPCNT: Final = b"\x0f\xb8"
_BIT_COUNTS: Final = frozenset({_POPCNT, b"\x0f\xbc", b"\x0f\xbd"})
_CRC32: Final = frozenset({b"\x0f\x38\xf0", b"\x0f\x38\xf1"})
# The opcodes of the 0F map whose meaning a mandatory prefix selects: SSE and MMX.
_SELECTED: Final = frozenset(
    (
        *range(0x10, 0x18),
        *range(0x28, 0x30),
        *range(0x50, 0x80),
        0xC2,
        *range(0xC4, 0xC7),
        *range(0xD0, 0xFF),
    )
)
_WRONGLY: Final = "which the emulator runs wrongly"
ENDS_PROCESS: Final = "LOCK before a bit test of a register, which is no instruction"
"""The reason to refuse instructions that end the process as soon as they are translated."""
SSE4A: Final = f"SSE4a, {_WRONGLY}"
"""The reason to refuse EXTRQ, INSERTQ and the scalar MOVNTs."""
UNKNOWN: Final = re.compile(_PREFIX_MORE + rb"[\x40-\x4f]?\x0f(?:\x78...|\x79.)", re.DOTALL)
"""The encodings of EXTRQ and INSERTQ, which the kernel's decoder takes for EVEX instructions
without EVEX and refuses.
"""
_NOTHING: Final = "an encoding that is no instruction"


def wrong_reason(insn: Insn) -> str | None:
    """Return why ``insn`` can't be left to the emulator, or None when it can be.

    The words of the reason go on behind "uses".
    """
    if insn.vex:
        return _bmi(insn)
    if insn.prefixes:
        reason = _by_prefixes(insn)
        if reason is not None:
            return reason
    rule = RULES.get(insn.opcode)
    return None if rule is None else rule(insn)


def _by_prefixes(insn: Insn) -> str | None:
    prefixes = set(insn.prefixes)
    if _LOCK in prefixes and (insn.modrm is None or insn.mod == 3):
        return (
            ENDS_PROCESS
            if insn.opcode in _BIT_TESTS
            else "LOCK without a memory operand, which is no instruction"
        )
    if _LOCK in prefixes and insn.opcode in (b"\xf6", b"\xf7") and insn.reg == 3:
        return f"LOCK before NEG, {_WRONGLY}"
    if _OPERAND in prefixes and insn.opcode == _POPCNT and insn.rex & _REX_W:
        return f"POPCNT of 64 bits behind an operand-size prefix, {_WRONGLY}"
    segments = _SEGMENTS & prefixes
    if len(segments) > 1 and segments & _FS_GS:
        return "two segment prefixes, which processors and the emulator read differently"
    if _REP in prefixes and _REPNE in prefixes and insn.opcode in _STRING | _BIT_COUNTS:
        return "REP and REPNE at once, which processors and the emulator read differently"
    if len(_MANDATORY & prefixes) > 1:
        opcode = insn.opcode
        if (len(opcode) == 2 and opcode[1] in _SELECTED) or (
            len(opcode) == 3 and opcode not in _CRC32
        ):
            return f"two mandatory prefixes, {_WRONGLY}"
    return None


def _bmi(insn: Insn) -> str | None:
    """Return why an instruction of BMI1 or BMI2 is refused, or None when it is not."""
    payload = insn.raw[len(insn.prefixes) + 2]
    wide, selected, opcode = payload & 0x80, payload & 3, insn.opcode[0]
    if insn.prefixes or insn.rex:
        return "a prefix before VEX, which is no instruction"
    if opcode == 0xF5 and selected == 0:
        return f"BZHI from a bit that is not there, {_WRONGLY}"
    if opcode == 0xF5 and not wide and insn.mod == 3:
        return f"PDEP or PEXT of 32 bits, {_WRONGLY}"
    if opcode == 0xF7 and selected == 0:
        return f"BEXTR of as many bits as there are, {_WRONGLY}"
    if opcode == 0xF3 and insn.reg == 3:
        return f"BLSI, {_WRONGLY}"
    if opcode == 0xF0 and insn.rip_relative:
        return f"RORX with an operand relative to RIP, {_WRONGLY}"
    return None


def _flags_with_rex(insn: Insn) -> str | None:
    return f"LAHF or SAHF behind a REX prefix, {_WRONGLY}" if insn.rex else None


def _rotate_through_carry(insn: Insn) -> str | None:
    if insn.reg not in (2, 3):
        return None
    bits = (
        9
        if insn.opcode == b"\xc0"
        else 17
        if _OPERAND in insn.prefixes and not insn.rex & _REX_W
        else 0
    )
    count = insn.immediate & 31
    return (
        f"RCL or RCR all the way around, {_WRONGLY}"
        if bits and count and count % bits == 0
        else None
    )


def _first_of_group(insn: Insn) -> str | None:
    return None if insn.reg == 0 else _NOTHING


def _double_shift(insn: Insn) -> str | None:
    by_immediate = insn.opcode[1] in (0xA4, 0xAC)
    if by_immediate and insn.rip_relative:
        return f"SHLD or SHRD with an operand relative to RIP, {_WRONGLY}"
    if (
        _OPERAND in insn.prefixes
        and not insn.rex & _REX_W
        and not (by_immediate and insn.immediate & 31 <= 16)
    ):
        return "SHLD or SHRD of 16 bits by more, which processors leave undefined"
    return None


def _compare_exchange(insn: Insn) -> str | None:
    narrow = _OPERAND in insn.prefixes or insn.rex & _REX_W
    return None if narrow else f"CMPXCHG of 32 bits, {_WRONGLY}"


def _horizontal(insn: Insn) -> str | None:
    if _OPERAND not in insn.prefixes:
        return f"SSSE3 on MMX registers, {_WRONGLY}"
    same = (
        insn.mod == 3 and insn.reg | (insn.rex & _REX_R) << 1 == insn.rm | (insn.rex & _REX_B) << 3
    )
    return (
        f"PHADD or PHSUB of a register with itself, {_WRONGLY}"
        if same and insn.opcode[2] in _ADD_OR_SUBTRACT
        else None
    )


def _descriptor_table(insn: Insn) -> str | None:
    group_7 = insn.opcode[1] == 1
    changes = (insn.reg in (2, 3) and (insn.mod != 3 or not group_7)) or (insn.reg == 6 and group_7)
    return "a load of a system register, which would change the machine itself" if changes else None


def _store_scalar(insn: Insn) -> str | None:
    return SSE4A if {_REPNE, _REP} & set(insn.prefixes) else None


def _escape_7(insn: Insn) -> str | None:
    if insn.mod != 3:
        return f"FBSTP, {_WRONGLY}" if insn.reg == 6 else None
    return _COMPARE if insn.reg in (5, 6) else None


def _escape_3(insn: Insn) -> str | None:
    return _COMPARE if insn.mod == 3 and insn.reg in (5, 6) else _truncate(insn)


def _truncate(insn: Insn) -> str | None:
    return (
        f"FISTTP of 32 or 64 bits, {_WRONGLY} where the number is too large"
        if insn.mod != 3 and insn.reg == 1
        else None
    )


def _escape_1(insn: Insn) -> str | None:
    if insn.mod != 3:
        return None
    if insn.reg == 3:
        return f"FSTPNCE, {_WRONGLY}"
    return _ESCAPE_1.get(insn.modrm or 0)


def _load_mxcsr(insn: Insn) -> str | None:
    """Return why FXRSTOR or LDMXCSR is refused, or None when it is another instruction."""
    return (
        _MXCSR
        if insn.mod != 3 and insn.reg in (1, 2) and not _MANDATORY & set(insn.prefixes)
        else None
    )


def _always(reason: str) -> Callable[[Insn], str | None]:
    return lambda _insn: reason


_COMPARE: Final = f"a comparison of x87 registers to flags, {_WRONGLY}"
_MXCSR: Final = (
    "flush-to-zero, denormals-are-zero or unmasked exceptions of SSE, which the emulator does not"
    " have"
)
_REMAINDER: Final = f"FPREM or FPREM1 of unusual numbers, {_WRONGLY}"
_ESCAPE_1: Final = {
    0xF1: f"FYL2X of what has no logarithm, {_WRONGLY}",
    0xF4: f"FXTRACT of an infinity or a NaN, {_WRONGLY}",
    0xF5: _REMAINDER,
    0xF8: _REMAINDER,
    0xF9: f"FYL2XP1 of what has no logarithm, {_WRONGLY}",
    0xFD: f"FSCALE with less than full precision, {_WRONGLY}",
}
_ADD_OR_SUBTRACT: Final = frozenset({0x01, 0x02, 0x03, 0x05, 0x06, 0x07})
_SYSTEM: Final = _always("a load of a system register, which would change the machine itself")
_RETURN: Final = _always("a return to user mode: there is none here")
_PREFIX_BEHIND_REX: Final = _always(
    "a prefix behind REX, or more than four, which the kernel's decoder takes for an opcode"
)
_PORT: Final = _always("a port of input or output: there are no devices here")
_STRING_COMPARE: Final = _always(
    "PCMPESTRI or PCMPESTRM, which the emulator runs wrongly where a length is odd enough"
)

RULES: Final[dict[bytes, Callable[[Insn], str | None]]] = {
    **dict.fromkeys(
        (
            bytes((opcode,))
            for opcode in (0x26, 0x2E, 0x36, 0x3E, *range(0x64, 0x68), 0xF0, 0xF2, 0xF3)
        ),
        _PREFIX_BEHIND_REX,
    ),
    **dict.fromkeys((b"\x9e", b"\x9f"), _flags_with_rex),
    **dict.fromkeys((b"\xc0", b"\xc1"), _rotate_through_carry),
    **dict.fromkeys((b"\x8f", b"\xc6", b"\xc7"), _first_of_group),
    **dict.fromkeys((bytes((0x0F, opcode)) for opcode in (0xA4, 0xA5, 0xAC, 0xAD)), _double_shift),
    **dict.fromkeys(
        (
            bytes((opcode,))
            for opcode in (*range(0x6C, 0x70), *range(0xE4, 0xE8), *range(0xEC, 0xF0))
            if opcode & 0xFC != 0xE8
        ),
        _PORT,
    ),
    **dict.fromkeys(
        (bytes((0x0F, 0x38, opcode)) for opcode in (*range(0x0C), 0x1C, 0x1D, 0x1E)), _horizontal
    ),
    **dict.fromkeys((b"\x0f\x3a\x60", b"\x0f\x3a\x61"), _STRING_COMPARE),
    **dict.fromkeys((b"\x0f\x06", b"\x0f\x22", b"\x0f\x23", b"\x0f\x30"), _SYSTEM),
    **dict.fromkeys((b"\x0f\x00", b"\x0f\x01"), _descriptor_table),
    **dict.fromkeys((b"\x0f\x07", b"\x0f\x35"), _RETURN),
    **dict.fromkeys((b"\x0f\x78", b"\x0f\x79"), _always(SSE4A)),
    b"\x0f\xa2": _always(f"CPUID, {_WRONGLY}"),
    b"\x0f\x3a\x0f": _horizontal,
    b"\x0f\xb1": _compare_exchange,
    b"\x0f\x0f": _always("3DNow!, which processors have no more"),
    b"\x0f\x33": _always("a performance counter, which would make runs differ"),
    b"\x0f\x2b": _store_scalar,
    **dict.fromkeys((b"\xe0", b"\xe1"), _always(f"LOOPE or LOOPNE, {_WRONGLY}")),
    b"\xd9": _escape_1,
    b"\xdb": _escape_3,
    b"\xdd": _truncate,
    b"\xdf": _escape_7,
    b"\x0f\xae": _load_mxcsr,
}
"""The rule for each opcode that has one. The opcode includes its escape bytes."""
