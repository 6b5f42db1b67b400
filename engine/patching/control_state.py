"""One state of the control plane with a core of its own: a control state.

It is reached from the scenario's start by running control tasks step by step. The stack of a
greenlet can't be copied, so the explorer never goes back within a state: it keeps the state as it
is, and makes the next one anew, by the same steps and one more
(:mod:`engine.patching.control_tree`). Control code meets the machine through its text and its waits
only, so what it does in a step does not depend on the vCPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Final

from engine.control.stepped_plane import ControlTask, SteppedPlane
from engine.core.profiles import Profile
from engine.core.transitions import ClearedAtOnce
from engine.errors import InputError
from engine.instrument import Instrument
from engine.kprobe import AggrKprobe, Kprobe
from engine.patching.code_limit import CodeLimit
from engine.patching.control_code import ControlCode, ControlCodes, run_control_code
from engine.patching.handler_log import HandlerLog
from engine.patching.local_state import LocalState, unbounded
from engine.patching.operations import BEHIND_OPERATION, Control
from engine.patching.own_code import OwnCode
from engine.patching.patched_sites import PatchedSite, TextIs
from engine.patching.port import TextPort
from engine.patching.probe_kinds import PLAIN_KINDS
from engine.patching.store_points import STOPPING_KINDS, begin_to_stop

__all__ = ("ControlState", "NoTime", "Stage")

_ANSWERS: Final = 8
"""In a ``while`` loop so many of a task's last answers are part of its state.

