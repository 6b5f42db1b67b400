"""Calls that share data, without probes: every order in which they can meet, by the search that explores them with probes.

The system is the same one, without control tasks. Nothing is bounded: whoever has the CPU can be left, at no cost, in front of each
instruction that touches memory which one task writes and another one uses. Which instructions these are is not known at first. So the
accesses of all calls are looked at, from the first, coarse exploration on, in which one call is made after the other; as soon as one shows a place
where tasks meet that is not a choice point yet, it becomes one, and the exploration starts again. The last one finds no more.

A schedule with probes needs no such look: without what its probes do it is one of these orders, and makes the accesses of that. If it makes
others, something has gone wrong already, and what its calls leave will show it.

What an interrupt may do is part of an order only where it gives the CPU to the vCPU's other task, which it can where IF is set: so with
preemption there is a choice in front of each instruction that changes IF, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from arch_x86.emu.execute import Executor
from arch_x86.emu.machine import Machine
from arch_x86.emu.memory import PAGE_SIZE
from arch_x86.explore.lane import Lane, Mode
from arch_x86.explore.orders import Orders, add_call
from arch_x86.explore.running import Plan
from arch_x86.explore.shared_access import Access, Accesses
from arch_x86.explore.system import X86System
from arch_x86.isa.decode import MAX_INSN_SIZE, decode
from arch_x86.probes.singlestep import changes_interrupt_flag
from engine.errors import InputError
from engine.explore.drive import explore
from engine.explore.exhaustive import Exhaustive
from engine.explore.system import Choice, Violation

__all__ = ("ORDERS_MOST", "UnprobedSystem")

ORDERS_MOST: Final = 100_000
"""With more schedules than that it is given up: half a minute."""


class _NewPoints(Exception):  # noqa: N818  # nothing is wrong
    """There are choice points more, and all starts again."""


class UnprobedSystem(X86System):
    """The calls of ``plan``, which has no control tasks. To be asked once, by :meth:`find_orders`, on a machine of its own."""

    def __init__(self, machine: Machine, executor: Executor, plan: Plan) -> None:
        super().__init__(machine, executor, plan)
        self._accesses = Accesses()
        self._new = False
        self._met: set[int] = set()
        self._flag_changes: set[int] = set()
        self._executed: set[int] = set()
        self._found = Orders()
        self._traces_stacks = plan.preempt
        layout, stubs = machine.layout, machine.stubs.frames
        self._ours = (range(layout.slots, layout.detours + layout.detours_size), range(min(stubs), max(stubs) + 1))
        for lane in self.lanes:
            self._trace(lane, self._pages_but(self._stacks_of(lane.index) if not plan.preempt else []))

    def close(self) -> None:
        """The machine goes, too."""
        super().close()
        self.machine.close()

    def find_orders(self, most: int = ORDERS_MOST) -> Orders:
        """Explore them all.

        :raises InputError: there are too many.
        """
        while True:
            self._found = Orders()
            try:
                outcome = explore(Exhaustive(bound=None, max_schedules=most), self)
            except _NewPoints:
                continue
            if not outcome.exhaustive:
                raise InputError(
                    f"the calls share data in too many orders (more than {most:,} schedules without probes); "
                    "use fewer calls or vCPUs, or a function that touches shared memory less often"
                )
            self._found.points = frozenset(self._met)
            self._found.written = tuple(self._accesses.written())
            self._found.schedules = outcome.schedules
            return self._found

    # Accesses ---------------------------------------------------------------------------------------------------------

    def _stacks_of(self, cpu: int) -> list[range]:
        """Physical spans of the stacks of the tasks of a vCPU."""
        size = self.machine.config.stack_pages * PAGE_SIZE
        tops = (self.machine.tasks[cpu].stack_top, *(top for task, top in self._stacks.items() if task // 2 == cpu))
        spans: list[range] = []
        for top in tops:
            for page in range(top - size, top, PAGE_SIZE):
                phys = self.machine.ram.physical(page)
                assert phys is not None
                spans.append(range(phys, phys + PAGE_SIZE))
        return spans

    def _pages_but(self, left_out: Sequence[range]) -> list[tuple[int, int]]:
        """All data memory without the pages ``left_out``, as few spans as it takes."""
        without = {span.start for span in left_out}
        spans: list[tuple[int, int]] = []
        for _, phys in self.machine.ram.pages():
            if phys in without:
                continue
            if spans and spans[-1][1] == phys:
                spans[-1] = (spans[-1][0], phys + PAGE_SIZE)
            else:
                spans.append((phys, phys + PAGE_SIZE))
        return spans

    def _trace(self, lane: Lane, spans: Sequence[tuple[int, int]]) -> None:
        """Look at the accesses of a vCPU to ``spans``; where tasks can be preempted, at what changes IF, too."""
        seen: set[tuple[int, int, int, int, bool]] = set()

        def touched(rip: int, phys: int, size: int, store: bool) -> None:
            key = (lane.task, rip, phys, size, store)
            if key not in seen:
                seen.add(key)
                self._new = self._accesses.add(Access(*key)) or self._new

        def executing(rip: int) -> None:
            if rip not in self._executed:
                self._executed.add(rip)
                self._new = True

        self.machine.cpus[lane.index].uc.trace(spans, touched, executing if self.plan.preempt else None)

    def _look_for_points(self) -> None:
        """Something was done for the first time: does it make a choice point?

        :raises _NewPoints: it does.
        """
        self._new = False
        met = {rip for rip in self._accesses.meeting_points() if not any(rip in span for span in self._ours)}
        met |= {rip for rip in self._executed if self._changes_flag(rip)}
        if not self._traces_stacks and any(self._visited_stacks()):
            self._traces_stacks = True
            for lane in self.lanes:
                self._trace(lane, [(span.start, span.stop) for span in self._stacks_of(lane.index)])
        elif met <= self._met:
            return
        for rip in sorted(met - self._met):
            self._watch(rip, rip + 1)
        self._met |= met
        raise _NewPoints

    def _visited_stacks(self) -> Iterator[bool]:
        """Of each vCPU, whether a task of another one was seen in its stack: then its own accesses there matter, too."""
        for lane in self.lanes:
            for span in self._stacks_of(lane.index):
                yield any(task // 2 != lane.index for task in self._accesses.tasks_in(span))

    def _changes_flag(self, rip: int) -> bool:
        """The instruction at ``rip`` of the image changes IF."""
        if not self.machine.image.is_text(rip):
            return False
        insn = decode(self.machine.image.read(rip, MAX_INSN_SIZE), rip)
        return insn is not None and changes_interrupt_flag(insn)

    # The system without probes ----------------------------------------------------------------------------------------

    def choices(self) -> Sequence[Choice]:
        """Nothing costs anything: there is no bound."""
        return [Choice(choice.actor, 0) for choice in super().choices()]

    def take(self, actor: str, most: int | None = None, *, alone: bool = False) -> int:
        """An endless loop that meets nobody ends at the limit."""
        if most is None and self.plan.reduce:
            most = self.plan.limit
        return super().take(actor, most, alone=alone)

    def _events(self, lane: Lane) -> Iterator[Choice]:
        """Of interrupts only those that give the CPU to another task."""
        return (choice for choice in super()._events(lane) if choice.actor[0] == "p")

    def _judge(self, lane: Lane, addr: int, got: tuple[Any, ...]) -> Violation | None:
        """Whatever a call leaves is one of the things that it may leave."""
        del addr
        self.left = add_call(self.left, lane.task, self._found.note_call(lane.task, lane.calls - 1, got))
        return None

    def _dies_unprobed(self, lane: Lane, outcome: tuple[Any, ...]) -> bool:
        """So is that it dies."""
        self._judge(lane, 0, outcome)
        return True

    def _end(self) -> None:
        """One order has come to its end."""
        if self._new:
            self._look_for_points()
        self._found.note_end(self.left, self._changed_data(), self._content)
