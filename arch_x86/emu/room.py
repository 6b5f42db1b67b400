"""A check that there is room for one more emulator.

Unicorn ends the process, with a line of its own, where it gets no room for its translations.
"""

from __future__ import annotations

import mmap
from typing import Final

__all__ = ("EMULATOR_ROOM", "require_room")

EMULATOR_ROOM: Final = (1 << 30) + (1 << 25)
"""Bytes of address space of one instance: what Unicorn 2.1.4 reserves for translated code (of which
little is used), and what else it takes as it starts.
"""


def require_room() -> None:
    """Ask for the room that a new instance will ask for, in the same way, and give it back.

    This takes 15 us; an instance takes milliseconds.

    :raises MemoryError: there is less room.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    try:
        mmap.mmap(
            -1, EMULATOR_ROOM, flags, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        ).close()
    except OSError:
        raise MemoryError from None
