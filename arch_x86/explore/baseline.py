"""Every order in which calls that share data can meet without probes: found by the search that also explores them with probes.

The system is the same one, without control tasks, and nothing has a bound: a vCPU can be left, at no cost, in front of each instruction
that touches memory which one task writes and another one reads or writes. Which instructions these are is not known at first. So all
accesses of memory are recorded. The first exploration has no choice points but between calls; as soon as a schedule shows an instruction
where tasks meet, that becomes a choice point, and the exploration starts again, until one has shown no more.

With probes this need not be done again: the calls of a schedule make the accesses that they make without probes in the same order. If they
make others, something has gone wrong before, and what they leave shows it.

Of what an interrupt does only one thing is part of an order: that it gives the vCPU to its other task. It can come wherever IF is set, so
with preemption there is a choice in front of each instruction that changes IF, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from arch_x86.emu.execute import Executor
from arch_x86.emu.machine import Machine
from arch_x86.explore.lane import Lane
from arch_x86.explore.orders import Orders, add_call
from arch_x86.explore.running import Plan
from arch_x86.explore.shared_access import Access, Accesses
from arch_x86.explore.system import X86System
from arch_x86.isa.constants import PAGE_SIZE
from arch_x86.probes.singlestep import changes_interrupt_flag
from engine.errors import InputError
from engine.search.conduct import explore
from engine.search.exhaustive import Exhaustive
from engine.search.explorable import Choice, Violation

__all__ = ("ORDERS_MOST", "UnprobedSystem")

ORDERS_MOST: Final = 100_000
"""It gives up after so many schedules, which take half a minute."""


class _NewPoints(Exception):
    """A schedule has shown more choice points: the exploration starts again."""


class UnprobedSystem(X86System):
    """The calls of ``plan``, which has no control tasks, on a machine of its own. :meth:`find_orders` is called once."""

    def __init__(self, machine: Machine, executor: Executor, plan: Plan) -> None:
        super().__init__(machine, executor, plan)
        self._accesses = Accesses()
        self._new = False
        self._met: set[int] = set()
        self._found = Orders()
        self._traces_stacks = plan.preempt
        layout, stubs = machine.layout, machine.stubs.frames
        self._ours = (range(layout.slots, layout.detours + layout.detours_size), range(min(stubs), max(stubs) + 1))
        for lane in self.lanes:
            self._trace(lane, self._pages_but(self._stacks_of(lane.index) if not plan.preempt else []))

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
        """From now on record what a vCPU loads and stores in the physical ``spans``."""
        seen: set[tuple[int, int, int, int, bool]] = set()

        def touched(rip: int, phys: int, size: int, store: bool) -> None:
            key = (lane.task, rip, phys, size, store)
            if key not in seen:
                seen.add(key)
                self._new = self._accesses.add(Access(*key)) or self._new

        self.machine.cpus[lane.index].uc.trace(spans, touched)

    def _look_for_points(self) -> None:
        """An access was seen for the first time: does it make a choice point?

        :raises _NewPoints: it does, and the exploration has to start again.
        """
        self._new = False
        met = {rip for rip in self._accesses.meeting_points() if not any(rip in span for span in self._ours)}
        if self.plan.preempt:
            met |= {addr for rip in self._accesses.instructions() for addr in self._flag_changes(rip)}
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
        """For each page of a vCPU's stacks, whether another vCPU's task touched it: then the accesses of its own tasks matter, too."""
        for lane in self.lanes:
            for span in self._stacks_of(lane.index):
                yield any(task // 2 != lane.index for task in self._accesses.tasks_in(span))

    def _flag_changes(self, rip: int) -> Iterator[int]:
        """The instructions that change IF in the function that holds ``rip``. With preemption all stacks are traced, so the RET of each
        function that was called is among the accesses."""
        function = self.node.world.arch.code.function_at(rip)
        if function is not None:
            yield from (insn.addr for insn in function.insns.values() if changes_interrupt_flag(insn))

    # The system without probes ----------------------------------------------------------------------------------------

    def choices(self) -> Sequence[Choice]:
        """As with probes, but that no choice costs anything, since there is no bound."""
        return [Choice(choice.actor, 0) for choice in super().choices()]

    def take(self, actor: str, most: int | None = None, *, alone: bool = False) -> int:
        """As with probes; a loop without an end and without a choice point ends at the limit of a call."""
        if most is None and self.plan.reduce:
            most = self.plan.limit
        return super().take(actor, most, alone=alone)

    def _events(self, lane: Lane) -> Iterator[Choice]:
        """Only the interrupts that give the vCPU to its other task."""
        return (choice for choice in super()._events(lane) if choice.actor[0] == "p")

    def _judge(self, lane: Lane, addr: int, got: tuple[Any, ...]) -> Violation | None:
        """Note what a call has left: with probes it may leave that, too."""
        del addr
        self.left = add_call(self.left, lane.task, self._found.note_call(lane.task, lane.calls - 1, got))
        return None

    def _dies_unprobed(self, lane: Lane, outcome: tuple[Any, ...]) -> bool:
        """Note that a call has died, and how: with probes it may do so, too."""
        self._judge(lane, 0, outcome)
        return True

    def _end(self) -> None:
        """All calls have ended: note what they have left, and the memory."""
        if self._new:
            self._look_for_points()
        self._found.note_end(self.left, self._changed_data(), self._content)
