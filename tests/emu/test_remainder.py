"""FPREM and FPREM1 by whole numbers."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from arch_x86.emu.remainder import remainder

C0, C1, C2, C3 = 0x100, 0x200, 0x400, 0x4000
_numbers = st.tuples(st.integers(1 << 63, (1 << 64) - 1), st.integers(1, 0x7FFE), st.booleans())


def _value(significand: int, exponent: int, negative: bool) -> Fraction:
    value = significand * Fraction(2) ** (max(exponent, 1) - 16383 - 63)
    return -value if negative else value


@given(_numbers, _numbers, st.booleans(), st.integers(-3, 70))
def test_number_is_quotient_times_divisor_and_the_remainder(
    number, divisor, to_nearest, difference
):
    """And the remainder is below the divisor, or at most half of it; C0, C3 and C1 are the
    quotient's last bits.
    """
    divisor = (divisor[0], min(max(number[1] - difference, 1), 0x7FFE), divisor[2])
    words = [
        (significand, exponent | negative << 15)
        for significand, exponent, negative in (number, divisor)
    ]
    low, exponent, negative, flags = remainder(*words, to_nearest=to_nearest)
    first, second, left = _value(*number), _value(*divisor), _value(low, exponent, negative)
    quotient = (first - left) / second
    assert quotient.denominator == 1
    whole = abs(quotient.numerator)
    if flags & C2:
        assert number[1] - divisor[1] >= 64
        assert 2**32 * abs(left) <= abs(first)
    else:
        assert abs(left) < abs(second)
        assert 2 * abs(left) <= abs(second) if to_nearest else left * first >= 0
        assert flags == C1 * (whole & 1) | C3 * (whole >> 1 & 1) | C0 * (whole >> 2 & 1)


def test_fmod_of_what_has_no_53_bits_is_exact(rig):
    """2^64 - 1 modulo 1000, as fmodl() has it."""
    text = (
        "sub rsp, 16; mov dword ptr [rsp], 1000; fild dword ptr [rsp]; mov rax, -1; "
        "mov [rsp], rax; mov word ptr [rsp + 8], 0x403e;"
    )
    text += (
        "fld tbyte ptr [rsp]; again: fprem; fnstsw ax; test ah, 4; jnz again; "
        "fistp qword ptr [rsp]; fstp st(0); mov rax, [rsp]; add rsp, 16; ret"
    )
    assert rig(text).call() == ((1 << 64) - 1) % 1000
