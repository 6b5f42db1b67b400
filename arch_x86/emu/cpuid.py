"""The answers of CPUID: of the features that the emulator names, those that work here.

It answers to the leaves of CPUID in SDM vol. 2. A feature is offered when its instructions run as
on a processor, but for single forms that are refused (docs/processor.md). Features that are refused
as a whole (RDTSC, RDRAND, SYSENTER, WRMSR), that CR4 has switched off (XSAVE, RDFSBASE), or that
only a system would use are not offered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ("offered",)

_LOW: Final = (1 << 32) - 1
_ALL: Final = (_LOW, _LOW, _LOW, _LOW)
_LEAF_MAX: Final = 7


def _bits(*numbers: int) -> int:
    return sum(1 << number for number in numbers)


# The bits of EAX, EBX, ECX and EDX that are offered, for each leaf that says anything. All other
# leaves are 0 throughout. The comments name what the bits say.
_MASKS: Final = {
    0: _ALL,  # the highest leaf and the vendor
    1: (
        _LOW,  # the family, model and stepping
        _LOW,  # the size of a line that CLFLUSH flushes
        # SSE3, PCLMULQDQ, SSSE3, CMPXCHG16B, SSE4.1, SSE4.2, MOVBE, POPCNT, AES
        _bits(0, 1, 9, 13, 19, 20, 22, 23, 25),
        _bits(0, 8, 15, 19, 23, 24, 25, 26),  # FPU, CMPXCHG8B, CMOV, CLFLUSH, MMX, FXSR, SSE, SSE2
    ),
    2: _ALL,  # the caches
    4: _ALL,
    7: (0, _bits(3, 8, 9), 0, 0),  # BMI1, BMI2, fast REP MOVSB and STOSB
    0x8000_0000: _ALL,
    0x8000_0001: (_LOW, 0, _bits(0, 5), _bits(29)),  # LAHF and SAHF, LZCNT; 64-bit mode
    **dict.fromkeys(range(0x8000_0002, 0x8000_0007), _ALL),  # the name and the caches
    0x8000_0008: (_LOW, 0, 0, 0),  # the number of bits of addresses
}


def offered(leaf: int, part: int, answer: Sequence[int]) -> tuple[int, ...]:
    """Return EAX, EBX, ECX and EDX of a leaf, from the emulator's ``answer``.

    :param leaf: the leaf, as asked in EAX.
    :param part: the part of the leaf, as asked in ECX.
    """
    masks = _MASKS.get(leaf)
    if masks is None or (leaf == _LEAF_MAX and part):
        return (0, 0, 0, 0)
    eax, *others = (value & mask for value, mask in zip(answer, masks, strict=True))
    return (min(eax, _LEAF_MAX) if leaf == 0 else eax, *others)
