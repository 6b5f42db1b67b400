"""One scenario on one machine, as something that can be explored: the parts, put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.errors import EngineBug, InputError, KprobeError, OptprobeError
from engine.patching.boundaries import Boundaries
from engine.patching.choices import Choices
from engine.patching.control_state import Stage
from engine.patching.control_steps import ControlSteps
from engine.patching.control_tree import ControlNode, ControlTree
from engine.patching.data_content import DataContent
from engine.patching.experiment import Experiment
from engine.patching.footprints import Footprints
from engine.patching.handler_events import HandlerEvents
from engine.patching.hit_pieces import HitPieces
from engine.patching.judge import Judge, MakeOracle
from engine.patching.nmis import Nmis
from engine.patching.oracles.listed import ORACLES
from engine.patching.orders import Orders
from engine.patching.parked_task import Mode
from engine.patching.places import Places
from engine.patching.planned_call import PlannedCall
from engine.patching.port import Port
from engine.patching.shared_variables import share_variables
from engine.patching.situation import Situation
from engine.patching.states import SavedState, States
from engine.patching.task_switches import TaskSwitches
from engine.patching.vcpu import VcpuState
from engine.patching.vcpu_runs import VcpuRuns
from engine.patching.waits import Waits
from engine.search.actor import Actor, ActorKind
from engine.search.explorable import Choice, Coverage, Trace, Violation
from engine.search.footprint import Footprint

__all__ = ("Exploration",)


class Exploration:
    """vCPUs, interrupts and control tasks of one scenario, as a
    :class:`engine.search.footprint.SystemWithFootprints`.

    :param calls: of each task, its call.
    :param oracles: what is asked whether all is well, in this order.
    :ivar now: where it stands; ``judge``: what is wrong there.
    :ivar refused: a line for each probe that the core refuses when the control tasks run alone.
    :raises InputError: a control task does not end.
    """

    def __init__(
        self,
        port: Port,
        experiment: Experiment,
        calls: Mapping[int, PlannedCall],
        oracles: Sequence[MakeOracle] = ORACLES,
    ) -> None:
        self.port = port
        self.experiment = experiment
        self.now = now = Situation(port, experiment, calls)
        self.judge = judge = Judge(now, oracles)
        self.places = Places(now)
        self.boundaries = Boundaries(now)
        self.waits = Waits(
            now.vcpus,
            self.boundaries.takes_interrupt,
            self.boundaries.tasks_of,
            self.boundaries.stops,
        )
        events = HandlerEvents(now, judge)
        code = experiment.control_tasks
        shared = share_variables((work for _, work in code()), port.own_code)
        self._apart = False
        self.tree = ControlTree(
            Stage(
                port.text,
                experiment.profile,
                events,
                code,
                port.own_code,
                nmis=experiment.nmis,
                points=experiment.points,
                shared=shared,
            ),
            self._learn,
        )
        self.steps = ControlSteps(now, judge, tree=self.tree, places=self.places, waits=self.waits)
        self.footprints = Footprints(
            now, judge, tree=self.tree, places=self.places, waits=self.waits
        )
        self.tasks = TaskSwitches(now, self.waits)
        hits = HitPieces(now, judge, events)
        self.nmis = Nmis(now, judge, hits, self.waits)
        self.runs = VcpuRuns(
            now,
            judge,
            places=self.places,
            waits=self.waits,
            boundaries=self.boundaries,
            tasks=self.tasks,
            events=events,
            hits=hits,
            nmis=self.nmis,
        )
        self._prepare()

    def _prepare(self) -> None:
        """Find out what control tasks and calls do alone, and stand at the start."""
        port, experiment, now = self.port, self.experiment, self.now
        nodes = self.tree.nodes_alone()
        self.refused = tuple(
            dict.fromkeys(line for node in nodes for line in node.state.control.refused)
        )
        returns = self.tree.nodes[-1].state.control.returns.values()
        # One that was never registered has no address.
        now.unprobed = unprobed = port.unprobed.run_all(
            [rp.kp.addr for rp in returns if rp.kp.addr is not None]
        )
        enough = self._instances_suffice(self.tree.nodes[-1])
        self._apart = experiment.reduce and experiment.apart and enough and not unprobed.shares
        self.choice = Choices(
            now,
            boundaries=self.boundaries,
            waits=self.waits,
            steps=self.steps,
            apart=self._apart,
            alike=self._apart and unprobed.alike,
        )
        tasks = [port.cpus.new_tasks(vcpu.index) for vcpu in now.vcpus]
        now.data = DataContent(
            port.memory.room, port.memory.content(), port.memory.data(per_cpu=unprobed.shares)
        )
        self.states = States(
            now, self.judge, waits=self.waits, steps=self.steps, choices=self.choice, tasks=tasks
        )
        self.judge.start()
        self.reset()

    def judge_by(self, orders: Orders) -> None:
        """From now on what calls leave has to be what they leave in one of ``orders``, and a vCPU
        can be left in front of each instruction where they meet.
        """
        self.now.orders = orders
        self.judge.start()
        for addr in sorted(orders.points):
            self.places.watch(addr, addr + 1)
        self.reset()

    def close(self) -> None:
        """End what is under way, and give the machine back. Nothing of the exploration may be used
        any more.
        """
        self.tree.close()
        self.port.close()

    # Setting up -----------------------------------------------------------------------------------

    def _learn(self, node: ControlNode) -> None:
        """A new control state: whether it is sound, and what to watch in it."""
        self.judge.learn(node)
        self.places.learn(node)
        if self._apart and not self._instances_suffice(node):
            raise InputError(
                "a return probe comes only with some schedules, so it is not known what tasks"
                " share; explore with --no-reduction"
            )

    def _instances_suffice(self, node: ControlNode) -> bool:
        """No call can find the instances of a return probe taken; each vCPU may be in an NMI that
        interrupted one of its tasks.
        """
        calls = len(self.now.calls) + self.experiment.nmis * len(self.vcpus)
        return self.now.unprobed.instances_suffice(node.state.control.returns.values(), calls)

    def error_alone(self) -> OptprobeError | None:
        """An error, other than what the core refuses, that a control task ends in when nobody else
        runs.
        """
        errors = (task.error for task in self.tree.nodes_alone()[-1].state.plane.tasks)
        return next((error for error in errors if isinstance(error, EngineBug | InputError)), None)

    def refuse_bad_start(self) -> None:
        """Control tasks alone, before any vCPU runs, end well.

        :raises KprobeError: the core refuses one of their probes.
        """
        for task in self.tree.nodes_alone()[-1].state.plane.tasks:
            if isinstance(task.error, KprobeError):
                raise task.error

    # What it is -----------------------------------------------------------------------------------

    @property
    def vcpus(self) -> list[VcpuState]:
        """What is known of each vCPU beside its registers."""
        return self.now.vcpus

    @property
    def node(self) -> ControlNode:
        """The control state that the vCPUs see."""
        return self.now.node

    @property
    def orders(self) -> Orders | None:
        """Where calls share data, what they may leave."""
        return self.now.orders

    @property
    def shares(self) -> bool:
        """Calls write to memory that others may read, so what each leaves depends on their order:
        see :meth:`judge_by`.
        """
        return self.now.unprobed.shares

    def where(self, addr: int) -> str:
        """An address as people name it."""
        return self.port.text.where(addr)

    def allowed_methods(self) -> tuple[str, ...]:
        """How the sites can be hit: words of :class:`Coverage`; none, where no probe was
        registered.
        """
        return self.places.allowed_methods()

    # A system that can be explored ----------------------------------------------------------------

    @property
    def coverage(self) -> Coverage:
        """What was seen since a fresh one was put here."""
        return self.now.coverage

    @coverage.setter
    def coverage(self, coverage: Coverage) -> None:
        self.now.coverage = coverage

    @property
    def points(self) -> set[int]:
        """Names of the pairs of a vCPU's position and a control state that were met since a fresh
        set was put here.
        """
        return self.now.points

    @points.setter
    def points(self, points: set[int]) -> None:
        self.now.points = points

    @property
    def trace(self) -> Trace:
        """How the present state came about."""
        return self.now.trace

    @property
    def violation(self) -> Violation | None:
        """What is wrong in the present state."""
        return self.judge.violation

    def reset(self) -> None:
        """To the start: nothing has happened."""
        self.states.reset(self.tree.root)

    def save(self) -> SavedState:
        """The present state."""
        return self.states.save()

    def restore(self, state: SavedState) -> None:
        """Go back."""
        self.states.restore(state)

    def release(self, state: SavedState) -> None:
        """``state`` is not needed any more."""
        self.states.release(state)

    def key(self) -> int:
        """A hash of all that decides what can happen from here."""
        return self.states.key()

    def choices(self) -> Sequence[Choice]:
        """How to go on; as before first, where that can be. At the end of a schedule the oracles
        look at what it has left.
        """
        if self.judge.violation is not None:
            return ()
        found = self.choice.offered()
        if not found:
            self._end()
        return found

    def _end(self) -> None:
        """Nobody can go on."""
        waiting = [
            self.node.at(task.index) for task in self.node.state.plane.tasks if not task.done
        ]
        asleep = ((vcpu.index, one.rip) for vcpu in self.vcpus for one in vcpu.asleep if waiting)
        self.judge.schedule_ended(
            [*waiting, *(f"a task of CPU {cpu} sleeps at {self.where(ip)}" for cpu, ip in asleep)]
        )

    def footprint(self, actor: Actor) -> Footprint:
        """What the step of ``actor`` may touch that begins in the present state."""
        return self.footprints.of(actor)

    def take(self, actor: Actor, most: int | None = None, *, alone: bool = False) -> int:
        """One choice; see :class:`engine.search.explorable.System`."""
        now, (kind, index) = self.now, actor
        if kind is ActorKind.VCPU:
            now.actor = actor
            vcpu = now.vcpus[index]
            steps = self.runs.run(vcpu, most, alone=alone or self.choice.goes_whole(vcpu))
        elif kind is ActorKind.CONTROL:
            steps = self.steps.step(index, most)
            now.actor = actor
        else:
            vcpu = now.vcpus[index]
            self._happens(kind, vcpu)
            steps = 1
            now.actor = vcpu.actor
        trace = now.trace
        if trace is not None and trace[1] == actor:
            now.trace = (trace[0], actor, trace[2] + steps)
        else:
            now.trace = (trace, actor, steps)
        return steps

    def _happens(self, kind: ActorKind, vcpu: VcpuState) -> None:
        """An interrupt, one that preempts, an NMI, or a switch to another task."""
        if kind is ActorKind.INTERRUPT:
            self.tasks.interrupt(vcpu)
        elif kind is ActorKind.PREEMPTION:
            self.tasks.preempt(vcpu)
        elif kind is ActorKind.NMI:
            self.nmis.deliver(vcpu)
        else:
            self.tasks.switch(vcpu, self.port.cpus.ip(vcpu.index))
            # which of two idle tasks has the CPU is all the same, so one that gets it makes its
            # call
            if vcpu.mode is Mode.IDLE:
                self.runs.begin_call(vcpu)
