"""The search for every order in which calls that share data can meet without probes.

The search engine is the one that also explores the calls with probes. The system is the same, too,
but it has no control tasks, and there is no bound: a vCPU can be left, at no cost, in front of each
instruction that touches memory which one task writes and another one reads or writes. Which
instructions these are is not known at first, so all accesses of memory are recorded. In the first
exploration the only choice points are between calls. When a schedule shows an instruction where
tasks meet in memory, that instruction becomes a choice point, and the exploration starts again. It
is complete when it has shown no more such instructions.

With probes this search need not be done again: the calls of a schedule with probes make the
accesses that they make without probes in the same order. If they make other accesses, something has
gone wrong before, and what the calls leave in memory and registers shows it.

An interrupt matters to an order in one way only: it can give the vCPU to its other task. It can
come wherever IF is set, so where tasks can be preempted there is also a choice in front of each
instruction that changes IF.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from engine.errors import InputError
from engine.patching.experiment import Experiment
from engine.patching.exploration import Exploration
from engine.patching.oracles.noted_outcomes import NotedOutcomes
from engine.patching.orders import Orders
from engine.patching.planned_call import PlannedCall
from engine.patching.port import Port
from engine.patching.shared_access import Access, Accesses
from engine.patching.situation import Situation
from engine.patching.vcpu import VcpuState
from engine.search.actor import Actor, ActorKind
from engine.search.conduct import explore
from engine.search.exhaustive import Exhaustive
from engine.search.explorable import Choice, Coverage, Trace, Violation

__all__ = ("ORDERS_MOST", "Baseline")

ORDERS_MOST: Final = 100_000
"""The search gives up after this many schedules, which take half a minute."""


class _NewPoints(Exception):
    """This signal says that a schedule has shown more choice points.

    The exploration starts again when it comes.
    """


class Baseline:
    """This system has the calls of an experiment without control tasks, for a search.

    The machine is its own. No choice costs anything, and the only interrupts are those that
    give a vCPU to its other task. :meth:`find_orders` can be called once.

    :param port: the machine that runs the calls.
    :param experiment: the experiment, which has no control tasks.
    :param calls: the call that each task makes, by the task's number.
    """

    def __init__(
        self, port: Port, experiment: Experiment, calls: Mapping[int, PlannedCall]
    ) -> None:
        self._port = port
        self._experiment = experiment
        self._notes: NotedOutcomes
        self._system = Exploration(port, experiment, calls, [self._make_notes])
        self._accesses = Accesses()
        self._new = False
        self._met: set[int] = set()
        self._traces_stacks = experiment.preempt
        for vcpu in self._system.vcpus:
            self._trace(
                vcpu,
                self._pages_but(port.unprobed.stacks(vcpu.index) if not experiment.preempt else []),
            )

    def _make_notes(self, now: Situation) -> NotedOutcomes:
        self._notes = NotedOutcomes(now, self._at_end)
        return self._notes

    def find_orders(self, most: int = ORDERS_MOST) -> Orders:
        """Explore the calls without probes until no schedule shows a new choice point.

        :param most: the number of schedules after which the search gives up.
        :returns: all orders that were found, and what the calls leave in each.
        :raises InputError: there are more than ``most`` schedules.
        """
        while True:
            found = self._notes.found = Orders(self._port.text.facts)
            try:
                outcome = explore(Exhaustive(bound=None, max_schedules=most), self)
            except _NewPoints:
                continue
            if not outcome.exhaustive:
                raise InputError(
                    f"the calls share data in too many orders (more than {most:,} schedules without"
                    " probes); use fewer calls or vCPUs, or a function that touches shared memory"
                    " less often"
                )
            found.points = frozenset(self._met)
            found.written = tuple(self._accesses.written())
            found.schedules = outcome.schedules
            found.on_stacks = any(self._visited_stacks())
            return found

    def close(self) -> None:
        """Release the machine. The baseline must not be used after that."""
        self._system.close()

    # Accesses -------------------------------------------------------------------------------------

    def _pages_but(self, left_out: Sequence[range]) -> list[tuple[int, int]]:
        """Return physical spans that cover all data memory but the pages ``left_out``.

        The spans are (begin, end), and as few as possible.
        """
        without = {span.start for span in left_out}
        size, spans = self._port.unprobed.page_size, list[tuple[int, int]]()
        for phys in self._port.unprobed.pages():
            if phys in without:
                continue
            if spans and spans[-1][1] == phys:
                spans[-1] = (spans[-1][0], phys + size)
            else:
                spans.append((phys, phys + size))
        return spans

    def _trace(self, vcpu: VcpuState, spans: Sequence[tuple[int, int]]) -> None:
        """Record from now on what a vCPU loads and stores in the physical ``spans``."""
        seen: set[tuple[int, int, int, int, bool]] = set()

        def touched(rip: int, phys: int, size: int, store: bool) -> None:
            key = (vcpu.task, rip, phys, size, store)
            if key not in seen:
                seen.add(key)
                self._new = self._accesses.add(Access(*key)) or self._new

        self._port.unprobed.trace(vcpu.index, spans, touched)

    def _at_end(self) -> None:
        """Look for new choice points at the end of a schedule that has shown a new access.

        :raises _NewPoints: there is a new choice point, so the exploration has to start
            again.
        """
        if not self._new:
            return
        self._new = False
        unprobed, places = self._port.unprobed, self._system.places
        met = {rip for rip in self._accesses.meeting_points() if not unprobed.is_machines_own(rip)}
        if self._experiment.preempt:
            # Where tasks can be preempted all stacks are traced, so the RET of each function that
            # was called is among the accesses, and flag_changes() is asked about each function.
            met |= {
                addr for rip in self._accesses.instructions() for addr in unprobed.flag_changes(rip)
            }
        if not self._traces_stacks and any(self._visited_stacks()):
            self._traces_stacks = True
            for vcpu in self._system.vcpus:
                self._trace(vcpu, [(span.start, span.stop) for span in unprobed.stacks(vcpu.index)])
        elif met <= self._met:
            return
        for rip in sorted(met - self._met):
            places.watch(rip, rip + 1)
        self._met |= met
        raise _NewPoints

    def _visited_stacks(self) -> Iterator[bool]:
        """Yield for each page of a vCPU's stacks whether a task of another vCPU touched it.

        If one did, the accesses that the vCPU's own tasks make to their stacks matter, too.
        """
        for vcpu in self._system.vcpus:
            for span in self._port.unprobed.stacks(vcpu.index):
                yield any(task // 2 != vcpu.index for task in self._accesses.tasks_in(span))

    # The system without probes, for a search ------------------------------------------------------

    @property
    def coverage(self) -> Coverage:
        """Return what the schedules have shown since a fresh record was put here."""
        return self._system.coverage

    @coverage.setter
    def coverage(self, coverage: Coverage) -> None:
        self._system.coverage = coverage

    @property
    def points(self) -> set[int]:
        """Return the names of the points that were met since a fresh set was put here.

        A name is a hash of a vCPU's position and a control state.
        """
        return self._system.points

    @points.setter
    def points(self, points: set[int]) -> None:
        self._system.points = points

    @property
    def trace(self) -> Trace:
        """Return the choices and steps that have led to the present state."""
        return self._system.trace

    @property
    def violation(self) -> Violation | None:
        """Return what is wrong in the present state, or None."""
        return self._system.violation

    def reset(self) -> None:
        """Go back to the start of the schedule, where no call has begun."""
        self._system.reset()

    def choices(self) -> Sequence[Choice]:
        """Return the choices of the present state, at no cost each, since there is no bound.

        Plain interrupts are left out: they do not change the order in which calls meet.
        """
        return [
            Choice(choice.actor, 0)
            for choice in self._system.choices()
            if choice.actor.kind is not ActorKind.INTERRUPT
        ]

    def take(self, actor: Actor, most: int | None = None, *, alone: bool = False) -> int:
        """Let ``actor`` go on as in an exploration with probes, and return how many steps it made.

        With reduction a step goes on to the next choice point. In a loop without an end and
        without a choice point, the step ends at the limit of instructions of a call.
        """
        if most is None and self._experiment.reduce:
            most = self._experiment.max_instructions
        return self._system.take(actor, most, alone=alone)

    def save(self) -> Any:
        """Return a record of the present state, for :meth:`restore`."""
        return self._system.save()

    def restore(self, state: Any) -> None:
        """Go back to a state that :meth:`save` has returned."""
        self._system.restore(state)

    def release(self, state: Any) -> None:
        """Say that ``state`` is not needed any more, so that its memory can be used again."""
        self._system.release(state)

    def key(self) -> int:
        """Return a hash of all that decides what can happen from the present state on."""
        return self._system.key()
