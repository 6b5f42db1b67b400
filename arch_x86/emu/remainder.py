"""The instructions FPREM and FPREM1, which the emulator computes with numbers of 53 bits.

The module answers to their operation in SDM vol. 2. How much of a remainder is left for another
FPREM, where the quotient has more than 64 bits, is up to the processor. Here it is what AMD's
manual (APM vol. 5, FPREM) gives, and what the records of a processor show.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from arch_x86.emu.uc import UcInstance
from arch_x86.isa.insn import Insn

__all__ = ("partial_remainder", "remainder")

_STATUS_WORD, _TAG_WORD = 16 * 9, 16 * 10
_C0, _C1, _C2, _C3 = 0x100, 0x200, 0x400, 0x4000
_EMPTY: Final = 3
_SIGN, _EXPONENT = 0x8000, 0x7FFF
_INTEGER: Final = 1 << 63
_WHOLE: Final = 64
_TO_NEAREST: Final = 0xF5


def partial_remainder(uc: UcInstance, insn: Insn, run: Callable[[], bool]) -> None:
    """Execute FPREM or FPREM1, and put the right remainder of two normal numbers in place.

    The remainder is ST0 less ST1 times their quotient. FPREM rounds the quotient to zero, FPREM1 to
    nearest. For all other numbers the emulator's result is right.
    """
    state = bytearray(uc.extended.fpu_state())
    status, tags = (struct.unpack_from("<H", state, at)[0] for at in (_STATUS_WORD, _TAG_WORD))
    top = status >> 11 & 7
    used = all(tags >> 2 * (top + i & 7) & 3 != _EMPTY for i in range(2))
    (number, sign), (divisor, other) = (
        struct.unpack_from("<QH", state, 16 * (top + i & 7)) for i in range(2)
    )
    finite = all(
        value & _INTEGER and 0 < word & _EXPONENT < _EXPONENT
        for value, word in ((number, sign), (divisor, other))
    )
    if not run() or not used or not finite:
        return
    low, exponent, negative, flags = remainder(
        (number, sign), (divisor, other), to_nearest=insn.modrm == _TO_NEAREST
    )
    state = bytearray(uc.extended.fpu_state())
    struct.pack_into("<QH", state, 16 * top, low, exponent | _SIGN * negative)
    (status,) = struct.unpack_from("<H", state, _STATUS_WORD)
    struct.pack_into("<H", state, _STATUS_WORD, status & ~(_C0 | _C1 | _C2 | _C3) | flags)
    uc.extended.write_fpu(bytes(state))


def remainder(
    number: tuple[int, int], divisor: tuple[int, int], *, to_nearest: bool
) -> tuple[int, int, bool, int]:
    """Return the remainder of two normal numbers.

    :param number: the significand of the dividend, and its exponent with the sign.
    :param divisor: the same of the divisor.
    :returns: the remainder's significand, exponent field and sign, and C0 to C3.
    """
    (high, word), (low, other) = number, divisor
    first, second = word & _EXPONENT, other & _EXPONENT
    difference, negative = first - second, bool(word & _SIGN)
    unit = min(first, second)  # This is the exponent of the unit in which both are whole.
    if difference < -1:
        return high, first, negative, 0
    a, b = high << first - unit, low << second - unit
    if difference >= _WHOLE:
        b <<= difference - (difference % 32 + 32)
        flags, left = _C2, a % b
    else:
        quotient, left = divmod(a, b)
        if to_nearest and (2 * left > b or (2 * left == b and quotient & 1)):
            quotient, left, negative = quotient + 1, b - left, not negative
        flags = _C1 * (quotient & 1) | _C3 * (quotient >> 1 & 1) | _C0 * (quotient >> 2 & 1)
    return *_normalized(left, unit), negative, flags


def _normalized(value: int, unit: int) -> tuple[int, int]:
    """Return the significand and exponent field of ``value``.

    :param unit: the exponent field of the number in whose units ``value`` is given.
    """
    if not value:
        return 0, 0
    shift = min(64 - value.bit_length(), unit - 1)
    value = value << shift if shift >= 0 else value >> -shift
    return value, unit - shift if value & _INTEGER else 0
