"""This module has a struct pt_regs whose registers are read when they are asked for.

It is the same record as in arch/x86/include/asm/ptrace.h. Most handlers look at one register or at
none, so a hit that does not leave the emulator makes no numbers of the others.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

from arch_x86.isa.constants import ADDRESS_MASK
from arch_x86.probes.ptregs import PtRegs

__all__ = ("CS", "DI", "FLAGS", "IP", "ORIG_AX", "SI", "SP", "SS", "HeldRegs")

_WORD: Final = struct.Struct("<Q")
_PAIR: Final = struct.Struct("<2Q")
_INDEX: Final = {name: index for index, name in enumerate(PtRegs.__slots__)}
# These are the numbers of the words of some registers in struct pt_regs.
SI: Final = _INDEX["si"]
DI: Final = _INDEX["di"]
ORIG_AX: Final = _INDEX["orig_ax"]
IP: Final = _INDEX["ip"]
CS: Final = _INDEX["cs"]
FLAGS: Final = _INDEX["flags"]
SP: Final = _INDEX["sp"]
SS: Final = _INDEX["ss"]
_PLAIN: Final = (ORIG_AX, IP)


class HeldRegs(PtRegs):
    """This record has the registers in the bytes that were pushed.

    ``ip`` and ``orig_ax``, which each hit sets, are plain attributes.

    :param data: the bytes, which do not change.
    :ivar data: the same.
    :ivar changed: the registers that were set, by the number of the word; None for none.
    """

    __slots__ = ("changed", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.changed: dict[int, int] | None = None
        self.orig_ax, self.ip = _PAIR.unpack_from(data, 8 * ORIG_AX)

    def pack(self) -> bytes:
        """Return the registers as they are now, each cut to 64 bits."""
        data = bytearray(self.data)
        _PAIR.pack_into(data, 8 * ORIG_AX, self.orig_ax & ADDRESS_MASK, self.ip & ADDRESS_MASK)
        for index, value in (self.changed or {}).items():
            _WORD.pack_into(data, 8 * index, value & ADDRESS_MASK)
        return bytes(data)

    def __reduce__(self) -> tuple[Callable[[bytes], PtRegs], tuple[bytes]]:
        """Copy as a record of plain attributes."""
        return PtRegs.unpack, (self.pack(),)


def _property(index: int) -> Any:
    """Return the attribute of the register whose word has the number ``index``."""
    offset, read = 8 * index, _WORD.unpack_from

    def get(regs: HeldRegs) -> int:
        changed = regs.changed
        if changed is not None and index in changed:
            return changed[index]
        return read(regs.data, offset)[0]

    def put(regs: HeldRegs, value: int) -> None:
        if regs.changed is None:
            regs.changed = {index: value}
        else:
            regs.changed[index] = value

    return property(get, put)


for _name, _index in _INDEX.items():
    if _index not in _PLAIN:
        setattr(HeldRegs, _name, _property(_index))
