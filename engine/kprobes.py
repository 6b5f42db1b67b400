"""The kprobes core: table, registration, arming, enabling. Answers to kernel/kprobes.c as of 6274de4984a6.

One object per machine holds what the kernel keeps in statics. Lock order: module_mutex, kprobe_mutex, online_cpus, text_mutex.
"""

from __future__ import annotations

import errno
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from enum import Enum, auto
from typing import Any

from engine.aggregate import aggr_post_handler, aggr_pre_handler, nmissed_of, opt_pre_handler
from engine.arch import Arch
from engine.errors import EngineBug, KprobeError
from engine.kallsyms import Kallsyms
from engine.kprobe import AggrKprobe, Kprobe, KprobeFlag, Queue
from engine.optimizer import Optimizer
from engine.sync import ControlPlane, Mutex

__all__ = ("Kprobes",)


class _Bottom(Enum):
    """What is left to do for an unregistered probe after the grace period."""

    INDEPENDENT = auto()
    """It stood alone: free its slot."""
    LAST_CHILD = auto()
    """Its aggregator has left the table: free that."""
    NOTHING = auto()
    """Others still use the aggregator, or the optimizer will reclaim it."""


class Kprobes:
    """All probes of one machine.

    ``kprobes_allow_optimization`` is the sysctl ``kprobes-optimization``, ``kprobes_all_disarmed`` the inverse of debugfs ``enabled``.
    """

    def __init__(self, arch: Arch, plane: ControlPlane, kallsyms: Kallsyms) -> None:
        self.arch = arch
        self.plane = plane
        self.kallsyms = kallsyms
        self.kprobe_table: dict[int, Kprobe] = {}
        self.kprobes_allow_optimization = True
        self.kprobes_all_disarmed = False
        self.module_mutex = Mutex("module_mutex", 1, plane)
        self.kprobe_mutex = Mutex("kprobe_mutex", 2, plane)
        self.online_cpus = Mutex("online_cpus", 3, plane)
        self.text_mutex = Mutex("text_mutex", 4, plane)
        self._ops: dict[int, AggrKprobe] = {}
        self._next_op_id = 1
        locks = (self.module_mutex, self.kprobe_mutex, self.online_cpus, self.text_mutex)
        self.optimizer = Optimizer(arch, plane, self, locks)
        arch.attach(self)

    @contextmanager
    def locked(self, why: str) -> Generator[None]:
        """kprobe_mutex for the table, and below it what touching text needs."""
        taken: list[Mutex] = []
        try:
            for lock in (self.kprobe_mutex, self.online_cpus, self.text_mutex):
                lock.acquire(why)
                taken.append(lock)
            yield
        finally:
            for lock in reversed(taken):
                lock.release()

    # Look-ups ---------------------------------------------------------------------------------------------------------

    def get_kprobe(self, addr: int) -> Kprobe | None:
        """The probe (or aggregator) in the table at ``addr``."""
        return self.kprobe_table.get(addr)

    def get_optimized_kprobe(self, addr: int) -> AggrKprobe | None:
        """The optimization-ready probe whose replaced bytes hold ``addr`` behind their first, or None."""
        for back in range(1, self.arch.max_optimized_len):
            p = self.kprobe_table.get(addr - back)
            if isinstance(p, AggrKprobe) and p.optready and self.arch.arch_within_optimized_kprobe(p, addr):
                return p
        return None

    def find_optimized(self, op_id: int) -> AggrKprobe | None:
        """The aggregator whose detour buffer carries ``op_id``, until it is freed."""
        return self._ops.get(op_id)

    def kprobes_inc_nmissed_count(self, p: Kprobe) -> None:
        """Count a miss, on every child of an aggregator."""
        for probe in nmissed_of(p):
            probe.nmissed += 1

    def opt_pre_handler(self, op: AggrKprobe, regs: Any) -> None:
        """Run the children's pre_handlers on the optimized path."""
        opt_pre_handler(op, regs)

    # Registration -----------------------------------------------------------------------------------------------------

    def _kprobe_addr(self, p: Kprobe) -> int:
        if p.symbol_name is not None and p.addr is not None:
            raise KprobeError(errno.EINVAL, "give an address or a symbol, not both")
        if p.symbol_name is not None:
            symbol = self.kallsyms.lookup_name(p.symbol_name)
            if symbol is None:
                raise KprobeError(errno.ENOENT, f"no function {p.symbol_name}; there is {self.kallsyms.suggest(p.symbol_name)}")
            return symbol.addr + p.offset
        if p.addr is None:
            raise KprobeError(errno.EINVAL, "give an address or a symbol")
        return p.addr + p.offset

    def _is_live(self, p: Kprobe) -> bool:
        """``p`` itself is registered now (as an entry of the table, or as a child of one)."""
        if p.addr is None:
            return False
        entry = self.kprobe_table.get(p.addr)
        return entry is p or (isinstance(entry, AggrKprobe) and p.parent is entry)

    def register_kprobe(self, p: Kprobe) -> None:
        """Put a probe in place and arm it (unless it comes with DISABLED).

        :raises KprobeError: EINVAL (address and symbol both or neither, already registered, not probeable), ENOENT (no such
            symbol), EILSEQ (inside an instruction), EOPNOTSUPP, ENOSPC, EBUSY (an unused probe there is about to be reclaimed).
        """
        if self._is_live(p):
            raise KprobeError(errno.EINVAL, f"{p!r} is registered already")
        addr = self._kprobe_addr(p)
        self.arch.arch_check_text(addr)
        given = p.addr, p.offset, p.flags
        p.addr = addr
        p.offset = p.offset if p.symbol_name is not None else 0
        p.flags &= KprobeFlag.DISABLED
        p.nmissed = 0
        p.parent = None
        try:
            with self.locked("register_kprobe"):
                old = self.get_kprobe(addr)
                if old is not None:
                    self._register_aggr_kprobe(old, p)
                    return
                self.arch.arch_prepare_kprobe(p)
                self.kprobe_table[addr] = p
                if not self.kprobes_all_disarmed and not p.disabled:
                    self._arm_kprobe(p)
                self._try_to_optimize_kprobe(p)
        except KprobeError:
            p.addr, p.offset, p.flags = given
            raise

    def register_kprobes(self, ps: Sequence[Kprobe]) -> None:
        """Register all of ``ps`` or none: when one fails, those before it are unregistered again.

        :raises KprobeError: EINVAL for an empty list, or the first failure.
        """
        if not ps:
            raise KprobeError(errno.EINVAL, "an empty list of probes")
        for index, p in enumerate(ps):
            try:
                self.register_kprobe(p)
            except KprobeError:
                if index:
                    self.unregister_kprobes(ps[:index])
                raise

    # Aggregation ------------------------------------------------------------------------------------------------------

    def _alloc_aggr_kprobe(self, p: Kprobe) -> AggrKprobe:
        """An aggregator for the address of ``p``, its detour buffer prepared where the site allows it."""
        op = AggrKprobe(self._next_op_id)
        self._next_op_id += 1
        op.addr = p.addr
        op.symbol_name, op.offset = p.symbol_name, p.offset
        self.arch.arch_prepare_optimized_kprobe(op)
        if op.optready:
            self._ops[op.op_id] = op
        return op

    def _init_aggr_kprobe(self, ap: AggrKprobe, p: Kprobe) -> None:
        """``ap`` takes the place of ``p`` in the table and ``p`` becomes its first child."""
        ap.ainsn = p.ainsn
        ap.flags = p.flags & ~KprobeFlag.OPTIMIZED
        ap.pre_handler = aggr_pre_handler
        if p.post_handler is not None and not p.gone:
            ap.post_handler = aggr_post_handler
        ap.children = [p]
        p.parent = ap
        self.kprobe_table[p.at] = ap

    def _try_to_optimize_kprobe(self, p: Kprobe) -> None:
        """Make an aggregator of a first probe, if its address can be optimized."""
        ap = self._alloc_aggr_kprobe(p)
        if not ap.optready:
            return
        self._init_aggr_kprobe(ap, p)
        self.optimize_kprobe(ap)

    def _register_aggr_kprobe(self, old: Kprobe, p: Kprobe) -> None:
        """A second or later probe at an address."""
        if isinstance(old, AggrKprobe):
            ap = old
            if ap.unused:
                raise KprobeError(errno.EBUSY, f"{ap!r} is unused and about to be reclaimed; wait for the optimizer")
        else:
            ap = self._alloc_aggr_kprobe(old)
            self._init_aggr_kprobe(ap, old)
        p.ainsn = ap.ainsn
        if p.post_handler is not None:
            self.unoptimize_kprobe(ap, force=True)
        ap.children.insert(0, p)
        p.parent = ap
        if p.post_handler is not None:
            ap.post_handler = aggr_post_handler
        if ap.disabled and not p.disabled:
            ap.flags &= ~KprobeFlag.DISABLED
            if not self.kprobes_all_disarmed:
                self._arm_kprobe(ap)

    # Unregistration ---------------------------------------------------------------------------------------------------

    def _unregister_top(self, p: Kprobe) -> _Bottom | None:
        """Take ``p`` out of service. None: it was not registered."""
        entry = self._disable(p)
        if entry is None:
            return None
        if not isinstance(entry, AggrKprobe):
            del self.kprobe_table[entry.at]
            return _Bottom.INDEPENDENT
        if len(entry.children) == 1 and entry.disarmed:
            del self.kprobe_table[entry.at]
            return _Bottom.LAST_CHILD
        # Others remain, or the jump is still being undone: the optimizer will reclaim the aggregator.
        entry.children.remove(p)
        if p.post_handler is not None and not p.gone and not any(child.post_handler for child in entry.children):
            entry.post_handler = None
        if not entry.disabled and not self.kprobes_all_disarmed:
            self.optimize_kprobe(entry)
        return _Bottom.NOTHING

    def _unregister_bottom(self, p: Kprobe, bottom: _Bottom) -> None:
        """After the grace period: nobody runs a handler of ``p`` any more."""
        parent = p.parent
        match bottom:
            case _Bottom.INDEPENDENT:
                self.arch.arch_remove_kprobe(p)
            case _Bottom.LAST_CHILD:
                assert parent is not None
                parent.children.clear()
                self.free_aggr_kprobe(parent)
            case _Bottom.NOTHING:
                pass
        p.parent = None
        p.ainsn = None

    def unregister_kprobe(self, p: Kprobe) -> bool:
        """:meth:`unregister_kprobes` of one."""
        return self.unregister_kprobes([p]) == 1

    def unregister_kprobes(self, ps: Iterable[Kprobe]) -> int:
        """Take probes out of service, with one grace period for all; no handler of theirs runs after the return.

        A jump is undone later, by the optimizer. A probe that is not registered changes nothing.
        ``addr`` of an unregistered probe stays set, so one that names a symbol needs ``addr = None`` before it is registered again.

        :returns: how many were registered.
        """
        gone: list[tuple[Kprobe, _Bottom]] = []
        with self.locked("unregister_kprobes"):
            for p in ps:
                bottom = self._unregister_top(p)
                if bottom is None:
                    p.addr = None
                else:
                    gone.append((p, bottom))
        if not gone:
            return 0
        self.plane.synchronize_sched("unregister_kprobes")
        for p, bottom in gone:
            self._unregister_bottom(p, bottom)
        return len(gone)

    def unhash(self, op: AggrKprobe) -> None:
        """Take an unused aggregator out of the table (the optimizer does)."""
        if self.kprobe_table.get(op.at) is not op:
            raise EngineBug(f"{op!r} is not in the table")
        del self.kprobe_table[op.at]

    def free_aggr_kprobe(self, op: AggrKprobe) -> None:
        """Free an unused aggregator's slot and detour buffer."""
        if op.children:
            raise EngineBug(f"{op!r} still has children")
        self.arch.arch_remove_optimized_kprobe(op)
        self.arch.arch_remove_kprobe(op)
        self._ops.pop(op.op_id, None)

    # Optimizing -------------------------------------------------------------------------------------------------------

    def optimize_kprobe(self, p: Kprobe) -> None:
        """Queue ``p`` for optimizing, if everything allows it; one that waits to be undone is only dequeued."""
        if not isinstance(p, AggrKprobe) or not p.optready or not self.kprobes_allow_optimization:
            return
        if p.disabled or self.kprobes_all_disarmed or p.post_handler is not None:
            return
        if not self.arch.arch_check_optimized_kprobe(p) or p.optimized:
            return
        p.flags |= KprobeFlag.OPTIMIZED
        if p.queue is Queue.UNOPTIMIZING:
            self.optimizer.dequeue(p)
        else:
            self.optimizer.queue_optimize(p)

    def unoptimize_kprobe(self, p: Kprobe, *, force: bool = False) -> None:
        """Queue an optimized probe for undoing; one still waiting to be optimized is only dequeued.

        :param force: undo it at once, with a stop_machine of its own.
        """
        if not isinstance(p, AggrKprobe) or p.disarmed:
            return
        if not p.optimized:
            if force and p.queue is Queue.UNOPTIMIZING:
                self.optimizer.dequeue(p)
                self._force_unoptimize(p)
            return
        p.flags &= ~KprobeFlag.OPTIMIZED
        if p.queue is Queue.OPTIMIZING:
            self.optimizer.dequeue(p)
        elif force:
            self._force_unoptimize(p)
        else:
            self.optimizer.queue_unoptimize(p)

    def _force_unoptimize(self, op: AggrKprobe) -> None:
        self.arch.arch_unoptimize_kprobe(op)
        if op.disabled:
            self.arch.arch_disarm_kprobe(op)

    def wait_for_kprobe_optimizer(self) -> None:
        """Until both lists are empty and no pass is scheduled or under way."""
        self.optimizer.wait()

    # Arming -----------------------------------------------------------------------------------------------------------

    def _arm_kprobe(self, p: Kprobe) -> None:
        """Write the breakpoint; an optimized neighbour whose bytes hold it is forced back first."""
        self.text_mutex.assert_held()
        neighbour = self.get_optimized_kprobe(p.at)
        if neighbour is not None:
            self.unoptimize_kprobe(neighbour, force=True)
        self.arch.arch_arm_kprobe(p)
        self.optimize_kprobe(p)

    def _disarm_kprobe(self, p: Kprobe) -> bool:
        """Take the breakpoint away. False: the probe is queued, so the optimizer will."""
        self.text_mutex.assert_held()
        self.unoptimize_kprobe(p)
        if isinstance(p, AggrKprobe) and p.queued:
            return False
        self.arch.arch_disarm_kprobe(p)
        return True

    def _reoptimize_neighbour(self, addr: int) -> None:
        """A probe at ``addr`` no longer hinders the one whose replaced bytes it lies in."""
        neighbour = self.get_optimized_kprobe(addr)
        if neighbour is not None:
            self.optimize_kprobe(neighbour)

    # Enabling ---------------------------------------------------------------------------------------------------------

    def _disable(self, p: Kprobe) -> Kprobe | None:
        """Disable ``p`` and, with its last live child, the aggregator. Returns the table's entry, None when not registered."""
        if not self._is_live(p):
            return None
        entry = self.kprobe_table[p.at]
        if p.disabled:
            return entry
        if entry is not p:
            p.flags |= KprobeFlag.DISABLED
        if entry is p or (isinstance(entry, AggrKprobe) and all(child.disabled for child in entry.children)):
            disarmed = self._disarm_kprobe(entry)
            entry.flags |= KprobeFlag.DISABLED
            if disarmed:
                self._reoptimize_neighbour(entry.at)
        return entry

    def disable_kprobe(self, p: Kprobe) -> None:
        """Keep a probe registered, without its handler being called.

        :raises KprobeError: EINVAL when it is not registered.
        """
        with self.locked("disable_kprobe"):
            if self._disable(p) is None:
                raise KprobeError(errno.EINVAL, f"{p!r} is not registered")

    def enable_kprobe(self, p: Kprobe) -> None:
        """Undo :meth:`disable_kprobe`.

        :raises KprobeError: EINVAL when it is not registered or its code is gone.
        """
        with self.locked("enable_kprobe"):
            if not self._is_live(p):
                raise KprobeError(errno.EINVAL, f"{p!r} is not registered")
            if p.gone:
                raise KprobeError(errno.EINVAL, f"the code under {p!r} is gone")
            entry = self.kprobe_table[p.at]
            if p is not entry:
                p.flags &= ~KprobeFlag.DISABLED
            if not self.kprobes_all_disarmed and entry.disabled:
                entry.flags &= ~KprobeFlag.DISABLED
                self._arm_kprobe(entry)
