"""The private state of a Unicorn instance: what it knows and does not tell by its interface.

It concerns the last exception and instruction, and lies in fields of a saved CPU state at offsets
that :mod:`arch_x86.emu.calibration` has found.
"""

from __future__ import annotations

from ctypes import c_int32
from typing import Final

from arch_x86.emu.uc import UcInstance

__all__ = ("SHADOW", "PrivateState")

_ERROR_FETCH: Final = 16
"""The bit of a page fault's error code that says that an instruction was being fetched."""
SHADOW: Final = 1 << 3
"""The bit that is set right after STI and MOV SS."""
_NO_EXCEPTION: Final = -1


class PrivateState:
    """The private fields of one instance. Each look at them saves the CPU state (0.2 us)."""

    __slots__ = ("_offsets", "_scratch", "_uc")

    def __init__(self, uc: UcInstance) -> None:
        self._uc = uc
        self._offsets = uc.offsets
        self._scratch = uc.new_context()

    @property
    def tells_fetches(self) -> bool:
        """The method :meth:`was_fetch` has an answer, and a fault can be taken back."""
        return self._offsets.error_code is not None and self._offsets.exception is not None

    def forget_exception(self) -> None:
        """Clear Unicorn's memory of the exception just taken.

        The machine here delivers exceptions itself, so Unicorn never sees one delivered, and would
        make a double fault of a page fault that follows a page fault.
        """
        offset = self._offsets.exception
        if offset is None:
            return
        uc, scratch = self._uc, self._scratch
        uc.save(scratch)
        c_int32.from_address(scratch.pointer + offset).value = _NO_EXCEPTION
        uc.restore(scratch)

    def was_fetch(self) -> bool:
        """Return whether the last page fault was that of a fetch, as far as is known."""
        return bool(self._field(self._offsets.error_code) & _ERROR_FETCH)

    def was_software(self) -> bool:
        """Return whether an ``int n`` raised the last exception, as far as is known.

        RIP is behind the instruction then.
        """
        return bool(self._field(self._offsets.software))

    def in_shadow(self) -> bool:
        """Return whether the last instruction was STI or MOV SS, as far as can be told."""
        return bool(self._field(self._offsets.shadow) & SHADOW)

    def _field(self, offset: int | None) -> int:
        if offset is None:
            return 0
        self._uc.save(self._scratch)
        return c_int32.from_address(self._scratch.pointer + offset).value
