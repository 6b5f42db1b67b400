"""The state of each vCPU that an exploration keeps beside the vCPU's registers."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from engine.hit_phases import HitKind, HitPhase
from engine.patching.expectations import Lives
from engine.patching.fetch_model import NOTHING_LEFT, View
from engine.patching.hit_in_progress import NO_HIT, Block, Hit
from engine.patching.parked_task import Mode, ParkedTask
from engine.patching.passes import Pass, Seen, pass_key
from engine.search.actor import Actor, ActorKind

__all__ = ("Interrupted", "VcpuState")

_HANDLING: Final = (HitPhase.BETWEEN, HitPhase.HANDLED)


class Interrupted(NamedTuple):
    """This record says what a CPU was doing when an NMI came.

    These are the hit, the pass over a site and the single step in progress, the kprobes layer's
    record of the CPU, and the vector and x87 registers. The CPU's other registers lie on its
    stack.
    """

    hit: Hit | None
    passing: Pass | None
    stepping: bool
    block: Block
    vectors: bytes

    @property
    def busy(self) -> bool:
        """Return whether the NMI interrupted a hit, so that a hit within the NMI is a miss.

        A hit counts from when its probe was found to the end of the single step.
        """
        hit = self.hit
        found = (
            hit is not None
            and hit.phase is not HitPhase.TRAP
            and (hit.kind is not HitKind.INT3 or hit.phase in _HANDLING)
        )
        return found or self.stepping


class VcpuState:
    """This object has what the explorer knows of one vCPU.

    :ivar actor: the actor that stands for this vCPU in a schedule when it goes on.
    :ivar task: number of the task that runs on the vCPU.
    :ivar parked: the vCPU's tasks that do not run now.
    :ivar asleep: the vCPU's tasks that will never run again.
    :ivar calls: how many calls the running task has begun.
    :ivar hit: the hit whose next piece is to come, or None.
    :ivar block: the kprobes layer's record of the hit in progress.
    :ivar stepping: a probed instruction is being single-stepped: this holds from the end of its
        hit's handlers to the trap behind the instruction.
    :ivar nmi: an NMI is being handled.
    :ivar nested: the port's token for the function that the NMI's handler calls.
    :ivar interrupted: what the NMI has interrupted.
    :ivar quiet: the task stands in ``schedule()``, which is a quiescent point.
    :ivar passing: the pass over a site that the vCPU is in, or None.
    :ivar position: how many steps the vCPU has made.
    :ivar view: the stores to the text that the vCPU has not seen.
    :ivar frozen: a control task has suspended the vCPU's tasks.
    :ivar shut_out: the vCPU faults at hidden code, and waits there.
    :ivar chosen: the number of the way in which the vCPU fetches its next instruction; the way with
        number 0 has the bytes of the present text.
    """

    __slots__ = (
        "actor",
        "asleep",
        "block",
        "calls",
        "chosen",
        "frozen",
        "hit",
        "index",
        "interrupted",
        "mode",
        "nested",
        "nmi",
        "parked",
        "passing",
        "position",
        "quiet",
        "shut_out",
        "stepping",
        "task",
        "view",
    )

    def __init__(self, index: int) -> None:
        self.index = index
        self.actor = Actor(ActorKind.VCPU, index)
        self.reset()

    def reset(self, parked: tuple[ParkedTask, ...] = ()) -> None:
        """Put the vCPU into its state at the start of a schedule.

        :param parked: the vCPU's tasks that do not run at the start.
        """
        self.task = 2 * self.index
        self.parked = parked
        self.asleep: tuple[ParkedTask, ...] = ()
        self.mode = Mode.IDLE
        self.calls = 0
        self.hit: Hit | None = None
        self.block: Block = NO_HIT
        self.quiet = False
        self.stepping = False
        self.passing: Pass | None = None
        self.position = 0
        self.nmi = False
        self.nested: object = None
        self.interrupted: Interrupted | None = None
        self.frozen = False
        self.shut_out = False
        self.synchronize()

    def synchronize(self) -> None:
        """Note that the vCPU has executed what synchronizes its fetches: it has seen all stores."""
        self.view: View = NOTHING_LEFT
        self.chosen = 0

    @property
    def over(self) -> bool:
        """Return whether all calls of all tasks of this vCPU are made."""
        return self.mode is Mode.DONE and not self.parked

    @property
    def off_call(self) -> bool:
        """Return whether the running task is between calls, or in ``schedule()``."""
        return self.mode is not Mode.CALL or self.quiet

    @property
    def quiescent(self) -> bool:
        """Return whether the vCPU is between calls or in ``schedule()``, and not in an NMI."""
        return self.off_call and not self.nmi

    def note(self, seen: Seen, probe: int) -> None:
        """Add to the pass in progress, if there is one, that ``seen`` has happened to a probe.

        :param seen: what has happened.
        :param probe: the number of the probe.
        """
        one = self.passing
        if one is not None:
            self.passing = one._replace(seen=(*one.seen, (seen, probe)))

    def save(self) -> tuple[Any, ...]:
        """Return all of the vCPU's state that can change, for :meth:`restore`."""
        return (
            self.mode,
            self.calls,
            self.hit,
            self.block,
            self.quiet,
            self.passing,
            self.stepping,
            self.position,
            self.task,
            self.parked,
            self.nmi,
            self.nested,
            self.interrupted,
            self.asleep,
            self.view,
            self.chosen,
            self.frozen,
            self.shut_out,
        )

    def restore(self, saved: tuple[Any, ...]) -> None:
        """Go back to a state that :meth:`save` has returned."""
        (
            self.mode,
            self.calls,
            self.hit,
            self.block,
            self.quiet,
            self.passing,
            self.stepping,
            self.position,
            self.task,
            self.parked,
            self.nmi,
            self.nested,
            self.interrupted,
            self.asleep,
            self.view,
            self.chosen,
            self.frozen,
            self.shut_out,
        ) = saved

    @property
    def live(self) -> bool:
        """Return whether registers and stack matter: the vCPU is in a call or in an NMI."""
        return self.mode is Mode.CALL or self.nmi

    @property
    def idle(self) -> bool:
        """Return whether none of this vCPU's tasks is in the middle of a call."""
        return not (self.live or self.asleep or any(one.mode is Mode.CALL for one in self.parked))

    @property
    def leaves_status(self) -> bool:
        """Return whether a hit that is over has left a status on the CPU that still counts."""
        current, _, *others = self.block
        return not current and self.block != NO_HIT and tuple(others) == NO_HIT[2:]

    def key(self, lives: Lives) -> tuple[Any, ...]:
        """Return what the hash of a state has of this vCPU, beside live registers and live stack.

        A vCPU between calls needs neither: its next call sets them up anew.

        :param lives: what holds for each probe now.
        """
        away = tuple(sorted(one.key(lives) for one in self.parked))
        asleep = tuple((one.task, one.rip) for one in self.asleep)
        # Between calls it makes no difference which of its tasks the CPU has, so the key is sorted.
        if not self.live:
            here = ((self.task, self.calls),) if self.mode is Mode.IDLE else ()
            left = (self.block,) if self.leaves_status else ()
            return (tuple(sorted((*here, *away))), asleep, self._held_back(), *left)
        hit = self.hit.key if self.hit is not None else 0
        nmi: tuple[Any, ...] = ()
        # The key has what the NMI interrupted. It need not say whether the handler has begun, since
        # the address of the next instruction tells that.
        if self.interrupted is not None:
            before, passing, stepping, block, vectors = self.interrupted
            nmi = (
                before.key if before is not None else 0,
                pass_key(passing, lives),
                stepping,
                block,
                vectors,
            )
        passing = pass_key(self.passing, lives)
        # No case is known in which two states differ in task and mode alone: each task has a stack
        # of its own, to which RSP points unless code switches stacks, and an NMI between calls
        # comes on an empty stack.
        return (
            self.calls,
            self.task,
            self.mode,
            away,
            asleep,
            hit,
            self.block,
            self.quiet,
            passing,
            self.stepping,
            nmi,
            self._held_back(),
        )

    def _held_back(self) -> tuple[Any, ...]:
        """Return what the vCPU has not seen, and what keeps it from going on; most often nothing.

        A vCPU chooses how to fetch only where it has not seen a store.
        """
        if not (self.view or self.frozen or self.shut_out):
            return ()
        return (self.view, self.chosen, self.frozen, self.shut_out)
