"""The present state of an exploration: it is saved, restored and hashed here."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from engine.control.stepped_plane import MachineWait
from engine.errors import EngineBug
from engine.patching.choices import Choices
from engine.patching.control_steps import ControlSteps
from engine.patching.control_tree import ControlNode
from engine.patching.judge import Judge
from engine.patching.open_calls import OpenCalls
from engine.patching.parked_task import ParkedTask
from engine.patching.situation import Situation
from engine.patching.waits import Waits
from engine.search.actor import Actor

__all__ = ("SavedState", "States")


class SavedState:
    """The exploration can go back to the state that this record has.

    :ivar released: the memory of this record may be in use for another state.
    """

    __slots__ = (
        "actor",
        "judge",
        "machine",
        "made",
        "node",
        "open_calls",
        "released",
        "trace",
        "vcpus",
        "waits",
    )

    machine: Any
    released: bool
    vcpus: list[tuple[Any, ...]]
    waits: dict[int, tuple[MachineWait, frozenset[int]]]
    node: ControlNode
    actor: Actor | None
    trace: Any
    made: int
    open_calls: OpenCalls
    judge: tuple[Any, ...]


class States:
    """This object saves, restores and hashes all that an exploration can change.

    :param tasks: of each vCPU, its second task as it is before its first call.
    """

    def __init__(
        self,
        now: Situation,
        judge: Judge,
        *,
        waits: Waits,
        steps: ControlSteps,
        choices: Choices,
        tasks: list[tuple[ParkedTask, ...]],
    ) -> None:
        self._now = now
        self._judge = judge
        self._waits = waits
        self._steps = steps
        self._choices = choices
        self._tasks = tasks
        self._memory = now.port.memory
        self._cpus = now.port.cpus
        self._text = now.port.text
        self._start = self._memory.save()

    def reset(self, root: ControlNode) -> None:
        """Go to the start of a schedule, where no call and no control task has begun.

        :param root: the control state in which no control task has begun.
        """
        now = self._now
        self._memory.restore(self._start)
        for vcpu, parked in zip(now.vcpus, self._tasks, strict=True):
            vcpu.reset(parked)
        now.reset()
        self._waits.left = {}
        self._judge.reset()
        self._steps.enter(root, -1)

    def save(self) -> SavedState:
        """Return a record of the present state, for :meth:`restore`."""
        now, saved = self._now, SavedState()
        saved.machine = self._memory.save()
        saved.released = False
        saved.vcpus = [vcpu.save() for vcpu in now.vcpus]
        saved.waits = self._waits.left.copy()
        saved.node, saved.actor, saved.trace, saved.made, saved.open_calls = (
            now.node,
            now.actor,
            now.trace,
            now.made,
            now.open_calls,
        )
        saved.judge = self._judge.save()
        return saved

    def restore(self, state: SavedState) -> None:
        """Go back to ``state``.

        :raises EngineBug: ``state`` was released, or the machine is not as it was when it
            was saved.
        """
        if state.released:
            raise EngineBug("a state was gone back to whose room may be in use for another one")
        now = self._now
        self._memory.restore(state.machine)
        for vcpu, saved in zip(now.vcpus, state.vcpus, strict=True):
            vcpu.restore(saved)
        self._waits.left = state.waits.copy()
        now.actor, now.trace, now.made, now.open_calls = (
            state.actor,
            state.trace,
            state.made,
            state.open_calls,
        )
        self._judge.restore(state.judge)
        self._steps.show(state.node)
        self._memory.require_restored(state.machine)
        self._text.require_shown(state.node.version)

    def release(self, state: SavedState) -> None:
        """Say that ``state`` is not needed any more, so that its memory can be used again."""
        state.released = True
        self._memory.release(state.machine)

    def key(self) -> int:
        """Return a hash of all that decides what can happen from the present state on.

        The hash covers registers, live memory, the control state, vCPUs, waits, what the
        oracles remember, and the vCPU that went on last, since leaving that vCPU may cost
        something.
        """
        now, memory = self._now, self._memory
        digest = blake2b(digest_size=8)
        ips: list[int] = []
        for vcpu in now.vcpus:
            if vcpu.live:
                memory.add_cpu(vcpu.index, digest)
                ips.append(self._cpus.ip(vcpu.index))
            for parked in vcpu.parked:
                memory.add_task(parked, digest)
        digest.update(b"".join(now.data.names()))
        current = self._choices.current
        who = -1 if current is None else current.index
        told = (
            ips,
            self.vcpu_names(),
            self._waits.key(),
            now.node.name,
            who,
            now.open_calls,
            self._judge.key(),
        )
        digest.update(repr(told).encode())
        return int.from_bytes(digest.digest())

    def vcpu_names(self) -> tuple[Any, ...]:
        """Return what the vCPUs are doing, for the hash of the state.

        Where tasks share nothing and one of them is in a call, the hash leaves out which
        calls the vCPUs between calls still have to make: the call in progress ends in a
        state that was also met without those other calls
        (:mod:`engine.patching.independence`). Where all vCPUs are between calls and all
        calls go alike, the hash does not tell which vCPU has how many calls left.
        """
        lives, vcpus, choices = self._now.node.lives, self._now.vcpus, self._choices
        if any(vcpu.leaves_status for vcpu in vcpus):
            # What the next call on such a vCPU does depends on an earlier one.
            return tuple(vcpu.key(lives) for vcpu in vcpus)
        busy = [
            (vcpu.index, vcpu.key(lives)) for vcpu in vcpus if not (choices.apart and vcpu.idle)
        ]
        if busy:
            return tuple(busy)
        if not choices.alike:
            return tuple(vcpu.key(lives) for vcpu in vcpus)
        return tuple(sorted(map(choices.calls_left, vcpus)))
