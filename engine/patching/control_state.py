"""One state of the control plane, with a core of its own: reached from the scenario's start by
running control tasks step by step.

A greenlet's stack can't be copied, so a state is not gone back to: it is kept, and its successor is
made anew, by the same steps and one more (:mod:`engine.patching.control_tree`). Control code meets
the machine through its text and its waits only, so what it does in a step does not depend on the
vCPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Final

from engine.control.stepped_plane import ControlTask, SteppedPlane
from engine.core.profiles import Profile
from engine.errors import InputError
from engine.instrument import Instrument
from engine.kprobe import AggrKprobe, Kprobe
from engine.patching.control_code import ControlCode, ControlCodes, run_control_code
from engine.patching.handler_log import HandlerLog
from engine.patching.local_state import LocalState, unbounded
from engine.patching.operations import BEHIND_OPERATION, Control
from engine.patching.own_code import OwnCode
from engine.patching.port import TextPort
from engine.patching.probe_kinds import PLAIN_KINDS
from engine.patching.store_points import STOPPING_KINDS, begin_to_stop

__all__ = ("ControlState", "NoTime", "Stage")

_ANSWERS: Final = 8
"""In a ``while`` loop so many of the last answers are told, which an unfinished expression may
keep; all of them, or how many operations there were, would make each round of a loop that tries
again another state.
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """What all control states share.

    :ivar text: makes the text and the arch layer of each; ``profile``: the kernel's.
    :ivar log: told of the handlers that run.
    :ivar code: makes the control tasks' work.
    :ivar own: which code is the project's.
    :ivar nmis: NMIs may come.
    :ivar points: ``stores``: control tasks also stop in front of their stores to what hits read
        without a lock.
    :ivar shared: the control tasks share variables (:mod:`engine.patching.shared_variables`).
    """

    text: TextPort
    profile: Profile
    log: HandlerLog
    code: ControlCodes
    own: OwnCode
    nmis: bool = False
    points: str = "locks"
    shared: bool = False


class NoTime:
    """The control plane's hardware, on which time does not pass: what it would bring is a choice of
    the explorer's.
    """

    jiffies = 0
    in_handler = False

    def run_turn(self) -> bool:
        """No vCPU runs but by choice."""
        return False

    def advance_to(self, jiffy: int) -> None:
        """There is no clock."""

    def quiescent(self) -> tuple[tuple[bool, int], ...]:
        """Which vCPU is quiescent is known to :class:`engine.patching.waits.Waits`."""
        return ()

    def sync_core(self, cpu: int) -> bool:
        """So is when a core sync ends."""
        del cpu
        return True


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


