"""The delayed optimizer: its lists and its pass. Answers to kprobe_optimizer() in kernel/kprobes.c,
at 6274de4984a6 and v6.1.

What a list and the flag OPTIMIZED mean together is :mod:`engine.core.transitions`' business.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import Final, Protocol

from engine.arch import Arch, MachinePort
from engine.core.arming import Arming
from engine.core.profiles import Profile
from engine.core.safety_steps import SafetyStep
from engine.errors import EngineBug
from engine.instrument import Instrument
from engine.kprobe import AggrKprobe, KprobeFlag, Queue

__all__ = ("OPTIMIZE_DELAY", "Optimizer", "OptimizerHost")

OPTIMIZE_DELAY: Final = 5
"""Jiffies from the first kick to the pass."""


class OptimizerHost(Protocol):
    """What the optimizer needs of the table and its locks."""

    arming: Arming
    instruments: list[Instrument]
    kprobes_all_disarmed: bool
    kprobes_allow_optimization: bool

    def locked_tables(self, why: str) -> AbstractContextManager[None]:
        """The locks of the tables: held for a whole pass."""
        ...

    def locked_text(self, why: str) -> AbstractContextManager[None]:
        """Below them, what touching text needs."""
        ...

    def assert_text_locked(self) -> None:
        """EngineBug unless the current task holds text_mutex."""
        ...

    def unhash(self, op: AggrKprobe) -> None:
        """Take an unused aggregator out of the table, if it is still there."""
        ...

    def free_aggr_kprobe(self, op: AggrKprobe) -> None:
        """Free an unused aggregator's slot and detour buffer."""
        ...

    def reoptimize_neighbours(self, addr: int) -> None:
        """A probe at ``addr`` has gone, text and all: optimize those whose replaced bytes it lay
        in, if nothing else hinders that.
        """
        ...


