"""Runs of a vCPU in a second instance, which counts by blocks and answers hits inside.

It answers to no kernel file. A vCPU has a *usual* instance, in which the emulator counts each
instruction, and every exception ends the run. That is exact, simple, and slow: counting takes as
long as ten instructions do, and to leave for a hit as long as a thousand. So a long run goes on in
the *fast* instance of the same vCPU. It has the same memory, page tables and text; its instructions
are counted by blocks (:mod:`arch_x86.emu.block_counter`), and its hits are answered in callbacks
(:mod:`arch_x86.emu.hits_inside`).

The vCPU's state moves there and back again with each such run, and whatever ends the run is told as
the usual instance would tell it: :meth:`FastRun.start` stands in the place of
:meth:`UcInstance.start <arch_x86.emu.uc.UcInstance.start>`. The instructions between the last whole
block and the limit (the budget of the turn, the next interrupt, the instruction limit) are executed
in the usual instance. Nothing that can be observed depends on where an instruction was executed.

There is no fast instance where the host can't have machine code of its own, where the emulator does
not tell what it takes to move a state (:mod:`arch_x86.emu.calibration`), or where there is no room
for one. While instructions are watched or recorded it is not used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from arch_x86.emu.cpu import Cpu
from arch_x86.emu.fast_instance import FastInstance
from arch_x86.emu.traps import Traps
from arch_x86.emu.uc import UcInstance

if TYPE_CHECKING:
    from arch_x86.emu.machine import Machine

__all__ = ("FastRun",)

_LEAST: Final = 3_000
"""Fewer instructions than this take no longer in the usual instance, if there are no hits."""
_COLD: Final = 2_000
"""How many instructions of a call are executed in the usual instance first: most calls of
``verify`` are shorter, and would gain nothing.
"""
_POOR: Final = 250
"""A run in the fast instance that gets no further than this has cost more than it gained."""
_WAIT_MIN, _WAIT_MAX = 64, 4_096


class FastRun:
    """The way in which a vCPU of ``machine`` runs fast where that pays.

    :param traps: gives the answers for which the usual instance leaves.
    :param handling: the vCPUs whose traps are being handled, innermost last.
    """

    __slots__ = (
        "_cpu",
        "_fast",
        "_handling",
        "_impossible",
        "_machine",
        "_next_wait",
        "_traps",
        "_wait",
    )

    def __init__(self, machine: Machine, cpu: Cpu, traps: Traps, handling: list[int]) -> None:
        self._machine = machine
        self._cpu = cpu
        self._traps = traps
        self._handling = handling
        self._fast: FastInstance | None = None
        self._impossible = False
        self._wait = _COLD
        self._next_wait = 0

    def call_begins(self) -> None:
        """Take note that a call begins on the vCPU."""
        self._wait = _COLD
        self._next_wait = 0

    def close(self) -> UcInstance | None:
        """Return the instance, for the return to a pool; no run may follow."""
        fast, self._fast = self._fast, None
        self._impossible = True
        return None if fast is None else fast.close()

    def _instance(self) -> FastInstance | None:
        """Return the fast instance, which is made when it is first needed; None: there is none."""
        fast = self._fast
        if fast is None and not self._impossible:
            made = self._machine.second_instance(self._cpu)
            if made is not None:
                fast = self._fast = FastInstance(
                    self._machine, self._cpu, *made, self._traps, self._handling
                )
            self._impossible = made is None
        return None if fast is None or fast.given_up else fast

    def start(self, count: int, done: int) -> int:
        """Run from RIP until ``hlt``, an exception or ``count`` instructions.

        :param count: above 0.
        :param done: how many instructions have retired before that the vCPU's own count does not
            have yet.
        :returns: what :meth:`UcInstance.start <arch_x86.emu.uc.UcInstance.start>` returns. The
            state of the usual instance is as it is behind that.
        """
        uc, fast = self._cpu.uc, self._fast
        # A guest function that a handler calls may run while the fast instance is in a callback.
        if count < _LEAST or (fast is not None and fast.inside) or uc.hooks.watching:
            return uc.start(count, goes_on=done > 0)
        begun = 0
        while True:
            left = count - begun
            slow, fast = left, None
            if left >= _LEAST and left > self._wait:
                fast = self._instance()
                slow = left if fast is None else self._wait
            if slow:
                began = uc.start(slow, goes_on=done + begun > 0)
                self._wait = max(0, self._wait - began)
                begun += min(began, slow)
                if began <= slow or begun == count:
                    return begun + (began > slow)
            if fast is not None:
                before = begun
                begun, over = fast.run(count, begun, done)
                if over:
                    self._schedule(begun - before)
                    return begun
                if begun == count:
                    return count + 1
                # The limit is near, or the usual instance has to say what has happened.
                self._wait = _WAIT_MIN

    def _schedule(self, gained: int) -> None:
        """Decide how far the usual instance runs before the next run of the fast one.

        :param gained: how many instructions the last run of the fast instance executed.
        """
        poor = gained < _POOR
        self._next_wait = min(max(2 * self._next_wait, _WAIT_MIN), _WAIT_MAX) if poor else 0
        self._wait = self._next_wait
