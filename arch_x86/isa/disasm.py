"""This module disassembles an instruction to Intel syntax (SDM vol. 2); it alone uses capstone.

Lengths and operand fields come from :mod:`arch_x86.isa.decode`. Capstone's C library is called
without the package around it: the package loads its modules for twenty architectures, which takes
as long as all else that ``inspect`` loads.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char, c_char_p, c_int, c_size_t, c_ubyte, c_uint, c_void_p
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

__all__ = ("disassemble",)

_ARCH_X86: Final = 3  # CS_ARCH_X86
_MODE_64: Final = 1 << 3  # CS_MODE_64


class _Instruction(ctypes.Structure):
    """This is cs_insn of capstone 5 (capstone.h)."""

    _fields_ = (
        ("id", c_uint),
        ("address", ctypes.c_uint64),
        ("size", ctypes.c_uint16),
        ("bytes", c_ubyte * 24),
        ("mnemonic", c_char * 32),
        ("operands", c_char * 160),
        ("detail", c_void_p),
    )


def _load() -> Any:
    """Return capstone's library, from the folder of the package or from where that finds it."""
    spec = find_spec("capstone")
    if spec is not None and spec.origin is not None:
        for name in ("libcapstone.so", "libcapstone.dylib"):
            path = Path(spec.origin).parent / "lib" / name
            if path.exists():
                return ctypes.PyDLL(str(path))
    import capstone  # pyright: ignore[reportMissingTypeStubs]

    return ctypes.PyDLL(capstone._cs._name)  # pyright: ignore


class _Engine:
    """This class is one handle of the library."""

    def __init__(self) -> None:
        library = _load()
        handle = c_size_t()
        if library.cs_open(c_int(_ARCH_X86), c_int(_MODE_64), byref(handle)) != 0:
            raise ImportError("capstone's library does not know x86-64")
        self._handle = handle
        self._disassemble = library.cs_disasm
        self._disassemble.argtypes = (
            *(c_size_t, c_char_p, c_size_t, ctypes.c_uint64, c_size_t),
            POINTER(POINTER(_Instruction)),
        )
        self._disassemble.restype = c_size_t
        self._free = library.cs_free
        self._free.argtypes = (POINTER(_Instruction), c_size_t)
        self._free.restype = None

    def read(self, raw: bytes, addr: int) -> tuple[int, str, str] | None:
        """Return the length, the mnemonic and the operands of the first instruction, or None."""
        found = POINTER(_Instruction)()
        if self._disassemble(self._handle, raw, len(raw), addr, 1, byref(found)) == 0:
            return None
        insn = found[0]
        texts = insn.size, insn.mnemonic.decode("ascii"), insn.operands.decode("ascii")
        self._free(found, 1)
        return texts


_ENGINE: Final = _Engine()


@lru_cache(maxsize=4096)
def disassemble(raw: bytes, addr: int) -> str:
    """Return the mnemonic and operands of the instruction ``raw`` at ``addr``, in Intel syntax.

    The text is ``.byte ...`` where capstone does not read all of ``raw`` as one instruction. That
    is rare: such encodings are undefined, newer than capstone, or shorter than the kernel's decoder
    thinks.
    """
    found = _ENGINE.read(raw, addr & (1 << 64) - 1)
    if found is None or found[0] != len(raw):
        return ".byte " + ", ".join(f"{byte:#04x}" for byte in raw)
    _size, mnemonic, operands = found
    return f"{mnemonic} {operands}" if operands else mnemonic
