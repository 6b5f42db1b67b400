"""The rules of an exploration, asked about records instead of vCPUs on the machine.

The rules are those of the plain exploration: :class:`engine.patching.choices.Choices`,
:class:`engine.patching.waits.Waits`, and what control steps bring to vCPUs
(:meth:`engine.patching.control_steps.ControlSteps.meet`). This module has none of its own. It puts
records into a situation without a machine, asks there, and reads what has changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from engine.control.stepped_plane import MachineWait
from engine.patching.automata.recorded_port import RecordedPort
from engine.patching.automata.vcpu_record import Records, VcpuRecord
from engine.patching.boundaries import Boundaries
from engine.patching.choices import Choices
from engine.patching.control_steps import ControlSteps
from engine.patching.control_tree import ControlNode, ControlStep
from engine.patching.exploration import Exploration
from engine.patching.fetches import Fetches
from engine.patching.situation import Situation
from engine.patching.suspended_tasks import SuspendedTasks
from engine.patching.waits import Waits
from engine.search.actor import Actor
from engine.search.explorable import Choice, Coverage

__all__ = ("Left", "Met", "Rules")

Left = Mapping[int, tuple[MachineWait, frozenset[int]]]
"""By control task, its wait, and the vCPUs or tasks for which it still waits."""


class Met(NamedTuple):
    """What a step of a control task is to one vCPU.

    :ivar record: where the vCPU stands behind the step.
    :ivar parked_in_range: how often a write met a task of the vCPU in the range of its site.
    :ivar in_flight: how often a write met the vCPU in flight.
    :ivar freed: a task of the vCPU stands in a slot or detour buffer that is not in use.
    """

    record: VcpuRecord
    parked_in_range: int
    in_flight: int
    freed: bool

    @property
    def counts(self) -> bool:
        """Return whether the step is anything to the vCPU beside its record."""
        return self.freed or bool(self.in_flight or self.parked_in_range)


class Rules:
    """The rules of ``plain``, asked about records.

    :param plain: the exploration on the machine.
    :param records: the records of its vCPUs.
    """

    def __init__(self, plain: Exploration, records: Records) -> None:
        self._plain = plain
        self._records = records
        port = RecordedPort(plain.port)
        self._cpus = port.cpus
        self._now = now = Situation(port, plain.experiment, plain.now.calls)
        now.unprobed = plain.now.unprobed
        now.sites, now.insns = plain.now.sites, plain.now.insns
        self._vcpus = tuple(now.vcpus)
        self._boundaries = boundaries = Boundaries(now)
        self._waits = Waits(
            now.vcpus,
            boundaries.takes_interrupt,
            boundaries.tasks_of,
            boundaries.stops,
            boundaries.freezes,
            boundaries.allocates,
            lambda: now.node.hidden is not None,
            boundaries.in_user_mode,
        )
        fetches = Fetches(now, plain.places)
        self.follows = fetches.follows
        self._steps = ControlSteps(
            now,
            plain.judge,
            tree=plain.tree,
            places=plain.places,
            waits=self._waits,
            fetches=fetches,
            suspended=SuspendedTasks(now),
        )
        self._choices = Choices(
            now,
            boundaries=boundaries,
            waits=self._waits,
            steps=self._steps,
            fetches=fetches,
            apart=plain.choice.apart,
            alike=plain.choice.alike,
        )

    def _place(self, node: ControlNode, records: Sequence[VcpuRecord], left: Left) -> None:
        """Let the situation be that of ``records`` in the control state ``node``."""
        now = self._now
        now.node = node
        now.vcpus[:] = self._vcpus
        self._cpus.records = records
        for vcpu, record in zip(now.vcpus, records, strict=True):
            vcpu.restore(record.state)
        self._waits.left = dict(left)

    def offered(
        self, node: ControlNode, records: Sequence[VcpuRecord], left: Left, actor: Actor | None
    ) -> list[Choice]:
        """Return the choices of a state.

        :param left: the waits of its control tasks.
        :param actor: the actor that went on last.
        """
        self._place(node, records, left)
        self._now.actor = actor
        return self._choices.offered()

    def calls_left(self, record: VcpuRecord) -> object:
        """Return the calls that the tasks of a vCPU between calls have left."""
        vcpu = self._vcpus[record.index]
        vcpu.restore(record.state)
        return self._choices.calls_left(vcpu)

    def waits_to_run(self, node: ControlNode, record: VcpuRecord) -> bool:
        """Return whether a vCPU is suspended, or waits at hidden code."""
        self._now.node = node
        self._cpus.records = {record.index: record}
        vcpu = self._vcpus[record.index]
        vcpu.restore(record.state)
        return self._boundaries.waits_to_run(vcpu)

    def goes_on(self, node: ControlNode, task: int) -> bool:
        """Return whether it makes no difference if another actor comes before the task's step."""
        self._now.node = node
        return self._steps.goes_on(task)

    def entered(
        self, node: ControlNode, records: Sequence[VcpuRecord], left: Left, stepped: int
    ) -> tuple[Left, tuple[VcpuRecord, ...]]:
        """Return the waits, and the vCPUs, behind a step of control task ``stepped`` to ``node``.

        A vCPU that takes the interrupt of a core sync at once is synchronized.
        """
        self._place(node, records, left)
        self._waits.entered(node.waits, stepped)
        return self._waits.left, tuple(
            record
            if vcpu.save() == record.state
            else self._records.changed(record, vcpu, node.lives)
            for vcpu, record in zip(self._vcpus, records, strict=True)
        )

    def met(self, before: ControlNode, edge: ControlStep, task: int, record: VcpuRecord) -> Met:
        """Return what a step of control task ``task`` from ``before`` is to one vCPU."""
        now, vcpu = self._now, self._vcpus[record.index]
        if before.frozen is not edge.node.frozen:
            return self._met_on_machine(before, edge, task, record)
        now.node = before
        now.vcpus[:] = [vcpu]
        self._cpus.records = {record.index: record}
        vcpu.restore(record.state)
        now.coverage = coverage = Coverage()
        self._steps.meet(before, edge, task)
        now.node = edge.node
        behind = self._records.changed(record, vcpu, edge.node.lives)
        now.vcpus[:] = self._vcpus
        return Met(
            behind,
            coverage.parked_in_range,
            coverage.in_flight_at_write,
            self._is_in_freed(edge.node, record),
        )

    def _met_on_machine(
        self, before: ControlNode, edge: ControlStep, task: int, record: VcpuRecord
    ) -> Met:
        """Return what :meth:`met` does of a step that may move tasks, which the machine has to do.

        :param before: the control state in front of the step.
        """
        plain, now = self._plain, self._plain.now
        everyone = tuple(now.vcpus)
        vcpu = everyone[record.index]
        self._records.put(record, vcpu, 0)
        plain.steps.show(before)
        now.vcpus[:] = [vcpu]
        now.coverage = coverage = Coverage()
        plain.steps.meet(before, edge, task)
        now.vcpus[:] = everyone
        now.coverage = Coverage()
        plain.steps.show(edge.node)
        behind = self._records.present(vcpu, edge.node.lives)
        return Met(
            behind,
            coverage.parked_in_range,
            coverage.in_flight_at_write,
            self._is_in_freed(edge.node, behind),
        )

    def _is_in_freed(self, node: ControlNode, record: VcpuRecord) -> bool:
        """Return whether a task stands in a slot or detour buffer that ``node`` does not use."""
        buffers, vcpu = self._now.port.text.buffers, self._vcpus[record.index]
        return any(ip in buffers and not node.in_use(ip) for ip in self._steps.places_of(vcpu))

    def dropped(
        self, left: Left, cpu: int, *, quiescent: bool, passed: Sequence[int], synced: bool
    ) -> Left:
        """Return what is left of waits after what a vCPU has come to.

        :param quiescent: it has come to a quiescent point.
        :param passed: the tasks that have called ``schedule()``, or have ended their call.
        :param synced: it has taken the interrupt of each core sync that waits for it.
        """
        waits = self._waits
        waits.left = dict(left)
        if quiescent:
            waits.quiescent(cpu)
        for task in passed:
            waits.task_passed(task)
        if synced:
            waits.synced(cpu)
        return waits.left

    def concerned(self, left: Left) -> tuple[int, ...]:
        """Return for each vCPU how waits concern its runs.

        :returns: 1 if a core sync waits for the vCPU, and 2 more if ``stop_machine`` waits for all
            vCPUs.
        """
        waits = self._waits
        waits.left = dict(left)
        stopping = 2 * (bool(left) and waits.stopping)
        return tuple(waits.syncs_with(vcpu.index) + stopping for vcpu in self._vcpus)

    def name_of(self, left: Left) -> object:
        """Return for the hash of a state which vCPUs and tasks each wait still waits for."""
        self._waits.left = dict(left)
        return self._waits.key()
