"""The exploration of one scenario on one machine: it puts the parts of a system together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from engine.errors import EngineBug, InputError, KprobeError, OptprobeError
from engine.patching.boundaries import Boundaries
from engine.patching.choices import Choices
from engine.patching.code_limit import CodeLimit
from engine.patching.control_state import Stage
from engine.patching.control_steps import ControlSteps
from engine.patching.control_tree import ControlNode, ControlTree
from engine.patching.data_content import DataContent
from engine.patching.experiment import Experiment
from engine.patching.fetch_model import fetch_model
from engine.patching.fetches import Fetches
from engine.patching.footprints import Footprints
from engine.patching.handler_events import HandlerEvents
from engine.patching.hit_pieces import HitPieces
from engine.patching.judge import Judge, MakeOracle
from engine.patching.nmis import Nmis
from engine.patching.oracles.listed import ORACLES
from engine.patching.orders import Orders
from engine.patching.parked_task import Mode
from engine.patching.patched_calls import patched_outcomes
from engine.patching.places import Places
from engine.patching.planned_call import PlannedCall
from engine.patching.port import Port
from engine.patching.shared_variables import share_variables
from engine.patching.situation import Situation
from engine.patching.states import SavedState, States
from engine.patching.suspended_tasks import SuspendedTasks
from engine.patching.task_switches import TaskSwitches
from engine.patching.vcpu import VcpuState
from engine.patching.vcpu_runs import VcpuRuns
from engine.patching.waits import Waits
from engine.search.actor import Actor, ActorKind
from engine.search.explorable import Choice, Coverage, Trace, Violation
from engine.search.footprint import Footprint

__all__ = ("Exploration",)


class Exploration:
    """An exploration is one scenario's vCPUs, interrupts and control tasks as a system.

    It implements :class:`engine.search.footprint.SystemWithFootprints`.

    :param port: the machine that runs the calls.
    :param experiment: the scenario's options and control tasks.
    :param calls: the call that each task makes, by the task's number.
    :param oracles: what makes the oracles, in the order in which they are asked.
    :ivar now: the present state.
    :ivar judge: asks the oracles, and holds what is wrong in the present state.
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
            self.boundaries.freezes,
            self.boundaries.allocates,
            lambda: now.node.hidden is not None,
            self.boundaries.in_user_mode,
        )
        events = HandlerEvents(now, judge)
        self._apart = False
        self.tree = ControlTree(self._stage(events), self._learn)
        self.fetches = Fetches(now, self.places)
        self.steps = ControlSteps(
            now,
            judge,
            tree=self.tree,
            places=self.places,
            waits=self.waits,
            fetches=self.fetches,
            suspended=SuspendedTasks(now),
        )
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
            fetches=self.fetches,
            waits=self.waits,
            boundaries=self.boundaries,
            tasks=self.tasks,
            events=events,
            hits=hits,
            nmis=self.nmis,
        )
        self._prepare()

    def _stage(self, events: HandlerEvents) -> Stage:
        """Return what all control states of the exploration share."""
        port, experiment = self.port, self.experiment
        code, own = experiment.control_tasks, port.own_code
        poke = experiment.poke
        # A patch protocol is a function that its poke protocol has.
        run = [*(work for _, work in code()), poke, getattr(poke, "run", None)]
        comes_along = all(one is None or own.comes_along(one) for one in run)
        return Stage(
            port.text,
            experiment.profile,
            events,
            code,
            port.own_code,
            limit=None if comes_along else CodeLimit(own),
            nmis=experiment.nmis,
            switched=experiment.switched,
            late=experiment.strict or not fetch_model(experiment.fetch).coherent,
            points=experiment.points,
            shared=share_variables((work for _, work in code()), port.own_code),
        )

    def _prepare(self) -> None:
        """Run the control tasks alone and the calls alone, then go to the start of the schedule."""
        port, experiment, now = self.port, self.experiment, self.now
        nodes = self.tree.nodes_alone()
        self.refused = tuple(dict.fromkeys(line for node in nodes for line in node.state.remarks))
        returns = self.tree.nodes[-1].state.control.returns.values()
        # A return probe that was never registered has no address.
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
            fetches=self.fetches,
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
        """Judge calls that share data by ``orders`` from now on.

        What the calls leave has to be what they leave in one of the orders, and a vCPU can
        be left in front of each instruction where the calls meet.
        """
        self.now.orders = orders
        self.judge.start()
        for addr in sorted(orders.points):
            self.places.watch(addr, addr + 1)
        self.reset()

    def judge_patches(self, changes: int) -> None:
        """Let calls leave what they leave with the old code and the new code of patched sites.

        :param changes: 1 where the new code comes, and 2 where the old code comes back, too.
        :raises InputError: passes over the sites can choose in too many ways.
        """
        now = self.now
        now.patched, now.passed = patched_outcomes(
            self.port,
            now.calls,
            now.patches,
            changes=changes,
            limit=self.experiment.max_instructions,
        )
        self.reset()

    def close(self) -> None:
        """End the control tasks, and release the machine.

        No part of the exploration may be used after that.
        """
        self.tree.close()
        self.port.close()

    # Setting up -----------------------------------------------------------------------------------

    def _learn(self, node: ControlNode) -> None:
        """Let the oracles look at a new control state, and watch what matters there.

        :raises InputError: a return probe of the state has too few instances, so tasks may
            share them, though the search relies on tasks that share nothing.
        """
        self.judge.learn(node)
        self.places.learn(node)
        if self._apart and not self._instances_suffice(node):
            raise InputError(
                "a return probe comes only with some schedules, so it is not known what tasks"
                " share; explore with --no-reduction"
            )

    def _instances_suffice(self, node: ControlNode) -> bool:
        """Return whether no call can ever find all instances of a return probe taken.

        Each vCPU may be in an NMI that interrupted one of its tasks, so NMIs count as
        calls.
        """
        calls = len(self.now.calls) + self.experiment.nmis * len(self.vcpus)
        return self.now.unprobed.instances_suffice(node.state.control.returns.values(), calls)

    def error_alone(self) -> OptprobeError | None:
        """Return the error in which a control task ends when the tasks run alone, or None.

        An error by which the core refuses an operation does not count.
        """
        errors = (task.error for task in self.tree.nodes_alone()[-1].state.plane.tasks)
        return next((error for error in errors if isinstance(error, EngineBug | InputError)), None)

    def refuse_bad_start(self) -> None:
        """Require that the core refuses nothing when the control tasks run alone.

        :raises KprobeError: a control task has ended in this error.
        """
        for task in self.tree.nodes_alone()[-1].state.plane.tasks:
            if isinstance(task.error, KprobeError):
                raise task.error

    # What it is -----------------------------------------------------------------------------------

    @property
    def vcpus(self) -> list[VcpuState]:
        """Return what is known of each vCPU beside its registers."""
        return self.now.vcpus

    @property
    def node(self) -> ControlNode:
        """Return the control state that the vCPUs see."""
        return self.now.node

    @property
    def orders(self) -> Orders | None:
        """Return the orders by which calls that share data are judged, or None."""
        return self.now.orders

    @property
    def shares(self) -> bool:
        """Return whether calls write to memory that other calls may read.

        What each call leaves then depends on their order, and :meth:`judge_by` has to say
        which orders there are.
        """
        return self.now.unprobed.shares

    def where(self, addr: int) -> str:
        """Return the name of an address for people, such as its function and offset."""
        return self.port.text.where(addr)

    def never_executed(self, coverage: Coverage) -> Iterator[str]:
        """Yield what of the sites that a patch protocol replaces no vCPU has ever executed.

        :param coverage: what the schedules have shown.
        """
        if not self.now.patches:
            return
        for site in self.now.patches:
            if site.addr not in self.now.passed:
                yield f"the code at {self.where(site.addr)}"
        if self.now.passed:
            if not coverage.old_code:
                yield "the old code"
            if not coverage.new_code:
                yield "the new code"

    def allowed_methods(self) -> tuple[str, ...]:
        """Return the ways in which the sites can be hit, as words of :class:`Coverage`.

        There are none where no probe was registered.
        """
        return self.places.allowed_methods()

    # A system that can be explored ----------------------------------------------------------------

    @property
    def coverage(self) -> Coverage:
        """Return what the schedules have shown since a fresh record was put here."""
        return self.now.coverage

    @coverage.setter
    def coverage(self, coverage: Coverage) -> None:
        self.now.coverage = coverage

    @property
    def points(self) -> set[int]:
        """Return the names of the points that were met since a fresh set was put here.

        A name is a hash of a vCPU's position and a control state.
        """
        return self.now.points

    @points.setter
    def points(self, points: set[int]) -> None:
        self.now.points = points

    @property
    def trace(self) -> Trace:
        """Return the choices and steps that have led to the present state."""
        return self.now.trace

    @property
    def violation(self) -> Violation | None:
        """Return what is wrong in the present state, or None."""
        return self.judge.violation

    def reset(self) -> None:
        """Go to the start of a schedule, where no call and no control task has begun."""
        self.states.reset(self.tree.root)

    def save(self) -> SavedState:
        """Return a record of the present state, for :meth:`restore`."""
        return self.states.save()

    def restore(self, state: SavedState) -> None:
        """Go back to a state that :meth:`save` has returned."""
        self.states.restore(state)

    def release(self, state: SavedState) -> None:
        """Say that ``state`` is not needed any more, so that its memory can be used again."""
        self.states.release(state)

    def key(self) -> int:
        """Return a hash of all that decides what can happen from the present state on."""
        return self.states.key()

    def choices(self) -> Sequence[Choice]:
        """Return the choices of the present state.

        Where the actor that went on last can go on, that choice comes first. If there is no
        choice, the schedule has ended, and the oracles look at what it has left.
        """
        if self.judge.violation is not None:
            return ()
        found = self.choice.offered()
        if not found:
            self.end()
        return found

    def end(self) -> None:
        """Tell the oracles that the schedule has ended, and which tasks wait for ever by then."""
        waiting = [
            self.node.at(task.index) for task in self.node.state.plane.tasks if not task.done
        ]
        asleep = ((vcpu.index, one.rip) for vcpu in self.vcpus for one in vcpu.asleep if waiting)
        kept = [
            f"CPU {vcpu.index} {self._kept_by(vcpu)}"
            for vcpu in self.vcpus
            if not vcpu.over and self.boundaries.waits_to_run(vcpu)
        ]
        sleeping = (f"a task of CPU {cpu} sleeps at {self.where(ip)}" for cpu, ip in asleep)
        self.judge.schedule_ended([*waiting, *sleeping, *kept])

    def _kept_by(self, vcpu: VcpuState) -> str:
        """Return what keeps a vCPU from going on, in a few words."""
        if vcpu.frozen:
            return "is suspended"
        return "jumps to itself" if self.boundaries.spins(vcpu) else "waits at hidden code"

    def footprint(self, actor: Actor) -> Footprint:
        """Return what the step of ``actor`` that begins in the present state may touch."""
        return self.footprints.of(actor)

    def take(self, actor: Actor, most: int | None = None, *, alone: bool = False) -> int:
        """Let ``actor`` go on, and return how many steps it made.

        :param most: the most steps that it may make; None leaves the number to the actor.
        :param alone: the actor goes on past choice points where every other choice costs
            something.
        """
        now, (kind, index) = self.now, actor
        if kind is ActorKind.VCPU:
            now.actor = actor
            vcpu = now.vcpus[index]
            steps = self.runs.run(vcpu, most, alone=alone, whole=self.choice.goes_whole(vcpu))
        elif kind is ActorKind.CONTROL:
            steps = self.steps.step(index, most)
            now.actor = actor
        else:
            vcpu = now.vcpus[index]
            self.happens(kind, vcpu)
            self.port.memory.clear_dead(index, live=vcpu.live)
            steps = 1
            now.actor = vcpu.actor
        trace = now.trace
        if trace is not None and trace[1] == actor:
            now.trace = (trace[0], actor, trace[2] + steps)
        else:
            now.trace = (trace, actor, steps)
        return steps

    def happens(self, kind: ActorKind, vcpu: VcpuState) -> None:
        """Let something happen to a vCPU that is no step of its own.

        It is interrupted, its task is preempted, an NMI comes, its tasks are switched, or another
        way is chosen in which it fetches its next instruction.
        """
        if kind is ActorKind.INTERRUPT:
            self.tasks.interrupt(vcpu)
        elif kind is ActorKind.PREEMPTION:
            self.tasks.preempt(vcpu)
        elif kind is ActorKind.NMI:
            self.nmis.deliver(vcpu)
        elif kind is ActorKind.FETCH:
            self.fetches.choose_next(vcpu)
        else:
            self.tasks.switch(vcpu, self.port.cpus.ip(vcpu.index))
            # Two states that differ only in which of two idle tasks has the CPU have one name, so
            # a task that gets the CPU between calls begins its call in the same step.
            if vcpu.mode is Mode.IDLE:
                self.runs.begin_call(vcpu)
