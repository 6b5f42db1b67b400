"""One state of the control plane, with a core of its own: reached from the scenario's start by running control tasks step by step.

A greenlet's stack can't be copied, so a state is not gone back to: it is kept, and its successor is made anew, by the same steps and one
more. Control code meets the machine through its text and its waits only, so what it does in a step does not depend on the vCPUs; they share
one machine, and each :class:`Node` is all that they see of the control plane: a text version, and a core to ask on a hit.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from traceback import walk_tb
from typing import Final, cast

from arch_x86.emu.machine import Machine
from arch_x86.explore.control import BEHIND_OPERATION, BETWEEN_OPERATIONS, Control, EndlessTaskError, HandlerLog
from arch_x86.explore.lives import Lives
from arch_x86.explore.local_state import LocalState, unbounded
from arch_x86.explore.steptext import SteppedText
from arch_x86.explore.stores import stop_at_stores, stop_at_stores_of_core
from arch_x86.lab.bench import build_arch
from arch_x86.text.space import TextWrite
from arch_x86.text.version import TextVersion
from engine.control.stepped_plane import ControlTask, MachineWait, SteppedPlane
from engine.control.sync import Hardware
from engine.core.kprobes import Kprobes
from engine.core.profiles import Profile
from engine.errors import InputError, OptprobeError, printable
from engine.instrument import Instrument
from engine.kprobe import AggrKprobe, Kprobe

__all__ = ("STEPS_MAX", "ControlCode", "ControlCodes", "Edge", "Node", "NodeTree", "Stage", "World", "endless")

ControlCode = Callable[[Control], None]
"""A control task's work: operations on the :class:`Control` that it is given."""
ControlCodes = Callable[[], Sequence[tuple[str, ControlCode]]]
"""Makes the control tasks' work, by name, anew for each world: what it keeps outside of its functions the tasks of one world share."""


@dataclass(slots=True)
class Edge:
    """A step of a control task: the state it leads to, and the ``writes`` of text on the way."""

    node: Node
    writes: tuple[TextWrite, ...]


@dataclass(frozen=True, slots=True)
class Stage:
    """What all control states share: the machine, its profile, who is told of the handlers that run, and ``code``, which makes the control
    tasks' work. ``points``: as :attr:`arch_x86.explore.case.Case.points`. ``shared``: the control tasks share variables
    (:mod:`arch_x86.explore.shared_variables`)."""

    machine: Machine
    hardware: Hardware
    profile: Profile
    log: HandlerLog
    code: ControlCodes
    nmis: bool = False
    points: str = "locks"
    shared: bool = False


def _run_scenario(name: str, work: ControlCode, control: Control) -> None:
    """What a scenario's own code raises is for who wrote it.

    :raises InputError: it raised something of its own: a violation, as every error that a control task ends in; or it did nothing, since
        Python makes a generator of a function with a ``yield``.
    """
    try:
        left = cast("object", work(control))
    except OptprobeError:
        raise
    except (Exception, SystemExit) as error:
        code = getattr(work, "__code__", None)  # a partial has none
        own = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__) if frame.f_code is code]
        where = f"{Path(own[0][0]).name}:{own[0][1]}: " if own else ""
        raise InputError(f"{where}control task {name}: {type(error).__name__}: {printable(str(error))}") from error
    if isinstance(left, Generator | Coroutine):
        what = "generator" if isinstance(left, Generator) else "coroutine"
        raise InputError(f"control task {name}: its function is a {what}, which does nothing; make it one without yield or async")


_ANSWERS: Final = 8
"""In a ``while`` loop so many of the last answers are told, which an unfinished expression may keep; all of them, or how many operations
there were, would make each round of a loop that tries again another state."""
STEPS_MAX: Final = 1_500
"""More steps than the control tasks make in a schedule in which they all end."""


def _digest(told: Hashable) -> int:
    """64 bits of what ``told`` prints as."""
    return int.from_bytes(blake2b(repr(told).encode(), digest_size=8).digest())


