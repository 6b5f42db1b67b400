"""The vector and x87 registers of a Unicorn instance."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_int, c_void_p
from typing import Final

from arch_x86.emu.libunicorn import check, reg_read_batch, reg_write, reg_write_batch, x86

__all__ = ("ExtendedState",)

_VECTOR_IDS: Final = (*(x86.UC_X86_REG_XMM0 + i for i in range(16)), x86.UC_X86_REG_MXCSR)
_VECTOR_SIZE: Final = 16 * 16 + 4
_XMM_SIZE: Final = 16 * 16
_FPU_IDS: Final = (
    *(x86.UC_X86_REG_FP0 + i for i in range(8)),
    x86.UC_X86_REG_FPCW,
    x86.UC_X86_REG_FPSW,
    x86.UC_X86_REG_FPTAG,
)
_AFTER_RESET: Final = (
    (x86.UC_X86_REG_FPCW, 0x37F),
    (x86.UC_X86_REG_FPSW, 0),
    (x86.UC_X86_REG_FPTAG, 0xFFFF),
    (x86.UC_X86_REG_MXCSR, 0x1F80),
)


class _Batch:
    """Room for several registers, which one call of the library reads or writes.

    :param registers: the registers, by Unicorn's numbers.
    :param size: the bytes of all registers together.
    """

    __slots__ = ("count", "ids", "room", "slots")

    def __init__(self, registers: Sequence[int], size: int) -> None:
        self.count = len(registers)
        self.room = (ctypes.c_uint8 * size)()
        self.ids = (c_int * self.count)(*registers)
        base = ctypes.addressof(self.room)
        self.slots = (c_void_p * self.count)(*[base + 16 * i for i in range(self.count)])


class ExtendedState:
    """The registers of one instance beside the general ones (the state that XSAVE saves).

    :param handle: the instance.
    """

    __slots__ = ("_fpu", "_handle", "_vectors")

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._vectors = _Batch(_VECTOR_IDS, _VECTOR_SIZE)
        self._fpu = _Batch(_FPU_IDS, 16 * len(_FPU_IDS))

    def vector_state(self) -> bytes:
        """Return XMM0 to XMM15 (256 bytes) and MXCSR (4 bytes)."""
        batch = self._vectors
        reg_read_batch(self._handle, batch.ids, batch.slots, batch.count)
        return bytes(batch.room)

    def write_xmm(self, values: bytes) -> None:
        """Set XMM0 to XMM15 from 256 bytes."""
        batch = self._vectors
        ctypes.memmove(batch.room, values, _XMM_SIZE)
        reg_write_batch(self._handle, batch.ids, batch.slots, 16)

    def fpu_state(self) -> bytes:
        """Return the x87 registers and the control, status and tag words.

        Each of the registers R0 to R7 has 16 bytes (80 bits are used; MMX is in the low 64). The
        addresses of the last x87 instruction and of its operand are left out: those of a copied
        instruction are not the original's.
        """
        batch = self._fpu
        reg_read_batch(self._handle, batch.ids, batch.slots, batch.count)
        return bytes(batch.room)

    def write_fpu(self, state: bytes) -> None:
        """Set the x87 registers and words from what :meth:`fpu_state` has returned."""
        batch = self._fpu
        ctypes.memmove(batch.room, state, ctypes.sizeof(batch.room))
        reg_write_batch(self._handle, batch.ids, batch.slots, batch.count)

    def reset(self) -> None:
        """Set x87 as FNINIT does and MXCSR as a reset does.

        All exceptions are masked and none is pending, results are rounded to nearest in 64-bit
        precision, and the x87 stack is empty.
        """
        value = ctypes.c_uint64()
        where = ctypes.addressof(value)
        for register, content in _AFTER_RESET:
            value.value = content
            check(reg_write(self._handle, register, where), f"writing register {register}")
