"""Every order in which calls that share data can meet without probes: found by the search that also
explores them with probes.

The system is the same one, without control tasks, and nothing has a bound: a vCPU can be left, at
no cost, in front of each instruction that touches memory which one task writes and another one
reads or writes. Which instructions these are is not known at first. So all accesses of memory are
recorded. The first exploration has no choice points but between calls; as soon as a schedule shows
an instruction where tasks meet, that becomes a choice point, and the exploration starts again,
until one has shown no more.

With probes this need not be done again: the calls of a schedule make the accesses that they make
without probes in the same order. If they make others, something has gone wrong before, and what
they leave shows it.

Of what an interrupt does only one thing is part of an order: that it gives the vCPU to its other
task. It can come wherever IF is set, so with preemption there is a choice in front of each
instruction that changes IF, too.
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
"""It gives up after so many schedules, which take half a minute."""


class _NewPoints(Exception):
    """A schedule has shown more choice points: the exploration starts again."""


class Baseline:
    """The calls of ``experiment``, which has no control tasks, on a machine of its own: an
    exploration in which no choice costs anything, and no interrupt comes but those that give a vCPU
    to its other task. :meth:`find_orders` is called once.
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
        """Explore them all.

        :raises InputError: there are too many.
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
            return found

    def close(self) -> None:
        """Give the machine back."""
        self._system.close()

    # Accesses -------------------------------------------------------------------------------------

    def _pages_but(self, left_out: Sequence[range]) -> list[tuple[int, int]]:
        """All data memory without the pages ``left_out``, as few spans as it takes."""
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
        """From now on record what a vCPU loads and stores in the physical ``spans``."""
        seen: set[tuple[int, int, int, int, bool]] = set()

        def touched(rip: int, phys: int, size: int, store: bool) -> None:
            key = (vcpu.task, rip, phys, size, store)
            if key not in seen:
                seen.add(key)
                self._new = self._accesses.add(Access(*key)) or self._new

        self._port.unprobed.trace(vcpu.index, spans, touched)

    def _at_end(self) -> None:
        """A schedule has ended. If an access was seen in it for the first time: does it make a
        choice point?

        :raises _NewPoints: it does, and the exploration has to start again.
        """
        if not self._new:
            return
        self._new = False
        unprobed, places = self._port.unprobed, self._system.places
        met = {rip for rip in self._accesses.meeting_points() if not unprobed.is_machines_own(rip)}
        if self._experiment.preempt:
            # All stacks are traced then, so the RET of each function that was called is among the
            # accesses.
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
        """For each page of a vCPU's stacks, whether another vCPU's task touched it: then the
        accesses of its own tasks matter, too.
        """
        for vcpu in self._system.vcpus:
            for span in self._port.unprobed.stacks(vcpu.index):
                yield any(task // 2 != vcpu.index for task in self._accesses.tasks_in(span))

    # The system without probes, for a search ------------------------------------------------------

    @property
    def coverage(self) -> Coverage:
        """See :class:`engine.search.explorable.System`."""
        return self._system.coverage

    @coverage.setter
    def coverage(self, coverage: Coverage) -> None:
        self._system.coverage = coverage

    @property
    def points(self) -> set[int]:
        """See :class:`engine.search.explorable.System`."""
        return self._system.points

    @points.setter
    def points(self, points: set[int]) -> None:
        self._system.points = points

    @property
    def trace(self) -> Trace:
        """See :class:`engine.search.explorable.System`."""
        return self._system.trace

    @property
    def violation(self) -> Violation | None:
        """See :class:`engine.search.explorable.System`."""
        return self._system.violation

    def reset(self) -> None:
        """To the start."""
        self._system.reset()

    def choices(self) -> Sequence[Choice]:
        """As with probes, but that none costs anything, since there is no bound, and that plain
        interrupts are left out.
        """
        return [
            Choice(choice.actor, 0)
            for choice in self._system.choices()
            if choice.actor.kind is not ActorKind.INTERRUPT
        ]

    def take(self, actor: Actor, most: int | None = None, *, alone: bool = False) -> int:
        """As with probes; a loop without an end and without a choice point ends at the limit of a
        call.
        """
        if most is None and self._experiment.reduce:
            most = self._experiment.max_instructions
        return self._system.take(actor, most, alone=alone)

    def save(self) -> Any:
        """The present state."""
        return self._system.save()

    def restore(self, state: Any) -> None:
        """Go back."""
        self._system.restore(state)

    def release(self, state: Any) -> None:
        """``state`` is not needed any more."""
        self._system.release(state)

    def key(self) -> int:
        """The state's name."""
        return self._system.key()