class _Aggregators(Instrument):
    """Remembers each aggregator: a CPU may hold on to one that the core has freed.

    :param made: called with each one.
    """

    def __init__(self, made: Callable[[AggrKprobe], None] | None) -> None:
        self._made = made
        self.by_id: dict[int, AggrKprobe] = {}

    def __len__(self) -> int:
        return len(self.by_id)

    def aggregator_made(self, op: AggrKprobe) -> None:
        """One more."""
        self.by_id[op.op_id] = op
        if self._made is not None:
            self._made(op)


class World:
    """A core, an arch layer and control tasks, paused."""

    def __init__(self, stage: Stage) -> None:
        machine = stage.machine
        layout = machine.layout
        self.plane = SteppedPlane(stage.hardware, nmis=stage.nmis)
        end = layout.detours + layout.detours_size
        self.text = SteppedText(machine.text.store, lambda addr: layout.slots <= addr < end, self.plane.point, whole_batches=not stage.nmis)
        self.arch = build_arch(machine, self.text, self.plane, stage.profile)
        self.core = Kprobes(self.arch, self.plane, machine.kallsyms, stage.profile)
        self._stops_at_stores = stage.points == "stores"
        made = stop_at_stores if self._stops_at_stores else None
        self.control = Control(self.core, stage.log, self.text, machine.image, made=made, stops_behind=stage.shared)
        self.shared = stage.shared
        self.plane.lock_listeners.append(self.control.lock_taken)
        self._aggregators = _Aggregators(made)
        self.core.instruments += (self._aggregators,)
        if self._stops_at_stores:
            stop_at_stores_of_core(self.core)
        tasks = stage.code()
        self._work = dict(tasks)
        if len(self._work) < len(tasks):
            names = [name for name, _ in tasks]
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"control task {twice}: there are two of this name; a task goes by the name of its function")
        for name, work in self._work.items():
            self.plane.spawn(name, partial(_run_scenario, name, work, self.control))

    def step(self, index: int) -> None:
        """A control task makes a step."""
        task = self.plane.tasks[index]
        if self.shared and not task.delayed and (not task.started or task.at == BEHIND_OPERATION):
            state = LocalState(self.name_of, task.name)
            self.control.saw(index, _digest(state.frames(task.body.gr_frame) if task.started else state.function(self._work[task.name])))
        self.plane.step(index)

    # Names of probes, which hold in every world that the same steps lead to ---------------------------------------------

    def name_of(self, p: Kprobe | None) -> int:
        """A number for ``p``: above 0 for an aggregator, below for a scenario's own probe, 0 for None."""
        if p is None:
            return 0
        if isinstance(p, AggrKprobe):
            return p.op_id
        number = self.control.number_of(p)
        if number is None:
            raise InputError(f"{p!r}: not one that the explorer knows; make probes by Control.kprobe()")
        return -1 - number

    def named(self, name: int) -> Kprobe | None:
        """The probe with that name."""
        if name == 0:
            return None
        return self._aggregators.by_id[name] if name > 0 else self.control.probes[-1 - name]

    # Identity -----------------------------------------------------------------------------------------------------------

    def name(self) -> tuple[int, tuple[int, ...], int]:
        """64 bits of what all control tasks share (text, core, slots), of each task (where it stands, with what), and of the whole.

        Worlds whose whole is equal behave alike from here on. The same in every process. What an operation has stored so far to an
        aggregator that is not in the table yet, or not any more, is told by where its task stands.
        """
        tasks = tuple(map(self._task, self.plane.tasks))
        shared = self._shared()
        control = self.control
        expected = (control.ledger.state([p.addr for p in control.probes]), control.broken)
        return shared, tasks, _digest((shared, tasks, expected))

    def is_like(self, node: Node) -> bool:
        """What the tasks share, and where each of them stands, is as in ``node``, whatever a scenario's code keeps for itself."""
        at = [task.at for task in self.plane.tasks]
        return at == [task.at for task in node.world.plane.tasks] and self._shared() == node.shared

    def _shared(self) -> int:
        core = self.core
        table = tuple(sorted((addr, self._probe(p)) for addr, p in core.kprobe_table.items()))
        lists = tuple(tuple(self.name_of(op) for op in listed) for listed in core.optimizer.lists.values())
        waiting = tuple((addr, self.name_of(p), on) for addr, (p, on) in core.arming.waiting.items())
        switches = (waiting, len(self._aggregators), core.kprobes_allow_optimization, core.kprobes_all_disarmed, *core.optimizer.due)
        switches = (*switches, core.optimizer.completed)
        probes = tuple(map(self._probe, self.control.probes))
        room = (self.arch.slots.state, self.arch.detours.state, self.arch.poke.state)
        return _digest((self.text.current.name, table, lists, switches, probes, room))

    def _probe(self, p: Kprobe) -> Hashable:
        slot = p.ainsn.slot if p.ainsn is not None else 0
        own = (self.name_of(p), p.flags.value, slot, p.post_handler is not None)
        if not isinstance(p, AggrKprobe):
            return own
        detour = p.optinsn.detour.addr if p.optinsn is not None else 0
        return (*own, detour, tuple(self.name_of(child) for child in p.children))  # which list it is on, the lists say

    def _task(self, task: ControlTask) -> int:
        """What is a control task's own."""
        # Where it stands, and in which wait, its frames say; of a task that has none, whether it has not started or is done.
        return _digest((task.name, task.again is not None, repr(task.error), self._local(task)))

    def _local(self, task: ControlTask) -> Hashable:
        """What decides how it goes on."""
        if task.done:
            return ()
        if not task.started:
            return LocalState(self.name_of, task.name).function(self._work.get(task.name))
        begun, answers = self.control.told.get(task.index, (0, ()))
        state = LocalState(self.name_of, task.name)
        frames = state.frames(task.body.gr_frame)
        tries_again = unbounded(task.body.gr_frame) and not state.iterates
        return ((0, answers[-_ANSWERS:]) if tries_again else (begun, answers), frames)


