"""The transitions of vCPUs' automata, each made once on the machine.

A transition is a run of a vCPU to its next choice point, or an event that comes to it. What it
leads to depends on the vCPU's record, on the memory that tasks share, on what oracles and return
probes remember, on the control state, and on which waits concern the vCPU; these are its key
(:mod:`engine.patching.automata.numbered`). This module brings the machine to where a transition
begins, lets the plain exploration make it, and reads what has come of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from engine.control.stepped_plane import MachineWait, WaitKind
from engine.patching.automata.shared_state import SharedStates
from engine.patching.automata.vcpu_record import Records, VcpuRecord
from engine.patching.automata.vcpu_run import VcpuRun
from engine.patching.control_tree import ControlNode
from engine.patching.exploration import Exploration
from engine.patching.vcpu_runs import ODD, ODDER, POINT_MASK
from engine.search.actor import ActorKind
from engine.search.explorable import Coverage, Violation

__all__ = ("Event", "Row", "Transitions", "joined")

_INVERSE: Final = pow(ODD, -1, POINT_MASK + 1)
"""A point's name less its control state's, times this number, is the vCPU's position."""
_SCHED, _TASKS, _SYNC, _STOP = -1, -2, -3, -4
"""These stand for control tasks whose waits show what a vCPU comes to."""


class Event(NamedTuple):
    """What a vCPU has come to that ends waits.

    :ivar quiescent: it has come to a quiescent point.
    :ivar passed: the tasks that have called ``schedule()``, or have ended their call.
    :ivar synced: it has taken the interrupt of each core sync that waits for it.
    """

    quiescent: bool
    passed: tuple[int, ...]
    synced: bool


class Row(NamedTuple):
    """What a transition leads to.

    :ivar record: the number of the vCPU's record behind it.
    :ivar steps: how many steps the vCPU made.
    :ivar shared: the number of the shared state behind it.
    :ivar event: what the vCPU has come to, or None for nothing.
    :ivar coverage: what it adds to the coverage, or None for nothing.
    :ivar points: behind how many of its steps each point was met.
    :ivar begins: a call was begun on the way.
    :ivar spent: how many instructions the call has retired, since it was begun on the way or else
        since the transition began.
    """

    record: int
    steps: int
    shared: int
    event: Event | None
    coverage: Coverage | None
    points: tuple[int, ...]
    begins: bool
    spent: int


def joined(rows: Sequence[Row]) -> Row:
    """Return the row of a run that is the runs of ``rows``, one after the other."""
    last, steps, spent = rows[-1], 0, 0
    begins, coverage = False, Coverage()
    points: list[int] = []
    events: list[Event] = []
    for row in rows:
        points += (steps + offset for offset in row.points)
        steps += row.steps
        spent = row.spent if row.begins else spent + row.spent
        begins = begins or row.begins
        if row.coverage is not None:
            coverage.add(row.coverage)
        if row.event is not None:
            events.append(row.event)
    event = Event(
        any(one.quiescent for one in events),
        tuple(sorted({task for one in events for task in one.passed})),
        any(one.synced for one in events),
    )
    return Row(
        last.record,
        steps,
        last.shared,
        event if events else None,
        coverage if coverage != Coverage() else None,
        tuple(points),
        begins,
        spent,
    )


class Transitions:
    """Makes transitions on the machine of ``plain``.

    :param records: the records of its vCPUs.
    :param shared: the states of what its vCPUs share.
    :ivar asked: the last transition depended on more of the control state than
        :meth:`engine.patching.control_tree.ControlNode.text_class` has.
    """

    def __init__(self, plain: Exploration, records: Records, shared: SharedStates) -> None:
        self._plain = plain
        self._records = records
        self._shared = shared
        self.asked = False
        self._nobody = frozenset[int]()
        self._all_cpus = frozenset(range(len(plain.vcpus)))
        self._all_tasks = frozenset(range(2 * len(plain.vcpus)))

    def make(
        self,
        run: VcpuRun,
        record: VcpuRecord,
        node: ControlNode,
        shared: int,
        spent: int = 0,
    ) -> tuple[Row, Violation | None]:
        """Let a vCPU go on, or let an event come to it.

        :param shared: the number of the present shared state.
        :param spent: how many instructions the present call has retired.
        :returns: the row, and the violation that the vCPU has come to, or None. With a violation
            the row tells what was met on the way, and no state is behind it.
        """
        plain, now = self._plain, self._plain.now
        vcpu = now.vcpus[record.index]
        self._shared.put(shared)
        self._records.put(record, vcpu, spent)
        plain.steps.show(node)
        calls, task, vcpu.position = vcpu.calls, vcpu.task, 0
        now.coverage, now.points = Coverage(), set()
        plain.waits.left = self._probing(vcpu.index, run.waits)
        node.asked = False
        if run.kind is ActorKind.VCPU:
            steps = plain.runs.run(vcpu, run.most, alone=run.alone, whole=run.whole)
        else:
            plain.happens(run.kind, vcpu)
            steps = 1
        self.asked = node.asked
        violation, coverage = plain.judge.violation, now.coverage
        now.coverage = Coverage()  # What comes next must not be counted in the row.
        began = vcpu.calls != calls or vcpu.task != task
        base = node.name + vcpu.index * ODDER
        row = Row(
            record.number if violation else self._records.present(vcpu, node.lives).number,
            steps,
            shared if violation else self._shared.present(),
            self._event(vcpu.index),
            coverage if coverage != Coverage() else None,
            tuple(sorted((point - base) * _INVERSE & POINT_MASK for point in now.points)),
            began,
            plain.port.cpus.spent(vcpu.index) - (0 if began else spent),
        )
        return row, violation

    def _probing(self, cpu: int, waits: int) -> dict[int, tuple[MachineWait, frozenset[int]]]:
        """Return waits that show what the vCPU comes to, besides those that concern it."""
        left = {
            _SCHED: (MachineWait(WaitKind.SCHED, "", _SCHED), self._all_cpus),
            _TASKS: (MachineWait(WaitKind.TASKS, "", _TASKS), self._all_tasks),
        }
        if waits & 1:
            left[_SYNC] = (MachineWait(WaitKind.SYNC, "", _SYNC), frozenset({cpu}))
        if waits & 2:
            left[_STOP] = (MachineWait(WaitKind.STOP, "", _STOP), self._nobody)
        return left

    def _event(self, cpu: int) -> Event | None:
        """Return what the vCPU has come to, as the waits of :meth:`_probing` show it."""
        left = self._plain.waits.left
        event = Event(
            cpu not in left[_SCHED][1],
            tuple(sorted(self._all_tasks - left[_TASKS][1])),
            _SYNC in left and not left[_SYNC][1],
        )
        return event if event.quiescent or event.passed or event.synced else None
