"""This module encodes what probing writes: INT3, JMP rel32, CALL rel32 (asm/text-patching.h).

Addresses are unsigned 64-bit integers. A distance that 32 bits cannot hold is an error, never a
wrapped displacement.
"""

from __future__ import annotations

import errno
import struct
from typing import Final

from arch_x86.isa.constants import ADDRESS_MASK, CALL32_OPCODE, JMP32_OPCODE, JMP32_SIZE
from engine.errors import KprobeError

__all__ = (
    "CALL32_SIZE",
    "DISP32_SIZE",
    "RelativeRangeError",
    "call32",
    "in_reach",
    "jmp32",
    "rel32",
)

CALL32_SIZE: Final = 5
DISP32_SIZE: Final = 4

_SIGN: Final = 1 << 63


class RelativeRangeError(KprobeError):
    """A relative displacement would not fit into 32 signed bits, which is the kernel's -ERANGE.

    :param source: the address behind the instruction.
    :param target: the address that it should lead to.
    """

    def __init__(self, source: int, target: int) -> None:
        super().__init__(
            errno.ERANGE,
            f"{target:#x} is out of the reach of a 32-bit displacement from {source:#x}",
        )
        self.source = source
        self.target = target


def rel32(source: int, target: int) -> int:
    """Return the signed distance in bytes from ``source`` to ``target``.

    :param source: the address behind the instruction.
    :raises RelativeRangeError: the distance does not fit into 32 signed bits.
    """
    if not in_reach(source, target):
        raise RelativeRangeError(source, target)
    return _distance(source, target)


def in_reach(source: int, target: int) -> bool:
    """Return True when a signed 32-bit displacement leads from ``source`` to ``target``.

    :param source: the address behind the instruction.
    """
    return -0x8000_0000 <= _distance(source, target) <= 0x7FFF_FFFF


def _distance(source: int, target: int) -> int:
    """Return the distance in bytes as the processor adds it, modulo 2^64.

    So the last and the first byte of memory are neighbours: both addresses are taken as signed.
    """
    return _signed(target) - _signed(source)


def jmp32(source: int, target: int) -> bytes:
    """Return the 5 bytes of ``jmp target`` for address ``source``.

    :raises RelativeRangeError: ``target`` is out of reach.
    """
    return struct.pack("<Bi", JMP32_OPCODE, rel32(source + JMP32_SIZE, target))


def call32(source: int, target: int) -> bytes:
    """Return the 5 bytes of ``call target`` for address ``source``.

    :raises RelativeRangeError: ``target`` is out of reach.
    """
    return struct.pack("<Bi", CALL32_OPCODE, rel32(source + CALL32_SIZE, target))


def _signed(addr: int) -> int:
    addr &= ADDRESS_MASK
    return addr - (1 << 64) if addr & _SIGN else addr
