"""Aggregators, detour buffers and colliding neighbours. Answers to kernel/kprobes.c.

There it is the part under CONFIG_OPTPROBES, with arm_kprobe() and disarm_kprobe().
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
    """What optimizing asks of the core: the switches, the table and its locks."""

    arming: Arming
    kprobes_all_disarmed: bool
    kprobes_allow_optimization: bool
    instruments: list[Instrument]

    def get_kprobe(self, addr: int) -> Kprobe | None:
        """The probe or aggregator in the table at ``addr``, or None."""
        ...

    def assert_text_locked(self) -> None:
        """Raise EngineBug unless the current task holds text_mutex."""
        ...

    def unhash(self, op: AggrKprobe) -> None:
        """Take an unused aggregator out of the table, if it is still there."""
        ...


class Optprobes:
    """All that arming and disarming a probe does beside writing one byte.

    Each method needs kprobe_mutex, and text_mutex where text changes.

    :ivar by_id: the aggregators that have a detour buffer, by the number that the buffer passes to
        the callback.
    :ivar aggregator_kind: the class that aggregators are made of.
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
        self.aggregator_kind = AggrKprobe

    # Aggregators ----------------------------------------------------------------------------------

    def alloc_aggr_kprobe(self, p: Kprobe) -> AggrKprobe:
        """Make an aggregator for the address of ``p`` (alloc_aggr_kprobe).

        It has a detour buffer where the site allows one. The caller puts it into the table.
        """
        op = self.aggregator_kind(self._next_id)
        self._next_id += 1
        op.addr = p.addr
        op.symbol_name, op.offset = p.symbol_name, p.offset
        self.prepare_optimized_kprobe(op)
        for instrument in self._table.instruments:
            instrument.aggregator_made(op)
        return op

    def prepare_optimized_kprobe(self, op: AggrKprobe) -> None:
        """Build the detour buffer of ``op``, unless it has one (prepare_optimized_kprobe).

        Where the site allows no jump there is none afterwards either.
        """
        if op.optready or not self._profile.optprobes:
            return
        self._arch.arch_prepare_optimized_kprobe(op)
        if op.optready:
            self.by_id[op.op_id] = op

    def free_aggr_kprobe(self, op: AggrKprobe) -> None:
        """Free the slot and the detour buffer of an unused aggregator (free_aggr_kprobe).

        :raises EngineBug: it still has children.
        """
        if op.children:
            raise EngineBug(f"{op!r} still has children")
        self._arch.arch_remove_optimized_kprobe(op)
        self._arch.arch_remove_kprobe(op)
        self.by_id.pop(op.op_id, None)
        for instrument in self._table.instruments:
            instrument.aggregator_freed(op)

    def kill_optimized_kprobe(self, op: AggrKprobe) -> None:
        """Free the detour buffer of ``op``, whose code is gone (kill_optimized_kprobe).

        It leaves the optimizer's lists, and its text is not touched. An unused one also leaves the
        table, and the next pass frees it (SafetyStep.GONE_UNHASHED).
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
        """The number of aggregators that have a detour buffer."""
        return len(self.by_id)

    # Optimizing -----------------------------------------------------------------------------------

    def _covering(self, addr: int) -> Iterator[AggrKprobe]:
        """The probes with a detour buffer whose replaced bytes, but the first, hold ``addr``.

        The nearest comes first. Linux 6.1 looks no further than the nearest probe of any kind
        (``looks_at_nearest_only``).
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
        """The probe with a detour buffer whose replaced bytes, but the first, hold ``addr``.

        Of several, it is one that has a jump or is on a list, if there is such
        (get_optimized_kprobe).

        :returns: None where there is no such probe.
        """
        found = list(self._covering(addr))
        return next((p for p in found if p.optimized or p.queued), found[0] if found else None)

    def optimize_kprobe(self, p: Kprobe) -> None:
        """Put ``p`` on the list for optimizing, if everything allows a jump (optimize_kprobe).

        A probe that waits to be undone only leaves its list, since its jump still stands.
        """
        table = self._table
        if not isinstance(p, AggrKprobe) or not p.optready or not table.kprobes_allow_optimization:
            return
        # A post_handler runs behind the one probed instruction, and a break_handler comes back to
        # it; the copies in a detour buffer run all replaced instructions without a stop.
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
        """Put an optimized probe on the list for undoing (unoptimize_kprobe).

        A probe that still waits to be optimized only leaves its list.

        :param force: undo the jump at once.
        """
        if isinstance(p, AggrKprobe) and not p.disarmed:
            self._profile.transitions.unoptimize(p, self._optimizer, force=force)

    # Arming ---------------------------------------------------------------------------------------

    def arm_kprobe(self, p: Kprobe) -> None:
        """Write the breakpoint of ``p``, or ftrace's call, and try to optimize it (__arm_kprobe).

        A neighbour with a jump that lies over the breakpoint is forced back to its own breakpoint
        first: the bytes of a jump have room for no other.
        """
        self._table.assert_text_locked()
        if p.ftrace:
            self._table.arming.arm(p)
            return
        if self._profile.has(SafetyStep.COLLISION_UNOPTIMIZE):
            for neighbour in self._covering(p.at):
                self.unoptimize_kprobe(neighbour, force=True)
        # A jump that waits to be undone still stands whole, and reports hits as a breakpoint would.
        # With a breakpoint over its first byte, only the flag OPTIMIZED would say that the tail of
        # a jump follows.
        jumps = isinstance(p, AggrKprobe) and p.queue is Queue.UNOPTIMIZING
        if not (
            jumps
            and self._profile.rearms_whole
            and self._profile.has(SafetyStep.COMMIT_F66C0447CCA1)
        ):
            self._table.arming.arm(p)
        self.optimize_kprobe(p)

    def disarm_kprobe(self, p: Kprobe) -> bool:
        """Take the breakpoint of ``p`` away (__disarm_kprobe).

        :returns: False when the probe is on a list instead, so that the optimizer takes it away.
        """
        self._table.assert_text_locked()
        self.unoptimize_kprobe(
            p, force=self._table.kprobes_all_disarmed and self._profile.disarms_by_force
        )
        if isinstance(p, AggrKprobe) and p.queued:
            return False
        self._table.arming.disarm(p)
        return True

    def reoptimize_neighbours(self, addr: int) -> None:
        """Optimize the probes whose replaced bytes hold ``addr``, if nothing else hinders that.

        The caller has disarmed the probe at ``addr``.
        """
        for neighbour in self._covering(addr):
            self.optimize_kprobe(neighbour)
