"""Steps of control tasks over numbers: what each is to the vCPUs and to the waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from engine.patching.automata.rules import Met, Rules
from engine.patching.automata.vcpu_record import VcpuRecord
from engine.patching.automata.wait_numbers import WaitNumbers
from engine.patching.control_tree import ControlNode, ControlStep
from engine.patching.exploration import Exploration

__all__ = ("ControlMoves", "Followed")


class Followed(NamedTuple):
    """What a step of a control task has led to.

    :ivar records: of each vCPU, the number of its record.
    :ivar left: the number of what the waits are left with.
    :ivar freed: a task stands in a slot or detour buffer that is not in use any more.
    :ivar in_flight: how often a write met a vCPU in flight.
    :ivar parked_in_range: how often a write met a task in the range of its site.
    """

    node: ControlNode
    records: tuple[int, ...]
    left: int
    freed: bool
    in_flight: int
    parked_in_range: int


class _Edge:
    """A step of a control task, and what it is to each record that has met it."""

    __slots__ = ("before", "met", "step", "task")

    def __init__(self, before: ControlNode, step: ControlStep, task: int) -> None:
        self.before = before
        self.step = step
        self.task = task
        self.met: dict[int, Met] = {}


class ControlMoves:
    """The steps of the control tasks of ``plain``.

    :param rules: the rules about control steps.
    :param records: all records of vCPUs, by number.
    :param waits: the numbers of waits.
    :param forget: called when runs of vCPUs stop at more places than before.
    """

    def __init__(
        self,
        plain: Exploration,
        rules: Rules,
        records: list[VcpuRecord],
        waits: WaitNumbers,
        forget: Callable[[], None],
    ) -> None:
        self._plain = plain
        self._rules = rules
        self._all = records
        self._waits = waits
        self._tell = forget
        # Only with late fetches, and where code can be hidden, do vCPUs have stores left to see.
        self._viewed = bool(plain.experiment.patches) or rules.follows
        self.clear()

    def clear(self) -> None:
        """Forget what steps were to vCPUs."""
        self._edges: dict[tuple[int, int], _Edge] = {}
        self._entered: dict[tuple[Any, ...], tuple[int, tuple[int, ...]]] = {}
        self._going_on: dict[tuple[int, int], bool] = {}

    def goes_on(self, node: ControlNode, task: int) -> bool:
        """Return whether it makes no difference if another actor comes before the task's step."""
        key = (node.number, task)
        known = self._going_on.get(key)
        if known is None:
            known = self._going_on[key] = self._rules.goes_on(node, task)
        return known

    def follow(self, node: ControlNode, records: tuple[int, ...], left: int, task: int) -> Followed:
        """Let control task ``task`` make one step.

        :param records: of each vCPU, the number of its record.
        :param left: the number of what the waits are left with.
        """
        edge = self._edges.get((node.number, task))
        if edge is None:
            edge = _Edge(node, self._plain.tree.step(node, task), task)
            self._edges[(node.number, task)] = edge
        freed, in_flight, parked = False, 0, 0
        numbers: list[int] = []
        for number in records:
            met = edge.met.get(number)
            if met is None:
                met = self._meet(edge, number)
            numbers.append(met.record.number)
            if met.counts:
                freed = freed or met.freed
                in_flight += met.in_flight
                parked += met.parked_in_range
        behind, now = edge.step.node, tuple(numbers)
        if left or behind.waits:
            left, now = self._enter(behind, now, left, task)
        return Followed(behind, now, left, freed, in_flight, parked)

    def _meet(self, edge: _Edge, number: int) -> Met:
        """Return what a step is to a vCPU that was not seen there before."""
        record, before, node = self._all[number], edge.before, edge.step.node
        if (
            record.alone
            and not self._rules.follows
            and not edge.step.writes
            and before.frozen is node.frozen
            and before.hidden is node.hidden
        ):
            met = Met(record, 0, 0, freed=False)
        else:
            met = self._rules.met(before, edge.step, edge.task, record)
        if self._plain.places.new:
            self._plain.steps.show(node)
            self._tell()
        edge.met[number] = met
        return met

    def _enter(
        self, node: ControlNode, numbers: tuple[int, ...], left: int, stepped: int
    ) -> tuple[int, tuple[int, ...]]:
        """Let the waits of ``node`` begin, go on and end, and return what is left of them."""
        records = [self._all[number] for number in numbers]
        # Where all vCPUs have seen all stores, a core sync changes none of them.
        seen = node.hidden is None and not (
            self._viewed and any(record.viewed for record in records)
        )
        who = tuple([record.facts for record in records]) if seen else numbers
        key = (node.number, left, stepped, seen, who)
        known = self._entered.get(key)
        if known is None:
            behind, changed = self._rules.entered(node, records, self._waits.lefts[left], stepped)
            known = self._waits.number_of(behind), tuple(record.number for record in changed)
            self._entered[key] = known
        return known[0], numbers if seen else known[1]
