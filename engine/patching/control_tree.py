"""All control states that were met, as the vCPUs see them, and the steps between them.

The control states share one machine. A :class:`ControlNode` has all that the vCPUs see of the
control plane: a text version, and a core that is asked on a hit.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

from engine.control.stepped_plane import MachineWait
from engine.errors import InputError
from engine.patching.control_side import TextVersion, Write
from engine.patching.control_state import ControlState, Stage
from engine.patching.expectations import Lives
from engine.patching.operations import BEHIND_OPERATION, BETWEEN_OPERATIONS
from engine.patching.patched_sites import TextIs

__all__ = (
    "STEPS_MAX",
    "ControlNode",
    "ControlStep",
    "ControlTree",
    "EndlessTaskError",
    "endless",
)

STEPS_MAX: Final = 1_500
"""Control tasks that all end make fewer steps than this in one schedule.

Each new control state is made by all the steps that lead to it, so the time of a path without an
end grows with the square of its length; at this length that time is still short enough.
"""
_STEPS_ALONE: Final = 5_000
"""Control tasks that run alone all have to end within this number of steps.

Each of these steps is made once, from one state to the next, so there can be more of them than in a
schedule. A task that waits in a loop for another one makes all of them before it is found that the
tasks have to take turns.
"""


class EndlessTaskError(InputError):
    """This error says that a control task does not come to an end."""


@dataclass(slots=True)
class ControlStep:
    """This record describes a step of a control task.

    :ivar node: the control state that the step leads to.
    :ivar writes: the writes of text that it makes.
    """

    node: ControlNode
    writes: tuple[Write, ...]


class ControlNode:
    """A node has all that the vCPUs see of one control state.

    :ivar name: the hash of the control state, which is the same in every process.
    :ivar number: the count of the control states that this process met before.
    :ivar shared: the hash of all that control tasks share.
    :ivar locals: of each task, the hash of what is its own.
    :ivar path: the steps that led here, as the numbers of the control tasks that made them.
    :ivar asked: somebody has looked at :attr:`state` since this was last set to False.
    :ivar tasks: the control tasks that can make a step, as far as control tasks can tell.
    :ivar held: of each control task, whether it holds a lock.
    :ivar waits: by control task, what it waits for on the vCPUs.
    :ivar stopped: ``stop_machine`` runs its function.
    :ivar frozen: how all tasks are suspended, or None.
    :ivar hidden: the code at which CPUs fault and wait, or None.
    :ivar error: the error that has ended a control task, or None.
    """

    __slots__ = (
        "_state",
        "asked",
        "children",
        "error",
        "frozen",
        "held",
        "hidden",
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
    )

    def __init__(
        self,
        number: int,
        name: tuple[int, tuple[int, ...], int],
        path: tuple[int, ...],
        state: ControlState,
    ) -> None:
        self.number = number
        self.shared, self.locals, self.name = name
        self.path = path
        self._state = state
        self.asked = False
        self.version: TextVersion = state.text.current
        self.lives: Lives = state.control.lives
        tasks = state.plane.tasks
        self.tasks: tuple[int, ...] = tuple(task.index for task in tasks if task.steppable)
        self.held: tuple[bool, ...] = tuple(
            state.plane.held.get(task.index, 0) > 0 for task in tasks
        )
        self.waits: dict[int, MachineWait] = {
            task.index: task.wait for task in tasks if task.wait is not None
        }
        self.stopped = state.plane.stopped
        self.frozen = state.plane.frozen
        self.hidden = state.plane.hidden
        self.error = next((task.error for task in tasks if task.error is not None), None)
        self.children: dict[int, ControlStep] = {}

    @property
    def state(self) -> ControlState:
        """Return the core, the arch layer and the control tasks.

        What depends on more than :meth:`text_class` has, has to go through this attribute, so that
        :attr:`asked` tells it.
        """
        self.asked = True
        return self._state

    # What vCPUs depend on that hit nothing --------------------------------------------------------

    def in_use(self, addr: int) -> bool:
        """Return whether ``addr`` lies in a slot or detour buffer that is in use."""
        return self._state.arch.in_use(addr)

    def has_post_handler(self, probe: int) -> bool:
        """Return whether the probe with the number ``probe`` has a post_handler."""
        return self._state.control.probes[probe].post_handler is not None

    def since(self, probe: int) -> int:
        """Return when probe ``probe`` was registered last: newer ones have a higher number."""
        return self._state.control.ledger.since(probe)

    @property
    def text_is(self) -> TextIs:
        """Return what a patch protocol has said about the code at its sites."""
        return self._state.control.text_is

    @property
    def foreign_lives(self) -> Lives:
        """Return what holds for each breakpoint of another user than kprobes."""
        return self._state.control.foreign.lives

    @property
    def follows_calls(self) -> bool:
        """Return whether there are return probes, so that the core may follow a call."""
        return bool(self._state.control.returns)

    def text_class(self) -> Hashable:
        """Return all that a vCPU depends on which asks the core nothing.

        Two control states with equal classes are alike to a vCPU between two hits.
        """
        state = self._state
        numbers = range(len(state.control.probes))
        return (
            self.version.name,
            self.lives,
            (repr(state.arch.slots.state), repr(state.arch.detours.state)),
            tuple(map(self.has_post_handler, numbers)),
            tuple(sorted(numbers, key=self.since)),
            (self.text_is, self.follows_calls, self.foreign_lives),
            (self.stopped, self.frozen is not None, self.hidden),
        )

    def core_class(self) -> Hashable:
        """Return all that a vCPU in a hit depends on, beside :meth:`text_class`.

        An aggregator that has left the table counts, too, since a CPU may still have it.
        """
        return (self.shared, repr(self._state.expected()), self._state.aggregators())

    def is_alike_but_for(self, task: int, other: ControlNode) -> bool:
        """Return whether only control task ``task`` can tell this state from ``other``."""
        mine, theirs = (node.locals[:task] + node.locals[task + 1 :] for node in (self, other))
        return self.shared == other.shared and mine == theirs

    def just_dropped(self, task: int) -> bool:
        """Return whether control task ``task`` stands behind the last lock that it held."""
        return self.state.plane.tasks[task].dropped

    def has_returned(self, task: int) -> bool:
        """Return whether control task ``task`` has come to the end of its operation or to a wait.

        It stands between two operations, waits for the machine, or has ended. Where control
        tasks share variables, none of the scenario's code may have run behind the
        operation, since other tasks may have stored what that code reads.
        """
        one = self.state.plane.tasks[task]
        if one.wait is not None or one.at == BEHIND_OPERATION:
            return True
        return not self.state.shared and (one.done or self.is_between_operations(task))

    def is_between_operations(self, task: int) -> bool:
        """Return whether control task ``task`` stands in front of an operation."""
        return self.state.plane.tasks[task].at == BETWEEN_OPERATIONS

    def waits_for_tasks(self, task: int) -> bool:
        """Return whether ``task`` waits for what other control tasks have yet to bring about."""
        ready = self.state.plane.tasks[task].ready
        return ready is not None and not ready()

    def takes_lock(self, task: int) -> bool:
        """Return whether the next step of control task ``task`` takes a lock that no task owns."""
        lock = self.state.plane.tasks[task].lock
        return lock is not None and lock.free

    def others_operate(self, task: int) -> bool:
        """Return whether another control task has not ended, apart from delayed work."""
        return any(
            other.index != task and not other.done and not other.delayed
            for other in self.state.plane.tasks
        )

    def locked_out(self, task: int) -> bool:
        """Return whether control task ``task`` stands in front of a lock that another one owns."""
        lock = self.state.plane.tasks[task].lock
        return lock is not None and not lock.free

    @property
    def done(self) -> bool:
        """Return whether every control task has ended."""
        return all(task.done for task in self.state.plane.tasks)

    def at(self, task: int) -> str:
        """Return the name of a control task and of the point where it stands."""
        one = self.state.plane.tasks[task]
        return f"{one.name}: {one.at}"


def endless(task: str) -> EndlessTaskError:
    """Return the error for a control task that makes more steps than tasks make that end."""
    return EndlessTaskError(
        f"control task {task}: the control tasks have made {STEPS_MAX:,} steps in one schedule, and"
        " it has not ended; a control task has to end, whoever goes on when"
    )


class ControlTree:
    """The tree has all control states met so far; states that behave alike are one node.

    :param stage: what all control states share.
    :param learn: is called with each new node.
    """

    def __init__(self, stage: Stage, learn: Callable[[ControlNode], None]) -> None:
        self._stage = stage
        self._learn = learn
        self._known: dict[int, ControlNode] = {}
        self.nodes: list[ControlNode] = []
        self.root = self._intern((), ControlState(self._stage))

    def _again(self, node: ControlNode, task: int) -> ControlState:
        """Make the control state of ``node`` once more, so that ``task`` can make a step there.

        :raises InputError: the same steps lead to another state now. This happens with the
            code of a scenario that reads a clock or random numbers, or keeps something from
            one run to the next.
        """
        state = ControlState(self._stage)
        tasks = state.plane.tasks
        for index in node.path:
            if index < len(tasks) and tasks[index].steppable:
                state.step(index)
        if (
            not state.is_like(node.state, node.shared)
            or task >= len(tasks)
            or not tasks[task].steppable
        ):
            state.plane.close()
            raise InputError(
                f"the control tasks are not deterministic: after the same {len(node.path):,} steps"
                " they stand elsewhere or have done something else; use no random numbers, no"
                " clock, and nothing that is kept outside of the function of the scenario or of"
                " the protocol"
            )
        return state

    def _reach(self, node: ControlNode, task: int) -> ControlState:
        """Make the control state of ``node`` once more, with a step of control task ``task``."""
        state = self._again(node, task)
        state.text.log.clear()
        state.step(task)
        return state

    def locks_of_step(self, node: ControlNode, task: int) -> frozenset[str]:
        """Return the names of the locks that a step of ``task`` takes, drops or waits for.

        The step is made once more to see that, which takes the time of the whole path to
        ``node``.
        """
        state = self._again(node, task)
        plane = state.plane
        one, names = plane.tasks[task], set(plane.lock_order.held_by(plane.tasks[task]))
        plane.lock_listeners.append(names.add)
        try:
            state.step(task)
            names.update(plane.lock_order.held_by(one))
        finally:
            plane.close()
        return frozenset(names)

    def _intern(self, path: tuple[int, ...], state: ControlState) -> ControlNode:
        name = state.name()
        known = self._known.get(name[-1])
        if known is not None:
            state.plane.close()
            return known
        node = self._known[name[-1]] = ControlNode(len(self.nodes), name, path, state)
        self.nodes.append(node)
        self._learn(node)
        return node

    def step(self, node: ControlNode, task: int) -> ControlStep:
        """Return the step of control task ``task`` from ``node``; it is made only the first time.

        :raises EndlessTaskError: the path has more steps than control tasks need that end.
        """
        edge = node.children.get(task)
        if edge is None:
            path = (*node.path, task)
            if len(path) > STEPS_MAX:
                raise endless(node.state.plane.tasks[task].name)
            state = self._reach(node, task)
            writes = tuple(state.text.log)
            edge = node.children[task] = ControlStep(self._intern(path, state), writes)
        return edge

    def run_alone(self, most: int, *, in_turns: bool) -> tuple[list[int] | None, str]:
        """Run the control tasks alone, to their end or for ``most`` steps.

        :param in_turns: the tasks take turns; otherwise the first task that can make a step
            goes on.
        :returns: the steps, as the numbers of the tasks that made them, or None if there
            were more than ``most``; and where the last task to make a step stands.
        """
        state, path = ControlState(self._stage), list[int]()
        tasks = state.plane.tasks
        try:
            while steppable := [task.index for task in tasks if task.steppable]:
                if len(path) == most:
                    return None, f"{tasks[path[-1]].name}: {tasks[path[-1]].at}"
                last = path[-1] if path and in_turns else -1
                path.append(next((index for index in steppable if index > last), steppable[0]))
                state.step(path[-1])
            return path, ""
        finally:
            state.plane.close()

    def nodes_alone(self) -> list[ControlNode]:
        """Return the control states on the way when the control tasks run alone.

        The first task that can make a step goes on. If that does not end, the tasks take
        turns, since one may wait in a loop for what another one does.

        :raises EndlessTaskError: the tasks do not end in turns, either.
        """
        path, _ = self.run_alone(_STEPS_ALONE, in_turns=False)
        if path is None:
            path, where = self.run_alone(_STEPS_ALONE, in_turns=True)
            if path is None:
                steps = f"{_STEPS_ALONE:,} steps of the control tasks alone"
                raise EndlessTaskError(
                    f"control task {where}: it has not ended after {steps}; a control task has"
                    " to end"
                )
        nodes = [self.root]
        for task in path:
            nodes.append(self.step(nodes[-1], task).node)
        return nodes

    def close(self) -> None:
        """End the control tasks of all control states."""
        for node in self.nodes:
            node.state.plane.close()
