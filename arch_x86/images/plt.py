"""This module names the entries of a PLT (AMD64 psABI, "Procedure Linkage Table").

binutils and lld write the entries into the sections ``.plt``, ``.plt.sec`` and ``.plt.got``. Each
entry is named after the function that it leads to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from arch_x86.images.elf_file import ElfFile
from arch_x86.images.elf_records import SHF_EXECINSTR
from arch_x86.images.image_memory import Memory
from engine.image import Symbol

__all__ = ("plt_entries",)

_ENDBR64: Final = b"\xf3\x0f\x1e\xfa"
_BND: Final = b"\xf2"
_JMP: Final = b"\xff\x25"  # jmp [rip + disp32]
_SIZES: Final = {".plt": 16, ".plt.sec": 16, ".plt.got": 16}


def plt_entries(
    elf: ElfFile, memory: Memory, bias: int, words: Mapping[int, str], named: Iterable[Symbol]
) -> Iterator[Symbol]:
    """Yield a symbol ``NAME@plt`` for each entry that jumps through the word of function ``NAME``.

    Disassemblers use the same name.

    :param bias: bytes by which the segments were moved from the addresses that they are linked for.
    :param words: the names of functions by the address that the word with the function's address is
        linked for.
    :param named: symbols that there are already; an entry where a function of them starts gets no
        other symbol.
    """
    taken = {symbol.addr for symbol in named if symbol.function}
    for section in elf.sections:
        name = section.name
        if name not in _SIZES or not section.flags & SHF_EXECINSTR:
            continue
        size = section.entsize if section.entsize in (8, 16) else _SIZES[name]
        for start in range(section.addr, section.addr + section.size - size + 1, size):
            code = memory.read(start + bias, size) or b""
            function = words.get(_word(code, start))
            if function is not None and start + bias not in taken:
                yield Symbol(f"{function}@plt", start + bias, size)


def _word(code: bytes, start: int) -> int:
    """Return the address of the word that the entry at ``start`` jumps through, or -1.

    It is -1 where ``code`` is no jump through a word.
    """
    at = len(_ENDBR64) if code.startswith(_ENDBR64) else 0
    at += code[at : at + 1] == _BND
    if code[at : at + 2] != _JMP or len(code) < at + 6:
        return -1
    return start + at + 6 + int.from_bytes(code[at + 2 : at + 6], "little", signed=True)