class Optimizer:
    """Lists and the delayed work. ``passes`` counts how often the work ran."""

    def __init__(
        self, arch: Arch, port: MachinePort, host: OptimizerHost, profile: Profile
    ) -> None:
        self._arch = arch
        self._port = port
        self._host = host
        self._profile = profile
        # Insertion-ordered sets: taking one out of the middle must not cost a scan. The kernel adds
        # at the head of its lists and takes from there, so each of them is gone through from its
        # newest member to its oldest: reversed().
        self.lists: dict[Queue, dict[AggrKprobe, None]] = {
            queue: {} for queue in Queue if queue is not Queue.NONE
        }
        self._pending = False
        self._running = False
        self._completed = False
        self.passes = 0

    # Lists ----------------------------------------------------------------------------------------

    def put(self, op: AggrKprobe, queue: Queue) -> None:
        """Put ``op`` at the head of a list; what waits for a pass gets one."""
        if op.queue is not Queue.NONE:
            raise EngineBug(f"{op!r} is on the {op.queue.value} list already")
        op.queue = queue
        self.lists[queue][op] = None
        if queue is not Queue.FREEING:
            self.kick()

    def dequeue(self, op: AggrKprobe) -> None:
        """Take ``op`` off the list it is on."""
        if op.queue is Queue.NONE:
            raise EngineBug(f"{op!r} is on no list")
        del self.lists[op.queue][op]
        op.queue = Queue.NONE

    def force_unoptimize(self, op: AggrKprobe) -> None:
        """Write the breakpoint over the jump of ``op`` now."""
        self._host.assert_text_locked()
        self._arch.arch_unoptimize_kprobe(op)
        self._tell_unoptimized((op,))

    def disarm(self, op: AggrKprobe) -> None:
        """Write the original first byte of ``op`` now."""
        self._host.assert_text_locked()
        self._host.arming.disarm_now([op])

    def _tell_unoptimized(self, ops: Iterable[AggrKprobe]) -> None:
        for instrument in self._host.instruments:
            for op in ops:
                instrument.unoptimized(op)

    @property
    def leaves_no_breakpoints(self) -> bool:
        """All probes are disarmed, and whoever undoes a jump takes its breakpoint away, too (not in
        the commit of 2010).
        """
        profile = self._profile
        return (
            self._host.kprobes_all_disarmed
            and not profile.disarms_by_force
            and profile.has(SafetyStep.ENABLED_0_DISARMS)
        )

    def _optimizes(self) -> bool:
        return self._host.kprobes_allow_optimization and not self._host.kprobes_all_disarmed

    @property
    def waiting(self) -> bool:
        """A list holds something that a pass would take."""
        return bool(self.lists[Queue.UNOPTIMIZING]) or (
            self._optimizes() and bool(self.lists[Queue.OPTIMIZING])
        )

    @property
    def idle(self) -> bool:
        """Nothing to take, scheduled or under way."""
        return not (self._pending or self._running or self.waiting)

    @property
    def due(self) -> tuple[bool, bool]:
        """A pass is scheduled; one is under way."""
        return (self._pending, self._running)

    @property
    def completed(self) -> bool:
        """A pass has left nothing to do since the machine was built."""
        return self._completed

    def kick(self) -> None:
        """Schedule a pass, unless one is scheduled already."""
        if not self._pending:
            self._pending = True
            self._port.schedule_delayed_work(self.run_pass, OPTIMIZE_DELAY, "kprobe_optimizer")

    def wait(self) -> None:
        """Until both lists are empty and no pass is scheduled or under way
        (wait_for_kprobe_optimizer).
        """
        self._port.wait_until(lambda: self.idle, "wait_for_kprobe_optimizer")

    def wait_for_lists(self) -> None:
        """As wait_for_kprobe_optimizer() of v6.1 waits: until nothing waits to be optimized or
        undone, and no pass is under way.
        """
        self._port.wait_until(
            lambda: not (self._running or self.waiting), "wait_for_kprobe_optimizer"
        )

    def wait_for_completion(self) -> None:
        """As wait_for_kprobe_optimizer() of 6274de4984a6 waits: if a pass is scheduled, until one
        has left nothing to do.

        Its completion is never initialized again (mended by ad72b3bea744), so behind the first such
        pass it is no wait any more. With the batches of cd7ebe2298ff it comes with a pass that
        leaves both lists empty; before, with each.
        """
        if self._pending:
            self._port.wait_until(lambda: self._completed, "wait_for_completion")

    # The pass -------------------------------------------------------------------------------------

    def run_pass(self) -> None:
        """One pass of the delayed work."""
        self._pending = False
        self._running = True
        self.passes += 1
        try:
            with self._host.locked_tables("kprobe_optimizer"), self._text(whole_pass=True):
                # 1. Undo what is listed, so that its probes stop using their detour buffers.
                with self._text(whole_pass=False):
                    self._do_unoptimize()
                # 2. Wait: a CPU may be inside the bytes about to be replaced, or inside a detour
                # buffer about to be freed.
                if not self._profile.has(SafetyStep.FREE_WAIT):
                    self._do_free_cleaned()
                if self._profile.has(SafetyStep.QUIESCENCE):
                    self._wait()
                # 3. Optimize what is listed.
                with self._text(whole_pass=False):
                    self._do_optimize()
                if not self._profile.has(SafetyStep.QUIESCENCE):
                    self._wait()
                # 4. Free what step 1 took out of the table.
                self._do_free_cleaned()
        finally:
            self._running = False
        self._completed |= not self.waiting
        # 5. More than a batch was listed, or something came meanwhile.
        if self.waiting:
            self.kick()

    def _wait(self) -> None:
        if self._profile.waits_for_tasks:
            self._port.synchronize_rcu_tasks("kprobe_optimizer")
        else:
            self._port.synchronize_sched("kprobe_optimizer")

    @contextmanager
    def _text(self, *, whole_pass: bool) -> Generator[None]:
        """The text locks, around the whole pass or around each step that writes, as the kernel has
        it.
        """
        if self._profile.pass_holds_text_lock is whole_pass:
            with self._host.locked_text("kprobe_optimizer"):
                yield
        else:
            yield

    def _batch(self, queue: Queue) -> list[AggrKprobe]:
        """The next batch of a list, newest first, taken off it."""
        batch = list(islice(reversed(self.lists[queue]), self._profile.most_in_a_pass))
        for op in batch:
            self.dequeue(op)
        return batch

    def _freeing(self) -> tuple[AggrKprobe, ...]:
        """What is to be disarmed and freed. A batch moves here member by member, each to the head,
        so it is met in the reverse order.
        """
        return tuple(reversed(self.lists[Queue.FREEING]))

    def _do_unoptimize(self) -> None:
        self._host.assert_text_locked()
        batch = self._batch(Queue.UNOPTIMIZING)
        if batch:
            self._arch.arch_unoptimize_kprobes(batch)
            self._tell_unoptimized(batch)
            for op in batch:
                self.put(op, Queue.FREEING)
        elif not self._profile.has(SafetyStep.COMMIT_4FBD2F83FDA0):
            return
        for group in self._host.arming.groups(self._freeing()):
            self._do_disarm(group)

    def _do_disarm(self, ops: Sequence[AggrKprobe]) -> None:
        """Their jumps are undone: their breakpoints go, too, where nobody needs them, and what
        nobody uses leaves the table.
        """
        for op in ops:
            self._profile.transitions.restored(op)
        all_go = self.leaves_no_breakpoints
        going = [op for op in ops if not op.gone and (op.disabled or all_go)]
        if going:
            self._host.arming.disarm_now(going)
        for op in ops:
            if op.unused:
                self._host.unhash(op)
            else:
                self.dequeue(op)
        if self._profile.reoptimizes_later:
            for op in ops:
                if op.disabled:
                    self._host.reoptimize_neighbours(op.at)

    def _do_optimize(self) -> None:
        if not self._optimizes():
            return
        self._host.assert_text_locked()
        batch = self._batch(Queue.OPTIMIZING)
        if not batch:
            return
        for op in batch:
            if op.disabled or not op.flags & KprobeFlag.OPTIMIZED:
                raise EngineBug(f"{op!r} waits to be optimized but is not live")
        self._arch.arch_optimize_kprobes(batch)
        for instrument in self._host.instruments:
            for op in batch:
                instrument.optimized(op)

    def _do_free_cleaned(self) -> None:
        for op in self._freeing():
            self.dequeue(op)
            if op.unused:  # else it was taken into use again while the pass waited
                self._host.free_aggr_kprobe(op)
