"""This module places guest routines behind an image, like one more library (glibc's elf/dl-load.c).

The routines are those of :mod:`arch_x86.images.routines` that the image needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from arch_x86.images.image_memory import Area, Memory
from arch_x86.images.module import Definition
from arch_x86.images.routines import ARENA_SIZE, ROUTINES
from arch_x86.images.threads import ThreadLayout
from arch_x86.isa.constants import INT3, PAGE_SIZE
from engine.image import Range, Symbol

__all__ = ("Runtime", "place_runtime")

_FIELD: Final = re.compile(r"\{(\w+)")
_THUNK: Final = "__x86_indirect_thunk_"
_ALIGN: Final = 16


@dataclass(frozen=True, slots=True)
class Runtime:
    """This record says which routines were placed and where.

    :ivar thunks: the range of the retpoline thunks among them, or None.
    """

    definitions: dict[str, Definition]
    symbols: tuple[Symbol, ...]
    thunks: Range | None


def place_runtime(memory: Memory, threads: ThreadLayout, names: Iterable[str]) -> Runtime:
    """Put the routines ``names``, and those that they use, behind all that is in ``memory``.

    Nothing is added where there are no names.

    :param threads: gives ``errno`` its place in thread-local memory, if a routine uses it.
    :raises InputError: the routines and their data exceed the limits on memory.
    """
    wanted = sorted(_with_needs(names), key=list(ROUTINES).index)
    if not wanted:
        return Runtime({}, (), None)
    from arch_x86.isa.assemble import assemble  # most images need no routine, and no assembler

    base = memory.end
    fields = {"limit": ARENA_SIZE - 2 * _ALIGN}
    code = bytearray()
    symbols: list[Symbol] = []
    # The address of the data must be known before the code is assembled. Machine code is shorter
    # than its text, so the length of the text bounds it.
    room = PAGE_SIZE * (1 + sum(len(ROUTINES[name]) + _ALIGN for name in wanted) // PAGE_SIZE)
    uses = {field for name in wanted for field in _FIELD.findall(ROUTINES[name])}
    data = base + room
    if "arena" in uses:
        fields["arena"] = data
        data += ARENA_SIZE
    if "zeros" in uses:
        fields["zeros"] = data
        data += PAGE_SIZE
    if "errno" in uses:
        fields["errno"] = threads.slot("errno")
    for name in wanted:
        code += INT3 * (-len(code) % _ALIGN)
        addr = base + len(code)
        body = assemble(ROUTINES[name].format(**fields), addr)
        fields[name] = addr
        symbols.append(Symbol(name, addr, len(body)))
        code += body
    memory.append(Area(base, code, room, executable=True))
    if data > base + room:
        memory.append(Area(base + room, bytearray(), data - base - room, writable=True))
    thunks = [symbol for symbol in symbols if symbol.name.startswith(_THUNK)]
    return Runtime(
        {symbol.name: Definition(symbol.addr, symbol.size) for symbol in symbols},
        tuple(symbols),
        (
            Range(thunks[0].addr, thunks[-1].addr + thunks[-1].size - thunks[0].addr)
            if thunks
            else None
        ),
    )


def _with_needs(names: Iterable[str]) -> set[str]:
    """Return ``names`` and the names of all routines that their code refers to."""
    done: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name not in done:
            done.add(name)
            left += [field for field in _FIELD.findall(ROUTINES[name]) if field in ROUTINES]
    return done