An unfinished expression may keep these. All answers, or the number of operations, would make each
round of a loop that tries again another state.
"""


_INTO_THE_REST: Final = (
    "this protocol puts a breakpoint over the jump of a probe that goes, and {} sends a CPU that"
    " hits it through the copy of the first instruction, and then into the rest of the jump"
    " (docs/protocols.md, f66c0447cca1)"
)


@dataclass(frozen=True, slots=True)
class Stage:
    """This record has what all control states of an exploration share.

    :ivar text: makes the text and the arch layer of each control state.
    :ivar profile: the kernel's profile.
    :ivar log: is told of the handlers that run.
    :ivar code: makes the work of the control tasks.
    :ivar own: tells which code is the project's own.
    :ivar limit: ends a user's scenario or protocol that goes round for ever; None where all code
        comes with the project.
    :ivar nmis: whether NMIs may come.
    :ivar late: whether a vCPU may not have seen what was stored to the text.
    :ivar switched: the static branches and static calls of the program.
    :ivar points: with ``stores``, control tasks also stop in front of their stores to what hits
        read without a lock.
    :ivar shared: whether the control tasks share variables
        (:mod:`engine.patching.shared_variables`).
    """

    text: TextPort
    profile: Profile
    log: HandlerLog
    code: ControlCodes
    own: OwnCode
    limit: CodeLimit | None = None
    nmis: bool = False
    late: bool = False
    switched: Sequence[PatchedSite] = ()
    points: str = "locks"
    shared: bool = False


class NoTime:
    """This is the hardware of a control plane on which time does not pass.

    The explorer chooses what the passing of time would bring about.
    """

    jiffies = 0
    in_handler = False

    def run_turn(self) -> bool:
        """Return False: a vCPU runs only when the explorer chooses so."""
        return False

    def advance_to(self, jiffy: int) -> None:
        """Do nothing, since there is no clock."""

    def quiescent(self) -> tuple[tuple[bool, int], ...]:
        """Return nothing: :class:`engine.patching.waits.Waits` knows which vCPUs are quiescent."""
        return ()

    def sync_core(self, cpu: int) -> bool:
        """Return True: :class:`engine.patching.waits.Waits` knows when a core sync has ended."""
        del cpu
        return True


def _digest(told: Hashable) -> int:
    """Return a hash of 64 bits of the text that ``told`` prints as."""
    return int.from_bytes(blake2b(repr(told).encode(), digest_size=8).digest())


class _Aggregators(Instrument):
    """This instrument keeps every aggregator, since a CPU may hold on to one that was freed.

    :param made: is called with each aggregator; None calls nothing.
    """

    def __init__(self, made: Callable[[AggrKprobe], None] | None) -> None:
        self._made = made
        self.by_id: dict[int, AggrKprobe] = {}

    def __len__(self) -> int:
        return len(self.by_id)

    def aggregator_made(self, op: AggrKprobe) -> None:
        """Keep the new aggregator ``op``."""
        self.by_id[op.op_id] = op
        if self._made is not None:
            self._made(op)


class ControlState:
    """A control state has a core, an arch layer and control tasks, which stand still."""

    def __init__(self, stage: Stage) -> None:
        self.port, self.facts, self.image = stage.text, stage.text.facts, stage.text.image
        self.plane = SteppedPlane(NoTime(), nmis=stage.nmis, late=stage.late)
        self.plane.watch = stage.limit
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
            poke=self.arch.poke,
            switched=stage.switched,
            arch=self.arch,
            die_chain=self.arch.die_chain,
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
        """Make the control tasks without starting them, and return their work by name.

        :raises InputError: two tasks have one name.
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
        """Let the control task with number ``index`` make one step."""
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

    @property
    def remarks(self) -> Sequence[str]:
        """Return lines for the user on what came of the control tasks so far."""
        refused, warned = list(self.control.refused), self.control.branches.key.warned
        if warned is not None:
            refused.append(f"the kernel warns: {warned}")
        # Only a patch protocol can say that of itself.
        covers = getattr(self.control.poke, "covers_jumps", False)
        if not covers or not isinstance(self.core.profile.transitions, ClearedAtOnce):
            return refused
        return [*refused, _INTO_THE_REST.format(self.core.profile.name)]

    # Names of probes, which hold in every control state that the same steps lead to ---------------

    def name_of(self, p: Kprobe | None) -> int:
        """Return a number for ``p``: above 0 for an aggregator, below 0 for a scenario's probe.

        The number 0 stands for None.

        :raises InputError: ``p`` is a probe that the scenario did not make by
            :class:`Control`.
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
        """Return the probe that the number ``name`` stands for, or None for 0."""
        if name == 0:
            return None
        return self._aggregators.by_id[name] if name > 0 else self.control.probes[-1 - name]

    # Identity -------------------------------------------------------------------------------------

    def name(self) -> tuple[int, tuple[int, ...], int]:
        """Return hashes of what the control tasks share, of each task, and of the whole state.

        Each hash has 64 bits, and is the same in every process. The first is of text, core
        and slots; that of a task is of where it stands, and what it holds.

        Control states whose last hashes are equal behave alike from here on. What an
        operation has stored so far to an aggregator that is not in the table is decided by
        where its task stands.
        """
        tasks = tuple(map(self._task, self.plane.tasks))
        shared = self._shared()
        return shared, tasks, _digest((shared, tasks, self.expected()))

    def expected(self) -> Hashable:
        """Return what the oracles expect of each probe, and which promise was not kept."""
        control = self.control
        told = (control.ledger.state([p.addr for p in control.probes]), control.broken)
        # The names of control states without a patch protocol stay as they always were.
        if control.text_is is not TextIs.OLD:
            told = (*told, control.text_is.value)
        switched = (*control.branches.state, *control.static_calls.state)
        return (*told, *switched, *control.foreign.state)

    def aggregators(self) -> Hashable:
        """Return what holds of each aggregator that was made, whether it is in the table or not."""
        return tuple(self._probe(op) for op in self._aggregators.by_id.values())

    def is_like(self, other: ControlState, shared: int) -> bool:
        """Return whether all tasks stand where they do in ``other``, and share the same state.

        What a scenario's code keeps in its variables is not compared.

        :param shared: the hash of the shared part of ``other``.
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
        # The hash has the optimizer's lists, which tell on which of them an aggregator is.
        return (*own, detour, tuple(self.name_of(child) for child in p.children))

    def _task(self, task: ControlTask) -> int:
        """Return a hash of what is a control task's own."""
        # The task's frames tell where it stands, and in which wait. A task without frames has not
        # started, or is done; its local state tells which.
        return _digest((task.name, task.again is not None, repr(task.error), self._local(task)))

    def _local_state(self, task: ControlTask) -> LocalState:
        return LocalState(self.name_of, task.name, self._own)

    def _local(self, task: ControlTask) -> Hashable:
        """Return what decides how the scenario's code of a control task goes on."""
        if task.done:
            return ()
        if not task.started:
            return self._local_state(task).function(self._work.get(task.name))
        begun, answers = self.control.told.get(task.index, (0, ()))
        state = self._local_state(task)
        frames = state.frames(task.body.gr_frame)
        tries_again = unbounded(task.body.gr_frame, self._own) and not state.iterates
        return ((0, answers[-_ANSWERS:]) if tries_again else (begun, answers), frames)
