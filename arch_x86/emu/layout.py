"""The layout of a machine: where it puts what an image does not bring along.

These are the stubs, slots, detour buffers, per-CPU areas, stacks and buffers. Everything lies
within a few dozen MiB behind the image, so that rel32 jumps and calls reach it from any text (2
GiB) and an image linked at a kernel address gets kernel addresses throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from arch_x86.isa.constants import PAGE_SIZE
from arch_x86.probes.areas import copy_areas
from engine.errors import InputError
from engine.image import Image

__all__ = ("Layout", "plan_layout")

_MIB: Final = 1 << 20
_ROOM: Final = 256 * _MIB
_HALF: Final = 1 << 47


@dataclass(frozen=True, slots=True)
class Layout:
    """The virtual addresses of a machine's areas, and their sizes in bytes.

    The areas ``slots`` and ``detours`` are text, as are the stubs; the rest is data.

    :ivar thread_pages: the pages of thread-local data that each CPU has.
    """

    stubs: int
    slots: int
    slots_size: int
    detours: int
    detours_size: int
    gdt: int
    per_cpu: int
    thread_pages: int
    stacks: int
    heap: int

    def gs_base(self, cpu: int) -> int:
        """Return the address of the per-CPU area of ``cpu``, which is one page."""
        return self.per_cpu + (2 + self.thread_pages) * cpu * PAGE_SIZE

    def fs_base(self, cpu: int) -> int:
        """Return the address of the thread control block of ``cpu``, which is one page.

        Thread-local data lies below it.
        """
        return self.gs_base(cpu) + (1 + self.thread_pages) * PAGE_SIZE


def plan_layout(image: Image, cpus: int, stack_pages: int) -> Layout:
    """Return the addresses for a machine of ``cpus`` vCPUs.

    :param stack_pages: the pages of each stack.
    :raises InputError: the image has no code, or text in page 0, or there is no room between its
        end and the top of its half of the address space.
    """
    if not image.segments and not image.imports:
        raise InputError(
            f"{image.name}: the image has no code; give one with at least one executable segment"
        )
    areas = copy_areas(image)
    top = (_HALF if areas.image_end <= _HALF else 1 << 64) - _ROOM
    if areas.stubs.addr >= top:
        raise InputError(
            f"{image.name}: ends at {areas.image_end:#x}; it must end below {top - _MIB:#x}, to"
            " leave room for the machine"
        )
    if image.is_text(0):  # Unicorn 2.1.4 takes a page fault at -4096 for code there.
        raise InputError(
            f"{image.name}: has code at address 0, where the emulator can't run any; move it to"
            f" {PAGE_SIZE:#x} or above"
        )
    stubs, slots, detours = areas.stubs.addr, areas.slots, areas.detours
    gdt = detours.end
    per_cpu = gdt + PAGE_SIZE
    thread_pages = max(1, -(-len(image.thread_image) // PAGE_SIZE))
    stacks = per_cpu + ((2 + thread_pages) * cpus + 1) * PAGE_SIZE
    heap = stacks + cpus * (stack_pages + 1) * PAGE_SIZE + PAGE_SIZE
    return Layout(
        stubs,
        slots.addr,
        slots.size,
        detours.addr,
        detours.size,
        gdt,
        per_cpu,
        thread_pages,
        stacks,
        heap,
    )
