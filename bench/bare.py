"""The yardstick of the benchmarks: the same code in plain Unicorn.

It is run as a user of Unicorn's Python binding would run it, without paging, hooks, or anything
between calls. Memory is mapped as it runs fastest: data is one mapping, since Unicorn looks the
mapping up for each load and store and remembers only the last one, and is not executable, since a
store to executable memory looks for translations to drop.
"""

from __future__ import annotations

from typing import Any, Final

from unicorn import (
    Uc,
    unicorn_const,
)  # pyright: ignore[reportMissingTypeStubs, reportPrivateImportUsage]
from unicorn import x86_const as x86  # pyright: ignore[reportMissingTypeStubs]

from arch_x86.isa.constants import PAGE_SIZE
from engine.image import Image

__all__ = ("BareUnicorn",)

_STACK: Final = 16 * PAGE_SIZE
_DATA: Final = 1 << 24
_COUNTED: Final = 1 << 40
_ARGUMENTS: Final = (x86.UC_X86_REG_RDI, x86.UC_X86_REG_RSI, x86.UC_X86_REG_RDX, x86.UC_X86_REG_RCX)


class BareUnicorn:
    """An image at its own addresses, with a stack and buffers behind it. A call ends at a ``hlt``.

    :param counted: whether to pass an instruction count that is never reached, as a user of virtual
        time has to. Unicorn then calls a function of its own before each instruction.
    """

    def __init__(self, image: Image, *, counted: bool) -> None:
        self._uc: Any = Uc(unicorn_const.UC_ARCH_X86, unicorn_const.UC_MODE_64)
        self._count = _COUNTED if counted else 0
        low = min(segment.addr for segment in image.segments) & -PAGE_SIZE
        self._return = -(-max(segment.end for segment in image.segments) // PAGE_SIZE) * PAGE_SIZE
        self._uc.mem_map(low, self._return + PAGE_SIZE - low)
        for segment in image.segments:
            self._uc.mem_write(segment.addr, segment.data)
        self._uc.mem_write(self._return, b"\xf4")
        self._free = self._return + 2 * PAGE_SIZE
        self._uc.mem_map(
            self._free, _DATA, unicorn_const.UC_PROT_READ | unicorn_const.UC_PROT_WRITE
        )
        self._stack = self.allocate(_STACK) + _STACK - 64
        self._entry = 0

    def allocate(self, size: int, content: bytes = b"") -> int:
        """The address of a fresh buffer of whole pages that holds ``content``."""
        at = self._free
        self._free += -(-size // PAGE_SIZE) * PAGE_SIZE
        self._uc.mem_write(at, content)
        return at

    def begin(self, addr: int, *integers: int) -> None:
        """Set up a call of the function at ``addr``."""
        self._entry = addr
        self._uc.mem_write(self._stack - 8, self._return.to_bytes(8, "little"))
        self._uc.reg_write(x86.UC_X86_REG_RSP, self._stack - 8)
        for register, value in zip(_ARGUMENTS, integers, strict=False):
            self._uc.reg_write(register, value)

    def run(self) -> None:
        """Run the call to its end."""
        self._uc.emu_start(self._entry, 0, 0, self._count)

    @property
    def result(self) -> int:
        """The value of RAX."""
        return int(self._uc.reg_read(x86.UC_X86_REG_RAX))
