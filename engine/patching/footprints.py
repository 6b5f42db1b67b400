"""What a step that a choice begins may touch (:class:`engine.search.footprint.Footprint`).

The effects of a control task's step are known exactly, since the control state behind it is known:
which bytes of text it writes, which locks it takes and drops, and whether it changes what control
tasks share. What the step reads of the shared part is not known, so it is taken to read all of it.

A step of a vCPU is one instruction or one piece of a hit. It is known what the step executes, and
whether it may ask the core. Where calls write to their own stacks and buffers only
(:mod:`engine.patching.independence`), these tell it apart from steps of other vCPUs; where calls
share data, it is taken to read and write all shared data.

Nothing better is known of these steps than that they may touch everything:

* An interrupt, an NMI, and a switch to another task. They are offered only behind a step of the
  same vCPU, so they could not change places with the step before them.
* Any step of an exploration with reduction, since such a step goes on to the next choice point. A
  partial-order method takes the place of the reduction.
* Any step where an oracle that does not belong to the project looks on, since what it remembers is
  part of the state.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from engine.patching.control_tree import ControlNode, ControlTree
from engine.patching.judge import Judge
from engine.patching.oracles.listed import ORACLES
from engine.patching.parked_task import Mode
from engine.patching.places import Places
from engine.patching.situation import Situation
from engine.patching.vcpu import VcpuState
from engine.patching.waits import Waits
from engine.search.actor import Actor, ActorKind
from engine.search.footprint import EVERYTHING, Footprint

__all__ = ("Data", "DataKind", "Footprints")


class DataKind(Enum):
    """These are the kinds of shared data in an exploration of code patching."""

    CORE = auto()
    """Control tasks share this data, and hits read it.

    It is the core's table, lists, flags and switches, the slots and detour buffers, and what is
    expected of each probe.
    """
    TASKS = auto()
    """This data tells which control tasks there are, and which of them have ended."""
    TASK = auto()
    """This data belongs to one control task alone."""
    VCPU = auto()
    """This data is one vCPU's: where it stands, its registers, and its tasks' stacks and buffers.
    """
    WAITS = auto()
    """This data tells for which vCPUs and tasks the waits of control tasks still wait."""
    MEMORY = auto()
    """This data is the memory that calls share."""
    CALLS = auto()
    """This data tells which calls return probes follow."""


class Data(NamedTuple):
    """This record names one piece of the shared data.

    :ivar kind: the kind of data.
    :ivar number: the number of the task or vCPU that the data belongs to; 0 for the other
        kinds.
    """

    kind: DataKind
    number: int = 0


class Footprints:
    """This object works out what the choices that the present state offers may touch."""

    def __init__(
        self, now: Situation, judge: Judge, *, tree: ControlTree, places: Places, waits: Waits
    ) -> None:
        self._now = now
        self._experiment = now.experiment
        self._judge = judge
        self._tree = tree
        self._places = places
        self._waits = waits
        self._text = now.port.text
        self._locks: dict[tuple[int, int], frozenset[str]] = {}

    def of(self, actor: Actor) -> Footprint:
        """Return what the step of ``actor`` that begins in the present state may touch."""
        foreign = any(type(oracle) not in ORACLES for oracle in self._judge.oracles)
        if self._experiment.reduce or foreign:
            return EVERYTHING
        if actor.kind is ActorKind.CONTROL:
            return self._of_control(actor.index)
        if actor.kind is ActorKind.VCPU:
            return self._of_vcpu(self._now.vcpus[actor.index])
        return EVERYTHING

    # Control tasks --------------------------------------------------------------------------------

    def _of_control(self, task: int) -> Footprint:
        before = self._now.node
        edge = self._tree.step(before, task)
        behind = edge.node
        reads = {Data(DataKind.CORE), Data(DataKind.TASKS)}
        writes = {Data(DataKind.TASK, task)}
        if not (behind.is_alike_but_for(task, before) and self._expects_alike(before, behind)):
            writes.add(Data(DataKind.CORE))
        if self._ended(before) != self._ended(behind):
            writes.add(Data(DataKind.TASKS))
        # A wait that begins or ends looks at all vCPUs, and stop_machine keeps them where they are.
        if before.waits or behind.waits or before.stopped or behind.stopped:
            reads |= {Data(DataKind.VCPU, vcpu.index) for vcpu in self._now.vcpus}
            writes.add(Data(DataKind.WAITS))
        return Footprint(
            written=tuple(range(one.addr, one.addr + len(one.data)) for one in edge.writes),
            locks=self._locks_of(before, task),
            reads=frozenset(reads),
            writes=frozenset(writes),
        )

    def _locks_of(self, node: ControlNode, task: int) -> frozenset[str]:
        """Return the locks that the step takes, drops or looks at.

        A control state does not tell which locks its last step has taken and dropped again,
        so the step is made once more to see that.
        """
        found = self._locks.get((node.number, task))
        if found is None:
            found = self._locks[node.number, task] = self._tree.locks_of_step(node, task)
        return found

    def _expects_alike(self, one: ControlNode, other: ControlNode) -> bool:
        """Return whether the oracles expect the same of the probes in both control states."""
        return one.lives == other.lives and one.state.expected() == other.state.expected()

    def _ended(self, node: ControlNode) -> tuple[bool, ...]:
        """Return for each control task whether it has ended."""
        return tuple(task.done for task in node.state.plane.tasks)

    # vCPUs ----------------------------------------------------------------------------------------

    def _of_vcpu(self, vcpu: VcpuState) -> Footprint:
        now, shared = self._now, set[Data]()
        if self._waits.left:
            shared.add(Data(DataKind.WAITS))
        if now.unprobed.shares:
            shared.add(Data(DataKind.MEMORY))
        if any(node.state.control.returns for node in self._tree.nodes):
            shared.add(Data(DataKind.CALLS))
        ip = now.port.cpus.ip(vcpu.index)
        # The core's answer also depends on the text, which counts as a part of the core's data.
        asks = vcpu.live and self._asks_core(vcpu, ip)
        facts = self._text.facts
        size = max(facts.insn_size_max, facts.patch_size_max)
        return Footprint(
            fetched=(range(ip, ip + size),) if vcpu.live and vcpu.hit is None else (),
            reads=frozenset({*shared, *({Data(DataKind.CORE)} if asks else ())}),
            writes=frozenset({*shared, Data(DataKind.VCPU, vcpu.index)}),
        )

    def _asks_core(self, vcpu: VcpuState, ip: int) -> bool:
        """Return whether what the vCPU does next may depend on the core.

        It may where the vCPU is in a hit, in an NMI, or in a pass over a site, which is
        judged when it ends; and where the vCPU stands at a site, or in a slot, a detour
        buffer or a stub.
        """
        return (
            vcpu.hit is not None
            or vcpu.nmi
            or vcpu.passing is not None
            or vcpu.stepping
            or bool(vcpu.block[0])
            or ip in self._places.near
            or ip in self._text.buffers
            or ip in self._text.stubs
            or any(one.mode is Mode.CALL and one.passing is not None for one in vcpu.parked)
        )