class Node:
    """One control state as the vCPUs see it.

    :ivar name: the same in every process; ``number``: in the order in which this one met it.
    :ivar shared: 64 bits of all that control tasks share; ``locals``: of each task, of what is its own.
    :ivar path: the steps that led here: numbers of control tasks.
    :ivar tasks: the control tasks that can make a step, as far as control tasks can tell.
    :ivar held: whether each control task holds a lock.
    :ivar waits: by control task, what of the machine's it waits for.
    :ivar stopped: ``stop_machine`` runs its function.
    :ivar error: what ended a control task that it should not have.
    """

    __slots__ = (
        "children",
        "error",
        "held",
        "lives",
        "locals",
        "name",
        "number",
        "path",
        "shared",
        "stopped",
        "tasks",
        "version",
        "waits",
        "world",
    )

    def __init__(self, number: int, name: tuple[int, tuple[int, ...], int], path: tuple[int, ...], world: World) -> None:
        self.number = number
        self.shared, self.locals, self.name = name
        self.path = path
        self.world = world
        self.version: TextVersion = world.text.current
        self.lives: Lives = world.control.lives
        tasks = world.plane.tasks
        self.tasks: tuple[int, ...] = tuple(task.index for task in tasks if task.steppable)
        self.held: tuple[bool, ...] = tuple(world.plane.held.get(task.index, 0) > 0 for task in tasks)
        self.waits: dict[int, MachineWait] = {task.index: task.wait for task in tasks if task.wait is not None}
        self.stopped = world.plane.stopped
        self.error = next((task.error for task in tasks if task.error is not None), None)
        self.children: dict[int, Edge] = {}

    def is_alike_but_for(self, task: int, other: Node) -> bool:
        """Nobody but control task ``task`` can tell this state from ``other``."""
        mine, theirs = (node.locals[:task] + node.locals[task + 1 :] for node in (self, other))
        return self.shared == other.shared and mine == theirs

    def just_dropped(self, task: int) -> bool:
        """Control task ``task`` stands behind the last lock that it held."""
        return self.world.plane.tasks[task].dropped

    def has_returned(self, task: int) -> bool:
        """Control task ``task`` stands between two operations, waits for the machine, or has ended, and none of the scenario's code has
        run that others may have told something."""
        one = self.world.plane.tasks[task]
        if one.wait is not None or one.at == BEHIND_OPERATION:
            return True
        return not self.world.shared and (one.done or self.is_between_operations(task))

    def is_between_operations(self, task: int) -> bool:
        """Control task ``task`` stands in front of an operation."""
        return self.world.plane.tasks[task].at == BETWEEN_OPERATIONS

    def waits_for_tasks(self, task: int) -> bool:
        """Control task ``task`` waits for what other control tasks bring about, and that is not so yet."""
        ready = self.world.plane.tasks[task].ready
        return ready is not None and not ready()

    def takes_lock(self, task: int) -> bool:
        """The next step of control task ``task`` takes a lock that nobody owns."""
        lock = self.world.plane.tasks[task].lock
        return lock is not None and lock.free

    def others_operate(self, task: int) -> bool:
        """Another control task of the scenario, which is not delayed work, has not ended."""
        return any(other.index != task and not other.done and not other.delayed for other in self.world.plane.tasks)

    def locked_out(self, task: int) -> bool:
        """Control task ``task`` stands in front of a lock that another one owns."""
        lock = self.world.plane.tasks[task].lock
        return lock is not None and not lock.free

    @property
    def done(self) -> bool:
        """Every control task has ended."""
        return all(task.done for task in self.world.plane.tasks)

    def at(self, task: int) -> str:
        """Where a control task stands."""
        one = self.world.plane.tasks[task]
        return f"{one.name}: {one.at}"


