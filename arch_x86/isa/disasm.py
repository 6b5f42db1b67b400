"""This module disassembles an instruction to Intel syntax (SDM vol. 2); it alone imports capstone.

Lengths and operand fields come from :mod:`arch_x86.isa.decode`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, cast

from capstone import CS_ARCH_X86, CS_MODE_64, Cs  # pyright: ignore[reportMissingTypeStubs]

__all__ = ("disassemble",)

_ENGINE: Final[Any] = Cs(CS_ARCH_X86, CS_MODE_64)


@lru_cache(maxsize=4096)
def disassemble(raw: bytes, addr: int) -> str:
    """Return the mnemonic and operands of the instruction ``raw`` at ``addr``, in Intel syntax.

    The text is ``.byte ...`` where capstone does not read all of ``raw`` as one instruction. That
    is rare: such encodings are undefined, newer than capstone, or shorter than the kernel's decoder
    thinks.
    """
    lines = cast(
        "list[tuple[int, int, str, str]]", list(_ENGINE.disasm_lite(raw, addr & (1 << 64) - 1, 1))
    )
    if not lines or lines[0][1] != len(raw):
        return ".byte " + ", ".join(f"{byte:#04x}" for byte in raw)
    _addr, _size, mnemonic, operands = lines[0]
    return f"{mnemonic} {operands}" if operands else mnemonic
