"""The optimizer: its lists and its pass. Answers to kprobe_optimizer() in kernel/kprobes.c.

It follows 6274de4984a6 or v6.1, as the profile says. :mod:`engine.core.transitions` decides which
list an aggregator goes to, and what the list and the flag OPTIMIZED mean together.
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
"""Jiffies from the first kick to the pass (OPTIMIZE_DELAY)."""


class OptimizerHost(Protocol):
    """What the optimizer needs of the core: the switches, the locks and the table."""

    arming: Arming
    instruments: list[Instrument]
    kprobes_all_disarmed: bool
    kprobes_allow_optimization: bool

    def locked_tables(self, why: str) -> AbstractContextManager[None]:
        """Hold module_mutex and kprobe_mutex, which a pass holds from its beginning to its end."""
        ...

    def locked_text(self, why: str) -> AbstractContextManager[None]:
        """Hold online_cpus and text_mutex, which come behind the others in the order of locks."""
        ...

    def assert_text_locked(self) -> None:
        """Raise EngineBug unless the current task holds text_mutex."""
        ...

    def unhash(self, op: AggrKprobe) -> None:
        """Take an unused aggregator out of the table, if it is still there."""
        ...

    def free_aggr_kprobe(self, op: AggrKprobe) -> None:
        """Free the slot and the detour buffer of an unused aggregator."""
        ...

    def reoptimize_neighbours(self, addr: int) -> None:
        """Optimize the probes whose replaced bytes hold ``addr``, if nothing else hinders that.

        The probe at ``addr`` is disarmed, and its breakpoint is out of the text.
        """
        ...


class Optimizer:
    """The optimizer's lists, and the delayed work that takes from them.

    :ivar lists: the aggregators on each list, oldest first.
    :ivar passes: how often the work has run.
    """

    def __init__(
        self, arch: Arch, port: MachinePort, host: OptimizerHost, profile: Profile
    ) -> None:
        self._arch = arch
        self._port = port
        self._host = host
        self._profile = profile
        # The kernel adds at the head of its lists and takes from there, so each list is gone
        # through from its newest member to its oldest. The lists here are dictionaries in the order
        # of insertion, which are read by reversed(): taking a member out of the middle must not
        # cost a scan of the list.
        self.lists: dict[Queue, dict[AggrKprobe, None]] = {
            queue: {} for queue in Queue if queue is not Queue.NONE
        }
        self._pending = False
        self._running = False
        self._completed = False
        self.passes = 0

    # Lists ----------------------------------------------------------------------------------------

    def put(self, op: AggrKprobe, queue: Queue) -> None:
        """Put ``op`` at the head of a list, and schedule a pass unless the list is FREEING.

        The freeing list needs none to be scheduled: what comes there from the unoptimizing list has
        a pass that is scheduled or under way, and kill_optimized_kprobe() schedules one.

        :raises EngineBug: ``op`` is on a list already.
        """
        if op.queue is not Queue.NONE:
            raise EngineBug(f"{op!r} is on the {op.queue.value} list already")
        op.queue = queue
        self.lists[queue][op] = None
        if queue is not Queue.FREEING:
            self.kick()

    def dequeue(self, op: AggrKprobe) -> None:
        """Take ``op`` off the list that it is on.

        :raises EngineBug: ``op`` is on no list.
        """
        if op.queue is Queue.NONE:
            raise EngineBug(f"{op!r} is on no list")
        del self.lists[op.queue][op]
        op.queue = Queue.NONE

    def force_unoptimize(self, op: AggrKprobe) -> None:
        """Write the breakpoint over the jump of ``op`` at once (force_unoptimize_kprobe)."""
        self._host.assert_text_locked()
        self._arch.arch_unoptimize_kprobe(op)
        self._tell_unoptimized((op,))

    def disarm(self, op: AggrKprobe) -> None:
        """Write the original first byte over the breakpoint of ``op`` at once."""
        self._host.assert_text_locked()
        self._host.arming.disarm_now([op])

    def _tell_unoptimized(self, ops: Iterable[AggrKprobe]) -> None:
        """Tell the watchers that the jumps of ``ops`` were undone."""
        for instrument in self._host.instruments:
            for op in ops:
                instrument.unoptimized(op)

    @property
    def leaves_no_breakpoints(self) -> bool:
        """Whether a jump that is undone now leaves no breakpoint, since all probes are disarmed.

        In the commit of 2010 it always leaves one (SafetyStep.ENABLED_0_DISARMS). Where disarming
        all probes undoes jumps by force, the operation that does so writes the original bytes
        itself.
        """
        profile = self._profile
        return (
            self._host.kprobes_all_disarmed
            and not profile.disarms_by_force
            and profile.has(SafetyStep.ENABLED_0_DISARMS)
        )

    def _optimizes(self) -> bool:
        """Whether the two global switches allow jumps now."""
        return self._host.kprobes_allow_optimization and not self._host.kprobes_all_disarmed

    @property
    def waiting(self) -> bool:
        """Whether a list holds something that a pass would take."""
        return bool(self.lists[Queue.UNOPTIMIZING]) or (
            self._optimizes() and bool(self.lists[Queue.OPTIMIZING])
        )

    @property
    def idle(self) -> bool:
        """Whether there is nothing to take, and no pass is scheduled or under way."""
        return not (self._pending or self._running or self.waiting)

    @property
    def due(self) -> tuple[bool, bool]:
        """Whether a pass is scheduled, and whether one is under way."""
        return (self._pending, self._running)

    @property
    def completed(self) -> bool:
        """Whether a pass has left nothing to do since the machine was built."""
        return self._completed

    def kick(self) -> None:
        """Schedule a pass, unless one is scheduled already (kick_kprobe_optimizer)."""
        if not self._pending:
            self._pending = True
            self._port.schedule_delayed_work(self.run_pass, OPTIMIZE_DELAY, "kprobe_optimizer")

    def wait(self) -> None:
        """Wait until both lists are empty and no pass is scheduled or under way.

        Then the freeing list is empty as well. The kernels' wait_for_kprobe_optimizer() waits for
        less: see the two methods below.
        """
        self._port.wait_until(lambda: self.idle, "wait_for_kprobe_optimizer")

    def wait_for_lists(self) -> None:
        """Wait as wait_for_kprobe_optimizer() of v6.1 does.

        That is until nothing waits to be optimized or undone, and no pass is under way.
        """
        self._port.wait_until(
            lambda: not (self._running or self.waiting), "wait_for_kprobe_optimizer"
        )

    def wait_for_completion(self) -> None:
        """Wait as wait_for_kprobe_optimizer() of 6274de4984a6 does.

        If a pass is scheduled, that is until a pass has left nothing to do. The kernel never
        initializes its completion again (mended by ad72b3bea744), so once there was such a pass
        this does not wait at all. With the batches of cd7ebe2298ff such a pass is one that leaves
        both lists empty; before that commit each pass was.
        """
        if self._pending:
            self._port.wait_until(lambda: self._completed, "wait_for_completion")

    # The pass -------------------------------------------------------------------------------------

    def run_pass(self) -> None:
        """Run one pass of the delayed work (kprobe_optimizer).

        The lock order is module_mutex, kprobe_mutex, online_cpus, text_mutex. The first two are
        held throughout, the others throughout or around each step that writes, as the profile says.
        """
        self._pending = False
        self._running = True
        self.passes += 1
        try:
            with self._host.locked_tables("kprobe_optimizer"), self._text(whole_pass=True):
                # 1. Undo the jumps that are listed. From here on no CPU enters the detour buffers
                #    of these probes, neither by the jump nor, since OPTIMIZED is clear now, by the
                #    breakpoint.
                with self._text(whole_pass=False):
                    self._do_unoptimize()
                # 2. Wait, for two reasons at once.
                # * A CPU, or a task that is off its CPU, may have been interrupted behind the first
                #   of the instructions that step 3 replaces, and would go on in the middle of the
                #   jump. No other comes there meanwhile: no jump of the function leads there, a
                #   breakpoint stands on the first instruction, and since OPTIMIZED is set, a hit on
                #   it runs all of them as copies in the detour buffer.
                # * A CPU, or such a task, may be in a detour buffer that step 4 frees. Step 1 lets
                #   no other enter it.
                # Without `free-wait` the buffers are freed before the wait. Without `quiescence`
                # the wait comes behind step 3, where it still protects the buffers.
                if not self._profile.has(SafetyStep.FREE_WAIT):
                    self._do_free_cleaned()
                if self._profile.has(SafetyStep.QUIESCENCE):
                    self._wait()
                # 3. Write the jumps that are listed.
                with self._text(whole_pass=False):
                    self._do_optimize()
                if not self._profile.has(SafetyStep.QUIESCENCE):
                    self._wait()
                # 4. Free the aggregators that step 1 took out of the table.
                self._do_free_cleaned()
        finally:
            self._running = False
        self._completed |= not self.waiting
        # 5. Come again if a list still holds something, such as what did not fit in the batch.
        if self.waiting:
            self.kick()

    def _wait(self) -> None:
        """Wait for all CPUs and, if the profile says so, for tasks that are off their CPUs."""
        if self._profile.waits_for_tasks:
            self._port.synchronize_rcu_tasks("kprobe_optimizer")
        else:
            self._port.synchronize_sched("kprobe_optimizer")

    @contextmanager
    def _text(self, *, whole_pass: bool) -> Generator[None]:
        """Hold the text locks, if this is the place where the kernel of the profile takes them.

        :param whole_pass: whether the place is the whole pass with its wait, where 6.1 takes them,
            or one step that writes, where the kernel of 2010 does.
        """
        if self._profile.pass_holds_text_lock is whole_pass:
            with self._host.locked_text("kprobe_optimizer"):
                yield
        else:
            yield

    def _batch(self, queue: Queue) -> list[AggrKprobe]:
        """Take the next batch off a list, newest first, and return it."""
        batch = list(islice(reversed(self.lists[queue]), self._profile.most_in_a_pass))
        for op in batch:
            self.dequeue(op)
        return batch

    def _freeing(self) -> tuple[AggrKprobe, ...]:
        """The aggregators that are to be disarmed and freed, in the kernel's order.

        A batch moves to this list member by member, each to the head, so it is gone through in the
        reverse order.
        """
        return tuple(reversed(self.lists[Queue.FREEING]))

    def _do_unoptimize(self) -> None:
        """Undo the jumps of one batch, and disarm the freeing list (do_unoptimize_kprobes)."""
        self._host.assert_text_locked()
        batch = self._batch(Queue.UNOPTIMIZING)
        if batch:
            self._arch.arch_unoptimize_kprobes(batch)
            self._tell_unoptimized(batch)
            for op in batch:
                self.put(op, Queue.FREEING)
        # A probe that was forced back while it waited to be undone is on the freeing list also
        # where there is no batch (4fbd2f83fda0).
        elif not self._profile.has(SafetyStep.COMMIT_4FBD2F83FDA0):
            return
        for group in self._host.arming.groups(self._freeing()):
            self._do_disarm(group)

    def _do_disarm(self, ops: Sequence[AggrKprobe]) -> None:
        """Remove the breakpoints that undone jumps of ``ops`` have left, where no probe needs them.

        An aggregator that no probe uses leaves the table; the others leave their list. Answers to
        the second half of do_unoptimize_kprobes().
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
        """Write the jumps of one batch (do_optimize_kprobes).

        :raises EngineBug: an aggregator in it is disabled or lacks the flag OPTIMIZED.
        """
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
        """Free the unused aggregators of the freeing list (do_free_cleaned_kprobes).

        The list is empty afterwards.
        """
        for op in self._freeing():
            self.dequeue(op)
            # One in use is here only without 4fbd2f83fda0, where a pass without a batch skips the
            # list in step 1.
            if op.unused:
                self._host.free_aggr_kprobe(op)
