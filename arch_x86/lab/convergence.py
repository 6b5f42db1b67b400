"""This module makes one run of a call stand for many, each interrupted at one boundary of it.

``verify`` asks whether the call ends well wherever one interrupt comes. When the interrupt's
handler has returned, and the interrupted code finds all registers and all live memory as they were,
the rest of the call is the rest of the call without an interrupt. So nothing needs to go back: the
same run goes on, to be interrupted at the next boundary. At its end its outcome is compared as that
of every other run is.

That is exact under these conditions. Where one of them does not hold, :meth:`Convergence.runs`
answers None, and ``verify`` makes one run for each boundary:

* The unprobed call reads nothing that an interrupt may change: no stale byte of its stack, nor the
  counter of interrupts. It never leaves its own stack. :mod:`arch_x86.lab.stack_use` records that.
* The handler ends after as many instructions as it always has, without asking the host.
* It leaves all registers that the code can read, and all live memory, as they were.
* Neither the run without interrupts nor one with a single interrupt comes near its limit of
  instructions.
* The run ends well. This condition is for the machine's own code (stubs, slots and detour buffers)
  and for what the host reads on its behalf, of which the unprobed call tells nothing. Whatever a
  handler leaves on the dead stack is there when that code comes to the next boundary, as it is in
  the run that is interrupted right there. So where such code reads what is dead, this run ends
  badly.

A run that ends badly does not say at which boundary, so nothing is taken from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from arch_x86.emu.cpu import ExitReason
from arch_x86.emu.live_memory import LiveMemory
from arch_x86.emu.uc import RSP
from arch_x86.emu.visible_registers import VisibleRegisters
from arch_x86.isa.constants import RED_ZONE_SIZE
from arch_x86.lab.bench import Workbench
from arch_x86.lab.pushed import is_own_stack

__all__ = ("Convergence",)

_REPORT_EVERY: Final = 256


class Convergence:
    """This class makes such runs of one call on CPU 0.

    It is made when all buffers of the call are allocated.

    :param handler_length: how many instructions the interrupt's handler retires.
    """

    def __init__(self, bench: Workbench, handler_length: int) -> None:
        machine = bench.machine
        self._machine, self._executor = machine, bench.executor
        self._handler_length = handler_length
        self._registers = VisibleRegisters(machine.cpus[0].uc)
        self._memory = LiveMemory(machine, 0)
        self._red_zone = RED_ZONE_SIZE if machine.image.red_zone else 0

    def runs(
        self,
        positions: Sequence[int],
        limit: int,
        *,
        ends_well: Callable[[], bool],
        progress: Callable[[int, int], None] | None = None,
    ) -> int | None:
        """Interrupt the call that has just begun at each of ``positions``, and run it to its end.

        :param positions: how many instructions have retired at each place, in order.
        :param limit: the most instructions of the call.
        :param ends_well: says whether the call, which has ended, did so as the unprobed one did.
        :param progress: is called as ``progress(done, total)`` with counts of positions.
        :returns: how many interrupts were delivered: so many runs, with one interrupt each, end
            well. None says nothing of them.
        """
        vcpu, executor = self._machine.cpus[0], self._executor
        first, spent, delivered = vcpu.retired, 0, 0
        for done, position in enumerate(positions):
            if progress is not None and done % _REPORT_EVERY == 0:
                progress(done, len(positions))
            ahead = position - (vcpu.retired - first)
            if ahead > 0:
                spent += executor.advance(0, ahead)
            if executor.running(0):
                converged = self._interrupt()
                if converged is None:
                    return None
                delivered += converged
        spent += executor.advance(0, limit)
        if executor.running(0) or spent + self._handler_length > limit or not ends_well():
            return None
        return delivered

    def _interrupt(self) -> bool | None:
        """Deliver an interrupt, and run its handler.

        :returns: whether one was delivered, which IF may forbid; None where the interrupted code
            does not stand as it stood.
        """
        vcpu, length = self._machine.cpus[0], self._handler_length
        rip, retired, interrupts = vcpu.rip, vcpu.retired, vcpu.interrupts
        vcpu.uc.load()
        rsp = vcpu.uc.gpr[RSP]
        if not is_own_stack(self._machine, rsp):
            return None
        before = self._registers.read()
        # What lies above the call's own frame is its caller's, which looks at it in the end.
        self._memory.keep(min(rsp - self._red_zone, self._machine.tasks[0].base_rsp))
        if not self._executor.interrupt(0):
            return False
        if (
            not self._executor.running(0)
            or vcpu.run(length) != (ExitReason.BUDGET, length)
            or vcpu.rip != rip
            or vcpu.in_shadow
            or self._registers.read() != before
            or not self._memory.is_as_kept()
        ):
            return None
        vcpu.retired, vcpu.interrupts = retired, interrupts
        return True
