"""This module finds out whether a call reads what an interrupt may change (AMD64 psABI, 3.2.2).

An interrupt may change the stack below RSP (below the red zone, where the code has one): its frame
lies there, and its handler's own data. A byte that was there at some boundary, and that the call
has not written since, is stale. A call that reads no stale byte, and not the interrupt handler's
counter either, goes on alike whether an interrupt has come and gone or not.
"""

from __future__ import annotations

from typing import Final

from arch_x86.emu.live_memory import COUNTER_SIZE, merged
from arch_x86.emu.machine import Machine
from arch_x86.emu.stubs import GS_INTERRUPTS
from arch_x86.isa.constants import PAGE_SIZE, RED_ZONE_SIZE

__all__ = ("StackUse",)

_LOAD_MAX: Final = 64
"""No load of the emulator's has more bytes."""


class StackUse:
    """This class watches one call on CPU 0, from its beginning.

    The caller tells it of each boundary, and it is told by the emulator of each load and store.
    What the host stores for the guest, such as the frames of exceptions, it is not told of, so it
    takes that for stale.

    :param rsp: RSP at the beginning of the call.
    :ivar reads_stale: whether the call has read what an interrupt may have changed, or has left its
        own stack, where this class does not know what is stale.
    """

    def __init__(self, machine: Machine, rsp: int) -> None:
        self._uc = machine.cpus[0].uc
        self._red_zone = RED_ZONE_SIZE if machine.image.red_zone else 0
        self._size = machine.config.stack_pages * PAGE_SIZE
        self._low = machine.tasks[0].stack_top - self._size
        virtual = {phys: vpn * PAGE_SIZE for vpn, phys in machine.ram.pages()}
        self._virtual = {
            phys: addr for phys, addr in virtual.items() if 0 <= addr - self._low < self._size
        }
        counter = machine.ram.physical(machine.layout.gs_base(0) + GS_INTERRUPTS)
        assert counter is not None
        self._counter = counter
        live = max(rsp - self._red_zone - self._low, 0)
        self._written = bytearray(live) + b"\1" * (self._size + PAGE_SIZE - live)
        """A byte of the stack, or of the page above it, is 1 here if it is not stale."""
        self._lowest = live
        """All bytes below this offset are stale."""
        self.reads_stale = False

    def begin(self) -> None:
        """Let the emulator tell of loads and stores from now on."""
        stack = merged((phys, phys + PAGE_SIZE) for phys in self._virtual)
        # A load that begins in front of the counter may reach into it.
        counter = (self._counter - _LOAD_MAX, self._counter + COUNTER_SIZE)
        self._uc.hooks.trace((*stack, counter), self._touched)

    def end(self) -> None:
        """Let the emulator be silent again."""
        self._uc.hooks.stop_recording()

    def boundary(self, rsp: int) -> None:
        """Take note that the call stands between two instructions with this RSP."""
        dead_end = rsp - self._red_zone - self._low
        if not 0 <= rsp - self._low <= self._size:
            self.reads_stale = True
        elif dead_end > self._lowest:
            self._written[self._lowest : dead_end] = bytes(dead_end - self._lowest)
            self._lowest = dead_end

    def _touched(self, _rip: int, phys: int, size: int, store: bool) -> None:
        page = self._virtual.get(phys & -PAGE_SIZE)
        if page is None:
            self._touched_counter(phys, size)
            return
        at = page - self._low + phys % PAGE_SIZE
        if store:
            self._written[at : at + size] = b"\1" * size
            self._lowest = min(self._lowest, at)
        elif not all(self._written[at : at + size]):
            self.reads_stale = True

    def _touched_counter(self, phys: int, size: int) -> None:
        # A store to the counter is as bad as a load: the handler counts on from there.
        if phys < self._counter + COUNTER_SIZE and phys + size > self._counter:
            self.reads_stale = True