def endless(task: str) -> EndlessTaskError:
    """Control task ``task`` makes a step more than any that ends."""
    return EndlessTaskError(
        f"control task {task}: the control tasks have made {STEPS_MAX:,} steps in one schedule, and it has not ended; "
        "a control task has to end, whoever goes on when"
    )


class NodeTree:
    """All control states met so far. States that behave alike are one.

    :param learn: called with each new one.
    """

    def __init__(self, stage: Stage, learn: Callable[[Node], None]) -> None:
        self._stage = stage
        self._learn = learn
        self._known: dict[int, Node] = {}
        self.nodes: list[Node] = []
        self.root = self._intern((), World(self._stage))

    def _reach(self, node: Node, task: int) -> World:
        """``node`` once more, from the start, and a step of control task ``task`` from there.

        :raises InputError: the same steps lead to something else now. So does the code of a scenario that asks for the time or for random
            numbers, or that keeps something from one run to the next.
        """
        world = World(self._stage)
        tasks = world.plane.tasks
        for index in node.path:
            if index < len(tasks) and tasks[index].steppable:
                world.step(index)
        if not world.is_like(node) or task >= len(tasks) or not tasks[task].steppable:
            world.plane.close()
            raise InputError(
                f"the scenario is not deterministic: after the same {len(node.path):,} steps, its control tasks stand elsewhere or have "
                "done something else; use no random numbers, no clock, and nothing that is kept outside of the scenario's function"
            )
        world.text.log.clear()
        world.step(task)
        return world

    def _intern(self, path: tuple[int, ...], world: World) -> Node:
        name = world.name()
        known = self._known.get(name[-1])
        if known is not None:
            world.plane.close()
            return known
        node = self._known[name[-1]] = Node(len(self.nodes), name, path, world)
        self.nodes.append(node)
        self._learn(node)
        return node

    def step(self, node: Node, task: int) -> Edge:
        """Control task ``task`` makes a step.

        :raises EndlessTaskError: there have been more than any control task needs that ends.
        """
        edge = node.children.get(task)
        if edge is None:
            path = (*node.path, task)
            if len(path) > STEPS_MAX:
                raise endless(node.world.plane.tasks[task].name)
            world = self._reach(node, task)
            writes = tuple(world.text.log)
            edge = node.children[task] = Edge(self._intern(path, world), writes)
        return edge

    def run_alone(self, most: int, *, in_turns: bool) -> tuple[list[int] | None, str]:
        """The steps of the control tasks up to their end, when nobody else runs: first come first, or in turns.

        :returns: None after ``most`` steps; and where the last of the tasks to make a step stands.
        """
        world, path = World(self._stage), list[int]()
        tasks = world.plane.tasks
        try:
            while steppable := [task.index for task in tasks if task.steppable]:
                if len(path) == most:
                    return None, f"{tasks[path[-1]].name}: {tasks[path[-1]].at}"
                last = path[-1] if path and in_turns else -1
                path.append(next((index for index in steppable if index > last), steppable[0]))
                world.step(path[-1])
            return path, ""
        finally:
            world.plane.close()

    def close(self) -> None:
        """End all tasks that are under way."""
        for node in self.nodes:
            node.world.plane.close()
