"""The machine's own text for functions that the image imports and no library defines.

Each has a cell of a few bytes, which returns a number or stops the call.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Final

from arch_x86.isa.constants import ADDRESS_MASK, HLT_OPCODE, INT3, PAGE_SIZE
from arch_x86.isa.encode import jmp32
from arch_x86.probes.areas import IMPORT_CELL
from engine.image import Import

__all__ = ("import_cells",)

_MOV_RAX_IMM64: Final = b"\x48\xb8"
_RET: Final = b"\xc3"
_HLT: Final = bytes([HLT_OPCODE])
_JPROBE_RETURN: Final = "jprobe_return"


def import_cells(
    imports: Iterable[Import], values: Mapping[str, int], jprobe_return: int
) -> dict[int, bytes]:
    """Return the pages of text that hold the cells, by virtual page number.

    :param values: what a function returns, by its name. The host reports a call of any other by
        name, as it executes a ``hlt``.
    :param jprobe_return: the address of the stub that ``jprobe_return`` jumps to.
    """
    pages: dict[int, bytearray] = {}
    for imported in imports:
        value = values.get(imported.name)
        if value is not None:
            code = _MOV_RAX_IMM64 + struct.pack("<Q", value & ADDRESS_MASK) + _RET
        elif imported.name == _JPROBE_RETURN:
            code = jmp32(imported.addr, jprobe_return)
        else:
            code = _HLT
        page = pages.setdefault(imported.addr // PAGE_SIZE, bytearray(INT3 * PAGE_SIZE))
        at = imported.addr % PAGE_SIZE
        page[at : at + IMPORT_CELL] = code.ljust(IMPORT_CELL, INT3)
    return {vpn: bytes(page) for vpn, page in pages.items()}
