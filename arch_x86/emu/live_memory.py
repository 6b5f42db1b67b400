"""The memory that interrupted code may still read: all but the dead stack below its stack pointer.

An interrupt handler has to leave it as it was (AMD64 psABI, 3.2.2). It is kept in front of an
interrupt and compared behind it. The counter of interrupts, in which the handler of this machine
notes that it has run, is no part of it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from ctypes import c_int, c_size_t, c_void_p
from typing import Final

from arch_x86.emu.machine import Machine
from arch_x86.emu.stubs import GS_INTERRUPTS
from arch_x86.isa.constants import PAGE_SIZE

__all__ = ("COUNTER_SIZE", "LiveMemory", "merged")

COUNTER_SIZE: Final = 8
"""The size in bytes of the counter of interrupts."""

_compare = ctypes.PYFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)(("memcmp", ctypes.CDLL(None)))

Span = tuple[int, int]
"""A span is the physical address of a first byte, and that of the byte behind the last one."""


class LiveMemory:
    """The live memory of the task of one vCPU.

    It is made when all buffers are allocated.
    """

    def __init__(self, machine: Machine, cpu: int) -> None:
        self._host = machine.ram.host
        self._room = ctypes.create_string_buffer(machine.ram.used)
        self._copy = ctypes.addressof(self._room)
        self._top = machine.tasks[cpu].stack_top
        stack = [self._top - (i + 1) * PAGE_SIZE for i in range(machine.config.stack_pages)]
        self._low = stack[-1]
        at = dict(machine.ram.pages())
        self._stack = [at[addr // PAGE_SIZE] for addr in stack]
        counter = machine.ram.physical(machine.layout.gs_base(cpu) + GS_INTERRUPTS)
        assert counter is not None
        self._other = [
            (page, page + PAGE_SIZE)
            for page in at.values()
            if page not in self._stack and not page <= counter < page + PAGE_SIZE
        ]
        page = counter & -PAGE_SIZE
        self._other += [(page, counter), (counter + COUNTER_SIZE, page + PAGE_SIZE)]
        self._by_pages: dict[int, list[Span]] = {}
        self._kept: list[Span] = []

    def keep(self, dead_end: int) -> None:
        """Keep the live memory as it is.

        :param dead_end: the first address of the stack that is live; all below it, down to the end
            of the stack, is dead.
        """
        dead_end = max(dead_end, self._low)
        pages, rest = divmod(self._top - dead_end, PAGE_SIZE)
        spans = self._by_pages.get(pages)
        if spans is None:
            spans = self._by_pages[pages] = self._with_stack(pages)
        if rest:
            page = self._stack[pages]
            spans = [*spans, (page + PAGE_SIZE - rest, page + PAGE_SIZE)]
        self._kept = spans
        host, copy = self._host, self._copy
        for start, end in spans:
            ctypes.memmove(copy + start, host + start, end - start)

    def is_as_kept(self) -> bool:
        """Return whether the memory that was live at the last :meth:`keep` is as it was."""
        host, copy = self._host, self._copy
        return not any(
            _compare(copy + start, host + start, end - start) for start, end in self._kept
        )

    def _with_stack(self, pages: int) -> list[Span]:
        """Return all memory but the counter and the stack, and the upper ``pages`` of the stack."""
        return merged((*self._other, *((page, page + PAGE_SIZE) for page in self._stack[:pages])))


def merged(spans: Iterable[Span]) -> list[Span]:
    """Return ``spans``, which do not overlap, in order, and those that touch as one."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and found[-1][1] == start:
            found[-1] = found[-1][0], end
        elif start < end:
            found.append((start, end))
    return found