class ControlState:
    """A core, an arch layer and control tasks, paused."""

    def __init__(self, stage: Stage) -> None:
        self.port, self.facts, self.image = stage.text, stage.text.facts, stage.text.image
        self.plane = SteppedPlane(NoTime(), nmis=stage.nmis)
        self.text, self.arch = stage.text.build(self.plane, whole_batches=not stage.nmis)
        stops = stage.points == "stores"
        kinds, made = (STOPPING_KINDS, begin_to_stop) if stops else (PLAIN_KINDS, None)
        self.core = kinds.core(self.arch, self.plane, stage.text.kallsyms, stage.profile)
        self.core.optprobes.aggregator_kind = kinds.aggregator
        self.control = Control(
            self.core,
            stage.log,
            self.text,
            self.image,
            jump=self.facts.jump,
            kinds=kinds,
            made=made,
            stops_behind=stage.shared,
        )
        self.shared = stage.shared
        self._own = stage.own
        self.plane.lock_listeners.append(self.control.notes.lock_taken)
        self._aggregators = _Aggregators(made)
        self.core.instruments.append(self._aggregators)
        self._work = self._spawn(stage.code())

    def _spawn(self, tasks: Sequence[tuple[str, ControlCode]]) -> dict[str, ControlCode]:
        """The control tasks, which have not started, by name.

        :raises InputError: two have one name.
        """
        work = dict(tasks)
        if len(work) < len(tasks):
            names = [name for name, _ in tasks]
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(
                f"control task {twice}: there are two of this name; a task goes by the name of its"
                " function"
            )
        for name, code in work.items():
            self.plane.spawn(name, partial(run_control_code, name, code, self.control))
        return work

    def step(self, index: int) -> None:
        """A control task makes a step."""
        task = self.plane.tasks[index]
        if self.shared and not task.delayed and (not task.started or task.at == BEHIND_OPERATION):
            state = self._local_state(task)
            self.control.saw(
                index,
                _digest(
                    state.frames(task.body.gr_frame)
                    if task.started
                    else state.function(self._work[task.name])
                ),
            )
        self.plane.step(index)

    # Names of probes, which hold in every control state that the same steps lead to ---------------

    def name_of(self, p: Kprobe | None) -> int:
        """A number for ``p``: above 0 for an aggregator, below for a scenario's own probe, 0 for
        None.
        """
        if p is None:
            return 0
        if isinstance(p, AggrKprobe):
            return p.op_id
        number = self.control.number_of(p)
        if number is None:
            raise InputError(
                f"{p!r}: not one that the explorer knows; make probes by Control.kprobe()"
            )
        return -1 - number

    def named(self, name: int) -> Kprobe | None:
        """The probe with that name."""
        if name == 0:
            return None
        return self._aggregators.by_id[name] if name > 0 else self.control.probes[-1 - name]

    # Identity -------------------------------------------------------------------------------------

    def name(self) -> tuple[int, tuple[int, ...], int]:
        """64 bits of what all control tasks share (text, core, slots), of each task (where it
        stands, with what), and of the whole.

        Control states whose whole is equal behave alike from here on. The same in every process.
        What an operation has stored so far to an aggregator that is not in the table yet, or not
        any more, is told by where its task stands.
        """
        tasks = tuple(map(self._task, self.plane.tasks))
        shared = self._shared()
        return shared, tasks, _digest((shared, tasks, self.expected()))

    def expected(self) -> Hashable:
        """What the oracles expect of each probe, and what an operation has failed to keep."""
        control = self.control
        return (control.ledger.state([p.addr for p in control.probes]), control.broken)

    def is_like(self, other: ControlState, shared: int) -> bool:
        """Each of the tasks stands where it does in ``other``, and what they share is named
        ``shared``, whatever a scenario's code keeps for itself.
        """
        at = [task.at for task in self.plane.tasks]
        return at == [task.at for task in other.plane.tasks] and self._shared() == shared

    def _shared(self) -> int:
        core = self.core
        table = tuple(sorted((addr, self._probe(p)) for addr, p in core.kprobe_table.items()))
        lists = tuple(
            tuple(self.name_of(op) for op in listed) for listed in core.optimizer.lists.values()
        )
        waiting = tuple(
            (addr, self.name_of(p), on) for addr, (p, on) in core.arming.waiting.items()
        )
        switches = (
            waiting,
            len(self._aggregators),
            core.kprobes_allow_optimization,
            core.kprobes_all_disarmed,
            *core.optimizer.due,
        )
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
        # which list it is on, the lists say
        return (*own, detour, tuple(self.name_of(child) for child in p.children))

    def _task(self, task: ControlTask) -> int:
        """What is a control task's own."""
        # Where it stands, and in which wait, its frames say; of a task that has none, whether it
        # has not started or is done.
        return _digest((task.name, task.again is not None, repr(task.error), self._local(task)))

    def _local_state(self, task: ControlTask) -> LocalState:
        return LocalState(self.name_of, task.name, self._own)

    def _local(self, task: ControlTask) -> Hashable:
        """What decides how it goes on."""
        if task.done:
            return ()
        if not task.started:
            return self._local_state(task).function(self._work.get(task.name))
        begun, answers = self.control.told.get(task.index, (0, ()))
        state = self._local_state(task)
        frames = state.frames(task.body.gr_frame)
        tries_again = unbounded(task.body.gr_frame, self._own) and not state.iterates
        return ((0, answers[-_ANSWERS:]) if tries_again else (begun, answers), frames)
