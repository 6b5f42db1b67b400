"""Jump optimization of the core: aggregators' detour buffers, collisions of neighbours. Answers to
the CONFIG_OPTPROBES part of kernel/kprobes.c.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from engine.arch import Arch
from engine.core.arming import Arming
from engine.core.optimizer import Optimizer
from engine.core.profiles import Profile
from engine.core.safety_steps import SafetyStep
from engine.errors import EngineBug
from engine.instrument import Instrument
from engine.kprobe import AggrKprobe, Kprobe, KprobeFlag, Queue

__all__ = ("Optprobes", "ProbeTable")


class ProbeTable(Protocol):
    """What is asked of the core."""

    arming: Arming
    kprobes_all_disarmed: bool
    kprobes_allow_optimization: bool
    instruments: list[Instrument]

    def get_kprobe(self, addr: int) -> Kprobe | None:
        """The probe (or aggregator) in the table at ``addr``."""
        ...

    def assert_text_locked(self) -> None:
        """EngineBug unless the current task holds text_mutex."""
        ...

    def unhash(self, op: AggrKprobe) -> None:
        """Take an unused aggregator out of the table, if it is still there."""
        ...


class Optprobes:
    """What arming and disarming do beyond one byte. All of it needs kprobe_mutex, and text_mutex
    where text changes.

    :ivar by_id: the aggregators that have a detour buffer, by the number that it passes to the
        callback.
    """

    def __init__(
        self, arch: Arch, optimizer: Optimizer, table: ProbeTable, profile: Profile
    ) -> None:
        self._arch = arch
        self._optimizer = optimizer
        self._table = table
        self._profile = profile
        self.by_id: dict[int, AggrKprobe] = {}
        self._next_id = 1

    # Aggregators ----------------------------------------------------------------------------------

    def alloc_aggr_kprobe(self, p: Kprobe) -> AggrKprobe:
        """An aggregator for the address of ``p``, its detour buffer prepared where the site allows
        it.
        """
        op = AggrKprobe(self._next_id)
        self._next_id += 1
        op.addr = p.addr
        op.symbol_name, op.offset = p.symbol_name, p.offset
        self.prepare_optimized_kprobe(op)
        for instrument in self._table.instruments:
            instrument.aggregator_made(op)
        return op

    def prepare_optimized_kprobe(self, op: AggrKprobe) -> None:
        """Try to build its detour buffer, unless it has one."""
        if op.optready or not self._profile.optprobes:
            return
        self._arch.arch_prepare_optimized_kprobe(op)
        if op.optready:
            self.by_id[op.op_id] = op

    def free_aggr_kprobe(self, op: AggrKprobe) -> None:
        """Free an unused aggregator's slot and detour buffer."""
        if op.children:
            raise EngineBug(f"{op!r} still has children")
        self._arch.arch_remove_optimized_kprobe(op)
        self._arch.arch_remove_kprobe(op)
        self.by_id.pop(op.op_id, None)
        for instrument in self._table.instruments:
            instrument.aggregator_freed(op)

    def kill_optimized_kprobe(self, op: AggrKprobe) -> None:
        """The code under ``op`` is gone: off the lists, detour buffer freed, text not touched. An
        unused one leaves the table, too.
        """
        if op.queued:
            self._optimizer.dequeue(op)
        op.flags &= ~KprobeFlag.OPTIMIZED
        if op.unused and self._profile.has(SafetyStep.GONE_UNHASHED):
            self._table.unhash(op)
            self._optimizer.put(op, Queue.FREEING)
            self._optimizer.kick()
        self._arch.arch_remove_optimized_kprobe(op)
        self.by_id.pop(op.op_id, None)

    @property
    def prepared(self) -> int:
        """How many aggregators have a detour buffer."""
        return len(self.by_id)

    # Optimizing -----------------------------------------------------------------------------------

    def _covering(self, addr: int) -> Iterator[AggrKprobe]:
        """The optimization-ready probes whose replaced bytes hold ``addr`` behind their first,
        nearest first.
        """
        for back in range(1, self._arch.max_optimized_len):
            p = self._table.get_kprobe(addr - back)
            if (
                isinstance(p, AggrKprobe)
                and p.optready
                and self._arch.arch_within_optimized_kprobe(p, addr)
            ):
                yield p
            if p is not None and self._profile.looks_at_nearest_only:
                return

    def get_optimized_kprobe(self, addr: int) -> AggrKprobe | None:
        """The optimization-ready probe whose replaced bytes hold ``addr`` behind their first, or
        None. Of several, one with a jump.
        """
        found = list(self._covering(addr))
        return next((p for p in found if p.optimized or p.queued), found[0] if found else None)

    def optimize_kprobe(self, p: Kprobe) -> None:
        """Queue ``p`` for optimizing, if everything allows it; one that waits to be undone is only
        dequeued.
        """
        table = self._table
        if not isinstance(p, AggrKprobe) or not p.optready or not table.kprobes_allow_optimization:
            return
        if (
            p.disabled
            or table.kprobes_all_disarmed
            or p.post_handler is not None
            or p.break_handler is not None
        ):
            return
        if self._arch.arch_check_optimized_kprobe(p):
            self._profile.transitions.optimize(p, self._optimizer)

    def unoptimize_kprobe(self, p: Kprobe, *, force: bool = False) -> None:
        """Queue an optimized probe for undoing; one still waiting to be optimized is only dequeued.

        :param force: undo it at once.
        """
        if isinstance(p, AggrKprobe) and not p.disarmed:
            self._profile.transitions.unoptimize(p, self._optimizer, force=force)

    # Arming ---------------------------------------------------------------------------------------

    def arm_kprobe(self, p: Kprobe) -> None:
        """Write the breakpoint; an optimized neighbour whose bytes hold it is forced back first. Or
        ftrace's call, which none holds.
        """
        self._table.assert_text_locked()
        if p.ftrace:
            self._table.arming.arm(p)
            return
        if self._profile.has(SafetyStep.COLLISION_UNOPTIMIZE):
            for neighbour in self._covering(p.at):
                self.unoptimize_kprobe(neighbour, force=True)
        jumps = isinstance(p, AggrKprobe) and p.queue is Queue.UNOPTIMIZING
        if not (
            jumps
            and self._profile.rearms_whole
            and self._profile.has(SafetyStep.COMMIT_F66C0447CCA1)
        ):
            self._table.arming.arm(p)
        self.optimize_kprobe(p)

    def disarm_kprobe(self, p: Kprobe) -> bool:
        """Take the breakpoint away. False: the probe is queued, so the optimizer will."""
        self._table.assert_text_locked()
        self.unoptimize_kprobe(
            p, force=self._table.kprobes_all_disarmed and self._profile.disarms_by_force
        )
        if isinstance(p, AggrKprobe) and p.queued:
            return False
        self._table.arming.disarm(p)
        return True

    def reoptimize_neighbours(self, addr: int) -> None:
        """A probe at ``addr`` was disarmed: optimize those whose replaced bytes it lies in, if
        nothing else hinders that.
        """
        for neighbour in self._covering(addr):
            self.optimize_kprobe(neighbour)
