"""The areas that each vCPU finds through its segment bases.

GS leads to the kernel's per-CPU area, FS to a thread as the System V ABI lays it out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from arch_x86.emu.layout import Layout
from arch_x86.emu.memory import Ram
from arch_x86.isa.constants import PAGE_SIZE

__all__ = ("fill_cpu_areas",)

_CANARY: Final = struct.pack("<Q", 0xB10C_5EED_0BAD_CA00)
_CANARY_AT: Final = (
    0x28  # The stack protector has this place in the kernel (GS) and in user space (FS).
)
_SELF_AT: Final = 0x10  # tcbhead_t.self of glibc


def fill_cpu_areas(
    ram: Ram, layout: Layout, cpu: int, thread_image: bytes, map_data: Callable[[int], None]
) -> None:
    """Map the two areas of ``cpu`` and give them their first content.

    :param thread_image: the thread-local data, which ends where the thread control block begins.
    :param map_data: maps a page, which is given by its number.
    """
    gs, fs = layout.gs_base(cpu), layout.fs_base(cpu)
    map_data(gs // PAGE_SIZE)
    for page in range(layout.thread_pages + 1):
        map_data(fs // PAGE_SIZE - layout.thread_pages + page)
    ram.write(gs + _CANARY_AT, _CANARY)
    ram.write(fs - len(thread_image), thread_image)
    ram.write(fs, struct.pack("<Q", fs))
    ram.write(fs + _SELF_AT, struct.pack("<Q", fs))
    ram.write(fs + _CANARY_AT, _CANARY)
