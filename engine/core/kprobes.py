"""The kprobes core: table, registration, arming, enabling. Answers to kernel/kprobes.c, at
6274de4984a6 and v6.1.

One object per machine holds what the kernel keeps in statics. Lock order: module_mutex,
kprobe_mutex, online_cpus, text_mutex.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager
from enum import Enum, auto

from engine.arch import Arch
from engine.control.sync import ControlPlane, Mutex
from engine.core.aggregate import AggrHandlers, nmissed_of
from engine.core.arming import Arming
from engine.core.jprobes import Jprobes
from engine.core.kretprobes import Kretprobes
from engine.core.optimizer import Optimizer
from engine.core.optprobes import Optprobes
from engine.core.profiles import LINUX_2010, Profile
from engine.core.register_all import register_all
from engine.core.safety_steps import SafetyStep
from engine.errors import KprobeError
from engine.instrument import Instrument
from engine.jprobe import Jprobe
from engine.kallsyms import Kallsyms
from engine.kprobe import AggrKprobe, Kprobe, KprobeFlag
from engine.kretprobe import Kretprobe

__all__ = ("Kprobes",)

_OFFSET_MASK = (1 << 32) - 1


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

    ``kprobes_allow_optimization`` is the sysctl ``kprobes-optimization``, ``kprobes_all_disarmed``
    the inverse of debugfs ``enabled``.

    :ivar instruments: who is told of what happens (:mod:`engine.instrument`).
    """

    def __init__(
        self, arch: Arch, plane: ControlPlane, kallsyms: Kallsyms, profile: Profile = LINUX_2010
    ) -> None:
        self.arch = arch
        self.plane = plane
        self.kallsyms = kallsyms
        self.profile = profile
        self.kprobe_table: dict[int, Kprobe] = {}
        self.kprobes_allow_optimization = profile.optprobes
        self.kprobes_all_disarmed = False
        self.instruments: list[Instrument] = []
        self.module_mutex = Mutex("module_mutex", 1, plane)
        self.kprobe_mutex = Mutex("kprobe_mutex", 2, plane)
        self.online_cpus = Mutex("online_cpus", 3, plane)
        self.text_mutex = Mutex("text_mutex", 4, plane)
        self.arming = Arming(arch, self.instruments, together=profile.pokes_together)
        self.optimizer = Optimizer(arch, plane, self, profile)
        self.optprobes = Optprobes(arch, self.optimizer, self, profile)
        self.aggr = AggrHandlers(arch, ends_handled=profile.has(SafetyStep.HANDLED_HIT_ENDS))
        self.kretprobes = Kretprobes(self, arch)
        self.jprobes = Jprobes(self, arch)
        arch.attach(self)

    # Locks ----------------------------------------------------------------------------------------

    @contextmanager
    def _held(self, why: str, *locks: Mutex) -> Generator[None]:
        taken: list[Mutex] = []
        try:
            for lock in locks:
                lock.acquire(why)
                taken.append(lock)
            yield
        finally:
            for lock in reversed(taken):
                lock.release()

    @contextmanager
    def locked(self, why: str) -> Generator[None]:
        """kprobe_mutex for the table, and below it what touching text needs. What is to be armed or
        disarmed is when they are dropped.
        """
        with self._held(why, self.kprobe_mutex, self.online_cpus, self.text_mutex):
            try:
                yield
            finally:
                self.arming.flush()

    def locked_tables(self, why: str) -> AbstractContextManager[None]:
        """What a pass of the optimizer holds throughout."""
        return self._held(why, self.module_mutex, self.kprobe_mutex)

    def locked_text(self, why: str) -> AbstractContextManager[None]:
        """What touching text needs."""
        return self._held(why, self.online_cpus, self.text_mutex)

    def assert_text_locked(self) -> None:
        """EngineBug unless the current task holds text_mutex: the text of probes is about to
        change.
        """
        self.text_mutex.assert_held()

    # Look-ups -------------------------------------------------------------------------------------

    def get_kprobe(self, addr: int) -> Kprobe | None:
        """The probe (or aggregator) in the table at ``addr``."""
        return self.kprobe_table.get(addr)

    def get_optimized_kprobe(self, addr: int) -> AggrKprobe | None:
        """The optimization-ready probe whose replaced bytes hold ``addr`` behind their first, or
        None.
        """
        return self.optprobes.get_optimized_kprobe(addr)

    def find_optimized(self, op_id: int) -> AggrKprobe | None:
        """The aggregator whose detour buffer carries ``op_id``, until it is freed."""
        return self.optprobes.by_id.get(op_id)

    def kprobes_inc_nmissed_count(self, p: Kprobe) -> None:
        """Count a miss, on every child of an aggregator."""
        for probe in nmissed_of(p):
            probe.nmissed += 1
            for instrument in self.instruments:
                instrument.missed(probe)

    # Registration ---------------------------------------------------------------------------------

    def kprobe_addr(self, p: Kprobe) -> int:
        """Where ``p`` asks to go. Raises KprobeError: EINVAL (address and symbol both or neither),
        ENOENT or EINVAL (no such symbol).
        """
        unknown = errno.ENOENT if self.profile.lookup_is_enoent else errno.EINVAL
        offset = p.offset & _OFFSET_MASK if self.profile.offset_is_cut else p.offset
        if p.symbol_name is not None and p.addr is not None:
            raise KprobeError(errno.EINVAL, "give an address or a symbol, not both")
        if p.symbol_name is not None:
            symbol = self.kallsyms.lookup_name(p.symbol_name)
            if symbol is None:
                raise KprobeError(
                    unknown,
                    f"no function {p.symbol_name}; there is {self.kallsyms.suggest(p.symbol_name)}",
                )
            return self.arch.arch_adjust_kprobe_addr(symbol.addr + offset)
        if not p.addr:
            raise KprobeError(errno.EINVAL, "give an address or a symbol")
        return self.arch.arch_adjust_kprobe_addr(p.addr + offset)

    def on_func_entry(self, addr: int) -> bool:
        """``addr`` is a function's first byte, or where a probe there goes
        (kprobe_on_func_entry).
        """
        found = self.kallsyms.lookup(addr)
        return found is not None and (
            found[1] == 0 or self.arch.arch_adjust_kprobe_addr(addr - found[1]) == addr
        )

    def is_registered(self, p: Kprobe) -> bool:
        """``p`` itself is registered now, as an entry of the table or as a child of one
        (__get_valid_kprobe).
        """
        if p.addr is None:
            return False
        entry = self.kprobe_table.get(p.addr)
        return entry is p or (
            isinstance(entry, AggrKprobe) and any(child is p for child in entry.children)
        )

    def register_kprobe(self, p: Kprobe) -> None:
        """Put a probe in place and arm it (unless it comes with DISABLED, the one flag that is
        looked at).

        ``addr`` stays set once the place is known, also when the place is refused, so a probe that
        names a symbol needs ``addr = None`` before it is registered again.

        :raises KprobeError: EINVAL (address and symbol both or neither, already registered, not
            probeable, a handler that this kernel does not have), ENOENT or EINVAL (no such symbol),
            EILSEQ (inside an instruction), EOPNOTSUPP, ENOSPC, EBUSY (an unused probe there is
            about to be reclaimed), EEXIST (a second break_handler there).
        """
        self._check(p)
        with self.locked("register_kprobe"):
            self._register(p)
            self._tell_registered(p)

    def _check(self, p: Kprobe) -> None:
        """Refuse what can be refused without a look at the text, which others may be writing, and
        make ``p`` a fresh probe.
        """
        if p.fault_handler is not None and not self.profile.fault_handlers:
            raise KprobeError(errno.EINVAL, "fault_handler: not there any more since v5.14")
        if p.break_handler is not None and not self.profile.jprobes:
            raise KprobeError(errno.EINVAL, "break_handler: not there any more since v4.19")
        # by the address that it has, for the better word: with a symbol that address is refused
        # below
        self._refuse_registered(p)
        p.addr = addr = self.kprobe_addr(p)
        # by the place that it names: the caller may have cleared its address
        self._refuse_registered(p)
        p.offset = p.offset if p.symbol_name is not None else 0
        p.flags = p.given = p.flags & KprobeFlag.DISABLED
        p.nmissed = 0
        p.parent = None
        self.arch.arch_check_text(addr)

    def _refuse_registered(self, p: Kprobe) -> None:
        if self.is_registered(p):
            raise KprobeError(errno.EINVAL, f"{p!r} is registered already")

    def _register(self, p: Kprobe) -> None:
        """With the locks held."""
        addr = p.at
        if self.profile.marks_entries and self.on_func_entry(addr):
            p.flags |= KprobeFlag.ON_FUNC_ENTRY
        if self.profile.on_ftrace and self.arch.arch_ftrace_location(addr):
            p.flags |= KprobeFlag.FTRACE
        old = self.get_kprobe(addr)
        if old is not None:
            self._register_aggr_kprobe(old, p)
            return
        self.arch.arch_prepare_kprobe(p)
        self.kprobe_table[addr] = p
        if not self.kprobes_all_disarmed and not p.disabled:
            self.optprobes.arm_kprobe(p)
        self._try_to_optimize_kprobe(p)

    def register_locked(self, p: Kprobe) -> None:
        """:meth:`register_kprobe` of one of several, with the locks held."""
        self._check(p)
        self._register(p)
        self._tell_registered(p)

    def _tell_registered(self, p: Kprobe) -> None:
        for instrument in self.instruments:
            instrument.registered(p)

    def register_kprobes(self, ps: Sequence[Kprobe]) -> None:
        """Register all of ``ps`` or none: when one fails, those before it are unregistered again.

        :raises KprobeError: EINVAL for an empty list, or the first failure.
        """
        if self.arming.together:
            register_all(
                ps, self.register_locked, self.unregister_kprobes, self.locked("register_kprobes")
            )
        else:
            register_all(ps, self.register_kprobe, self.unregister_kprobes)

    # Aggregation ----------------------------------------------------------------------------------

    def _init_aggr_kprobe(self, ap: AggrKprobe, p: Kprobe) -> None:
        """``ap`` takes the place of ``p`` in the table and ``p`` becomes its first child."""
        ap.ainsn = p.ainsn
        ap.flags = p.flags & ~KprobeFlag.OPTIMIZED
        ap.pre_handler = self.aggr.pre_handler
        ap.fault_handler = self.aggr.fault_handler
        if p.post_handler is not None and not p.gone:
            ap.post_handler = self.aggr.post_handler
        if p.break_handler is not None and not p.gone:
            ap.break_handler = self.aggr.break_handler
        ap.children = [p]
        p.parent = ap
        self.kprobe_table[p.at] = ap

    def _try_to_optimize_kprobe(self, p: Kprobe) -> None:
        """Make an aggregator of a first probe, if its address can be optimized."""
        if p.ftrace:
            return
        ap = self.optprobes.alloc_aggr_kprobe(p)
        if not ap.optready:
            return
        self._init_aggr_kprobe(ap, p)
        self.optprobes.optimize_kprobe(ap)

    def _register_aggr_kprobe(self, old: Kprobe, p: Kprobe) -> None:
        """A second or later probe at an address."""
        if isinstance(old, AggrKprobe):
            ap = old
            if ap.unused:
                self._reuse_unused_kprobe(ap, p)
        else:
            ap = self.optprobes.alloc_aggr_kprobe(old)
            self._init_aggr_kprobe(ap, old)
        if ap.gone:
            # Its code was removed, and its slot with it; now there is code again.
            self.arch.arch_prepare_kprobe(ap)
            self.optprobes.prepare_optimized_kprobe(ap)
            ap.flags = ap.flags & ~KprobeFlag.GONE | KprobeFlag.DISABLED
        p.ainsn = ap.ainsn
        if p.post_handler is not None or p.break_handler is not None:
            self.optprobes.unoptimize_kprobe(ap, force=True)
        if p.break_handler is None:
            ap.children.insert(0, p)
        elif ap.break_handler is None:
            ap.children.append(p)
            ap.break_handler = self.aggr.break_handler
        else:
            raise KprobeError(
                errno.EEXIST, f"{p!r}: one with a break_handler is there already, and two can't be"
            )
        p.parent = ap
        if p.post_handler is not None:
            ap.post_handler = self.aggr.post_handler
        if ap.disabled and not p.disabled:
            ap.flags &= ~KprobeFlag.DISABLED
            if not self.kprobes_all_disarmed:
                self.optprobes.arm_kprobe(ap)

    def _reuse_unused_kprobe(self, ap: AggrKprobe, p: Kprobe) -> None:
        """The last user of ``ap`` is gone and the optimizer has not come yet: its jump still
        stands.
        """
        if not self.profile.rescues_unused:
            raise KprobeError(
                errno.EBUSY, f"{ap!r} is unused and about to be reclaimed; wait for the optimizer"
            )
        if not ap.optready:
            raise KprobeError(errno.EINVAL, f"{ap!r} is unused, and was not optimized")
        if p.disabled and not self.profile.rescue_enables:
            return  # a disabled probe's: the optimizer goes on undoing its jump
        ap.flags &= ~KprobeFlag.DISABLED
        self.optprobes.optimize_kprobe(ap)

    # Unregistration -------------------------------------------------------------------------------

    def _unregister_tops(self, ps: Iterable[Kprobe]) -> list[tuple[Kprobe, _Bottom]]:
        """Take out of service which of ``ps`` are registered."""
        gone: dict[Kprobe, _Bottom] = {}
        for group in self.arming.groups(ps):
            entries: dict[Kprobe, Kprobe] = {}
            for p in group:
                if p in gone or p in entries:
                    continue
                entry = self._disable(p)
                if entry is None:
                    p.addr = None
                else:
                    entries[p] = entry
            self.arming.flush()  # who hits a breakpoint that still stands has to find its probe
            for p, entry in entries.items():
                gone[p] = self._unregister_top(p, entry)
        return list(gone.items())

    def _unregister_top(self, p: Kprobe, entry: Kprobe) -> _Bottom:
        """Take the disabled ``p`` out of ``entry``, or that out of the table."""
        if not isinstance(entry, AggrKprobe):
            del self.kprobe_table[entry.at]
            return _Bottom.INDEPENDENT
        if len(entry.children) == 1 and entry.disarmed:
            del self.kprobe_table[entry.at]
            return _Bottom.LAST_CHILD
        # Others remain, or the jump is still being undone: the optimizer will reclaim the
        # aggregator.
        if p.break_handler is not None and not p.gone:
            entry.break_handler = None
        # One that is made of ftrace keeps it: the kernel tells by it which of two sets of functions
        # it is in (5dd7caf0bdc5).
        posts = entry.ftrace or any(
            child.post_handler for child in entry.children if child is not p
        )
        if p.post_handler is not None and not p.gone and not posts:
            entry.post_handler = None
        entry.children.remove(p)
        if not entry.disabled and not self.kprobes_all_disarmed:
            self.optprobes.optimize_kprobe(entry)
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
                self.optprobes.free_aggr_kprobe(parent)
            case _Bottom.NOTHING:
                pass
        p.parent = None
        p.ainsn = None
        if self.profile.gives_flags_back:
            p.flags = p.given

    def unregister_kprobe(self, p: Kprobe) -> bool:
        """:meth:`unregister_kprobes` of one."""
        return self.unregister_kprobes([p]) == 1

    def unregister_kprobes(
        self, ps: Iterable[Kprobe], *, disarmed: Callable[[], None] | None = None
    ) -> int:
        """Take probes out of service, with one grace period for all; no handler of theirs runs
        after the return.

        A jump is undone later, by the optimizer. A probe that is not registered changes nothing. As
        in the kernel ``addr`` of an unregistered probe stays set: clear it before a probe that
        names a symbol is registered again, or it is refused. So does the flag DISABLED, with which
        it comes back disabled; in ``next`` its ``flags`` are those that it was registered with.

        :param disarmed: called with the locks held, before the grace period.
        :returns: how many were registered.
        """
        with self.locked("unregister_kprobes"):
            gone = self._unregister_tops(ps)
            if disarmed is not None:
                disarmed()
        if not gone:
            return 0
        if self.profile.has(SafetyStep.UNREGISTER_WAIT):
            wait = (
                self.plane.synchronize_rcu_tasks
                if self.profile.unregisters_behind_tasks
                else self.plane.synchronize_sched
            )
            wait("unregister_kprobes")
        for p, bottom in gone:
            self._unregister_bottom(p, bottom)
            for instrument in self.instruments:
                instrument.unregistered(p)
        return len(gone)

    def unhash(self, op: AggrKprobe) -> None:
        """Take an unused aggregator out of the table, if it is still there."""
        if self.kprobe_table.get(op.at) is op:
            del self.kprobe_table[op.at]

    def free_aggr_kprobe(self, op: AggrKprobe) -> None:
        """Free an unused aggregator's slot and detour buffer."""
        self.optprobes.free_aggr_kprobe(op)

    def reoptimize_neighbours(self, addr: int) -> None:
        """A probe at ``addr`` has gone, text and all: optimize those whose replaced bytes it lay
        in, if nothing else hinders that.
        """
        self.optprobes.reoptimize_neighbours(addr)

    def wait_for_kprobe_optimizer(self) -> None:
        """Until both lists are empty and no pass is scheduled or under way."""
        self.optimizer.wait()

    # Return and jumper probes ---------------------------------------------------------------------

    def register_kretprobe(self, rp: Kretprobe) -> None:
        """See :meth:`engine.core.kretprobes.Kretprobes.register_kretprobe`."""
        self.kretprobes.register_kretprobe(rp)

    def register_kretprobes(self, rps: Sequence[Kretprobe]) -> None:
        """See :meth:`engine.core.kretprobes.Kretprobes.register_kretprobes`."""
        self.kretprobes.register_kretprobes(rps)

    def unregister_kretprobe(self, rp: Kretprobe) -> bool:
        """See :meth:`engine.core.kretprobes.Kretprobes.unregister_kretprobe`."""
        return self.kretprobes.unregister_kretprobe(rp)

    def unregister_kretprobes(self, rps: Iterable[Kretprobe]) -> int:
        """See :meth:`engine.core.kretprobes.Kretprobes.unregister_kretprobes`."""
        return self.kretprobes.unregister_kretprobes(rps)

    def register_jprobe(self, jp: Jprobe) -> None:
        """See :meth:`engine.core.jprobes.Jprobes.register_jprobe`."""
        self.jprobes.register_jprobe(jp)

    def register_jprobes(self, jps: Sequence[Jprobe]) -> None:
        """See :meth:`engine.core.jprobes.Jprobes.register_jprobes`."""
        self.jprobes.register_jprobes(jps)

    def unregister_jprobe(self, jp: Jprobe) -> bool:
        """See :meth:`engine.core.jprobes.Jprobes.unregister_jprobe`."""
        return self.jprobes.unregister_jprobe(jp)

    def unregister_jprobes(self, jps: Iterable[Jprobe]) -> int:
        """See :meth:`engine.core.jprobes.Jprobes.unregister_jprobes`."""
        return self.jprobes.unregister_jprobes(jps)

    # Code that goes away --------------------------------------------------------------------------

    def kill_kprobe(self, entry: Kprobe) -> None:
        """The code under a table's entry is gone: so are the probes there, their slot and detour
        buffer. The text is not touched, but by ftrace, which takes its call away.
        """
        self.kprobe_mutex.assert_held()
        if entry.ftrace and not entry.disabled and not self.kprobes_all_disarmed:
            self.arming.disarm(entry)
            self.arming.flush()
        entry.flags |= KprobeFlag.GONE
        if isinstance(entry, AggrKprobe):
            for child in entry.children:
                child.flags |= KprobeFlag.GONE
            entry.post_handler = entry.break_handler = None
            self.optprobes.kill_optimized_kprobe(entry)
        self.arch.arch_remove_kprobe(entry)

    def kprobes_module_going(self, start: int, size: int) -> int:
        """The ``size`` bytes of text at ``start`` are about to be freed (kprobes_module_callback).

        Nobody may be executing them. The probes in them stay registered, as GONE, until they are
        unregistered; when the code is there again, a probe registered at their address gets a slot
        of its own.

        :returns: how many addresses had a probe.
        """
        with self.locked("module going"):
            entries = [
                p
                for addr, p in self.kprobe_table.items()
                if start <= addr < start + size and not p.gone
            ]
            for entry in entries:
                self.kill_kprobe(entry)
        return len(entries)

    # Enabling -------------------------------------------------------------------------------------

    def _disable(self, p: Kprobe) -> Kprobe | None:
        """Disable ``p`` and, with its last live child, the aggregator. Returns the table's entry,
        None when not registered.
        """
        if not self.is_registered(p):
            return None
        entry = self.kprobe_table[p.at]
        if p.disabled:
            return entry
        if entry is not p:
            p.flags |= KprobeFlag.DISABLED
        if entry is p or (
            isinstance(entry, AggrKprobe) and all(child.disabled for child in entry.children)
        ):
            disarmed = False
            # While all are disarmed, or under a disabled aggregator, there is no breakpoint to take
            # away.
            armed = not self.kprobes_all_disarmed and not entry.disabled
            if armed or not self.profile.has(SafetyStep.DISARM_ARMED_ONLY):
                disarmed = self.optprobes.disarm_kprobe(entry)
                if disarmed and not self.profile.reoptimizes_neighbour:
                    self.optprobes.reoptimize_neighbours(entry.at)
            entry.flags |= KprobeFlag.DISABLED
            if disarmed and self.profile.reoptimizes_neighbour:
                self.optprobes.reoptimize_neighbours(entry.at)
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
            if not self.is_registered(p):
                raise KprobeError(errno.EINVAL, f"{p!r} is not registered")
            if p.gone:
                raise KprobeError(errno.EINVAL, f"the code under {p!r} is gone")
            entry = self.kprobe_table[p.at]
            if p is not entry:
                p.flags &= ~KprobeFlag.DISABLED
            if entry.disabled and (
                self.profile.enables_while_disarmed or not self.kprobes_all_disarmed
            ):
                entry.flags &= ~KprobeFlag.DISABLED
                if not self.kprobes_all_disarmed:
                    self.optprobes.arm_kprobe(entry)
