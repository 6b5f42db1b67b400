"""What traps, interrupts and detour buffers push below the stack pointer of the code that they
interrupt, wherever that code has its stack.

Memory below RSP (below the red zone, where the code has one) is dead: the machine may overwrite it
at any moment, and what it leaves there is no part of what a call did. A call's own stack is not
compared at all below its final RSP; this is for code that puts RSP elsewhere.
"""

from __future__ import annotations

from typing import Final

from arch_x86.emu.cpu import Cpu
from arch_x86.emu.machine import Machine
from arch_x86.emu.uc import RSP
from arch_x86.isa.constants import PAGE_SIZE

__all__ = ("WINDOW", "Dead", "PushedBytes", "is_own_stack", "under")

WINDOW: Final = 640
"""All that is pushed lies within so many bytes below RSP: a red zone, a frame, pt_regs, and what an
interrupt handler scribbles over.
"""

Dead = dict[int, tuple[int, frozenset[int]]]
"""By address: the byte that the machine left there, and which bytes the code may have had there
when it was overwritten.
"""


def is_own_stack(machine: Machine, rsp: int) -> bool:
    """RSP points into the stack that the task of CPU 0 was given."""
    top = machine.tasks[0].stack_top
    return top - machine.config.stack_pages * PAGE_SIZE <= rsp <= top


def under(machine: Machine, rsp: int) -> bytes:
    """The :data:`WINDOW` bytes below ``rsp``; those in its page if the page before is not mapped;
    none if that is not, either.
    """
    for size in (WINDOW, (rsp - 1) % PAGE_SIZE + 1):
        data = machine.ram.read(rsp - size, size)
        if data is not None:
            return data
    return b""


class PushedBytes:
    """Notes each byte that the machine changes below an RSP outside of the task's own stack. See
    :class:`arch_x86.emu.cpu.FrameWatcher`.

    :ivar dead: the bytes so far.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._open: tuple[int, bytes] | None = None
        self.dead: Dead = {}

    def clear(self) -> None:
        """A run begins."""
        self.dead = {}
        self._open = None

    def save_state(self) -> tuple[Dead, tuple[int, bytes] | None]:
        """For a snapshot of the machine."""
        return self.dead.copy(), self._open

    def restore_state(self, state: tuple[Dead, tuple[int, bytes] | None]) -> None:
        """The machine has gone back to that snapshot, which is not gone back to again."""
        self.dead, self._open = state

    @property
    def awaits(self) -> bool:
        """A frame was pushed outside of the task's own stack, and what the code that it leads to
        pushes is still to come.
        """
        return self._open is not None

    def pushing(self, cpu: Cpu) -> None:
        """Before a frame: what is below RSP."""
        cpu.uc.load()
        rsp = cpu.uc.gpr[RSP]
        self._open = None if is_own_stack(self._machine, rsp) else (rsp, under(self._machine, rsp))

    def pushing_by_itself(self, rsp: int, before: bytes) -> None:
        """A detour buffer has been entered, where the code had ``before`` below ``rsp``, and is
        being answered.
        """
        self._open = rsp, before

    def pushed(self, cpu: Cpu) -> None:
        """All has been pushed: what has changed there since."""
        del cpu
        if self._open is not None:
            rsp, before = self._open
            self._open = None
            self._note(rsp, before)

    def _note(self, rsp: int, before: bytes) -> None:
        now = under(self._machine, rsp)
        for addr, old, new in zip(range(rsp - len(now), rsp), before, now, strict=True):
            if old != new:
                left, had = self.dead.get(addr, (-1, frozenset[int]()))
                # What an earlier frame left is not what the code had there, unless the code wrote
                # the same.
                self.dead[addr] = (new, had | {old} if left == old else frozenset((old,)))
