"""The registers of a vCPU that its code can read, as one value (SDM vol. 1, 3.2).

Two vCPUs with equal values and equal memory that stand at the same address go on alike. RIP is left
out, since a :class:`~arch_x86.emu.uc.UcInstance` holds it between runs. CR2 is left out, too: the
emulator sets it whenever a page of text is shown for the first time, which is no fault of the
guest's.
"""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_void_p
from typing import Final

from arch_x86.emu.libunicorn import reg_read_batch, x86
from arch_x86.emu.uc import GPR_NAMES, UcInstance

__all__ = ("VisibleRegisters",)

_IDS: Final[tuple[int, ...]] = (
    *(getattr(x86, f"UC_X86_REG_{name.upper()}") for name in GPR_NAMES),
    *(x86.UC_X86_REG_XMM0 + i for i in range(16)),
    *(x86.UC_X86_REG_FP0 + i for i in range(8)),
    *(
        getattr(x86, f"UC_X86_REG_{name}")
        for name in (
            *("EFLAGS", "MXCSR", "FPCW", "FPSW", "FPTAG", "FIP", "FDP", "FOP"),
            *("CS", "SS", "DS", "ES", "FS", "GS", "FS_BASE", "GS_BASE", "CR0", "CR3", "CR4"),
        )
    ),
)
_SLOT: Final = 16
"""The size in bytes of the largest of these registers."""


class VisibleRegisters:
    """A reader of the visible registers of one instance."""

    __slots__ = ("_handle", "_ids", "_room", "_slots")

    def __init__(self, uc: UcInstance) -> None:
        count = len(_IDS)
        self._handle = uc.handle
        self._room = (ctypes.c_uint8 * (_SLOT * count))()
        self._ids = (c_int * count)(*_IDS)
        base = ctypes.addressof(self._room)
        self._slots = (c_void_p * count)(*[base + _SLOT * i for i in range(count)])

    def read(self) -> bytes:
        """Return the present values of the registers."""
        reg_read_batch(self._handle, self._ids, self._slots, len(_IDS))
        return bytes(self._room)
