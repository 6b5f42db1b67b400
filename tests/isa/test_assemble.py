"""Assembling means the same whatever memory the assembler gets."""

from __future__ import annotations

import ctypes
import struct

import pytest

from arch_x86.isa.assemble import assemble

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = (
    ctypes.c_void_p,
    [ctypes.c_size_t],
    [ctypes.c_void_p],
)


def leave_behind(word: int) -> None:
    """Freed memory of all small sizes that is full of ``word``."""
    blocks = [(libc.malloc(size), size) for size in range(16, 2048, 16) for _ in range(12)]
    for block, size in blocks:
        ctypes.memmove(block, struct.pack("<I", word) * (size // 4), size)
    for block, _ in blocks:
        libc.free(block)


@pytest.mark.parametrize("word", [0, 2, 8, 10, 16, 0xFFFF_FFFF])
def test_numbers_are_decimal_whatever_is_left_in_memory(word: int) -> None:
    for index in range(20):
        leave_behind(word)
        number = 300 + index
        assert assemble(f"mov ecx, {number}; lea rsp, [rsp - 128]; add rsp, 24") == bytes.fromhex(
            f"b9{number.to_bytes(4, 'little').hex()}488d6424804883c418"
        )
