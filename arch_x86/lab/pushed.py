"""This module notes what the machine pushes below the code's stack pointer (AMD64 psABI, 3.2.2).

Traps, interrupts and detour buffers push there. Memory below RSP (below the red zone, where the
code has one) is dead: the machine may overwrite it at any moment, and what it leaves there is no
part of what a call did. Of a call's own stack nothing below the final RSP is compared. This module
is for code that puts its stack elsewhere.
"""

from __future__ import annotations

from typing import Final

from arch_x86.emu.cpu import Cpu
from arch_x86.emu.machine import Machine
from arch_x86.emu.uc import RSP
from arch_x86.isa.constants import PAGE_SIZE

__all__ = ("WINDOW", "Dead", "PushedBytes", "is_own_stack", "under")

WINDOW: Final = 640
"""All that is pushed lies within this many bytes below RSP.

That is a red zone, a frame, pt_regs, and what an interrupt handler overwrites.
"""

Dead = dict[int, tuple[int, frozenset[int]]]
"""By address, it has the byte that the machine left there, and bytes that may have been there.

The latter are those that the code had there when the machine overwrote them.
"""


def is_own_stack(machine: Machine, rsp: int) -> bool:
    """Return True when ``rsp`` points into the stack that the task of CPU 0 was given."""
    top = machine.tasks[0].stack_top
    return top - machine.config.stack_pages * PAGE_SIZE <= rsp <= top


def under(machine: Machine, rsp: int) -> bytes:
    """Return the :data:`WINDOW` bytes below ``rsp``.

    Where the page before that of ``rsp`` is not mapped, these are the bytes in the page of ``rsp``;
    where that is not mapped either, there are none.
    """
    for size in (WINDOW, (rsp - 1) % PAGE_SIZE + 1):
        data = machine.ram.read(rsp - size, size)
        if data is not None:
            return data
    return b""


class PushedBytes:
    """This class notes each byte that the machine changes below an RSP outside of its task's stack.

    It is a :class:`arch_x86.emu.cpu.FrameWatcher`.

    :ivar dead: the bytes so far.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._open: tuple[int, bytes] | None = None
        self.dead: Dead = {}

    def clear(self) -> None:
        """Forget all bytes, since a run begins."""
        self.dead = {}
        self._open = None

    def save_state(self) -> tuple[Dead, tuple[int, bytes] | None]:
        """Return the state for a snapshot of the machine."""
        return self.dead.copy(), self._open

    def restore_state(self, state: tuple[Dead, tuple[int, bytes] | None]) -> None:
        """Go back to what :meth:`save_state` has returned, which may be gone back to only once."""
        self.dead, self._open = state

    @property
    def awaits(self) -> bool:
        """Return True when more is to be pushed behind a frame outside of the task's own stack.

        The code that the frame leads to pushes it.
        """
        return self._open is not None

    def pushing(self, cpu: Cpu) -> None:
        """Keep what is below RSP, in front of a frame that is about to be pushed."""
        cpu.uc.load()
        rsp = cpu.uc.gpr[RSP]
        self._open = None if is_own_stack(self._machine, rsp) else (rsp, under(self._machine, rsp))

    def pushing_by_itself(self, rsp: int, before: bytes) -> None:
        """Take ``before`` for what was below ``rsp``, as a detour buffer has pushed there.

        It has pushed without a frame, and its callback is being answered.
        """
        self._open = rsp, before

    def pushed(self, cpu: Cpu) -> None:
        """Note what has changed below RSP, now that all has been pushed."""
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
                # Where the byte still is what an earlier frame left, the code's own byte is one of
                # those noted then, or this one, if the code has written the same since. Where it
                # is another byte, the code has written it.
                self.dead[addr] = (new, had | {old} if left == old else frozenset((old,)))
