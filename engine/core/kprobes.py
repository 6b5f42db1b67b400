"""The kprobes core: the table of probes, and registering, enabling and unregistering them.

It answers to kernel/kprobes.c, at 6274de4984a6 and v6.1. One object per machine holds what the
kernel keeps in static variables. Locks are taken in the order module_mutex, kprobe_mutex,
online_cpus, text_mutex.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager

from engine.arch import Arch
from engine.control.sync import ControlPlane, Mutex, OpenMutex
from engine.core import module_going
from engine.core.aggregate import AggrHandlers, nmissed_of
from engine.core.aggregation import Aggregation
from engine.core.arming import Arming
from engine.core.jprobes import Jprobes
from engine.core.kretprobes import Kretprobes
from engine.core.optimizer import Optimizer
from engine.core.optprobes import Optprobes
from engine.core.profiles import LINUX_2010, Profile
from engine.core.register_all import register_all
from engine.core.safety_steps import SafetyStep
from engine.core.unregistration import Unregistration
from engine.errors import KprobeError
from engine.instrument import Instrument
from engine.jprobe import Jprobe
from engine.kallsyms import Kallsyms
from engine.kprobe import AggrKprobe, Kprobe, KprobeFlag
from engine.kretprobe import Kretprobe

__all__ = ("Kprobes",)

_OFFSET_MASK = (1 << 32) - 1


class Kprobes:
    """The kprobes core of one machine: its probes, its locks, and the kernel's interface to them.

    :ivar kprobe_table: the probe, or the aggregator, at each address.
    :ivar kprobes_allow_optimization: the sysctl ``kprobes-optimization``.
    :ivar kprobes_all_disarmed: the inverse of debugfs ``enabled``.
    :ivar instruments: the observers that are told of what happens (:mod:`engine.instrument`).
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
        text_lock = Mutex if profile.has(SafetyStep.TEXT_MUTEX) else OpenMutex
        self.text_mutex = text_lock("text_mutex", 4, plane)
        self.arming = Arming(arch, self.instruments, together=profile.pokes_together)
        self.optimizer = Optimizer(arch, plane, self, profile)
        self.optprobes = Optprobes(arch, self.optimizer, self, profile)
        self.aggr = AggrHandlers(arch, ends_handled=profile.has(SafetyStep.HANDLED_HIT_ENDS))
        self.aggregation = Aggregation(arch, self.optprobes, self.aggr, self, profile)
        self.unregistration = Unregistration(arch, self.optprobes, self, profile)
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
        """Hold kprobe_mutex for the table, and under it the locks that a change of text needs.

        What an operation arms and disarms together is written before these locks are dropped.
        """
        with self._held(why, self.kprobe_mutex, self.online_cpus, self.text_mutex):
            try:
                yield
            finally:
                self.arming.flush()

    def locked_tables(self, why: str) -> AbstractContextManager[None]:
        """Hold the locks that a pass of the optimizer holds from its start to its end."""
        return self._held(why, self.module_mutex, self.kprobe_mutex)

    def locked_text(self, why: str) -> AbstractContextManager[None]:
        """Hold the locks that a change of text needs."""
        return self._held(why, self.online_cpus, self.text_mutex)

    def assert_text_locked(self) -> None:
        """Check that the current task may change the text of probes.

        :raises EngineBug: the current task does not hold text_mutex.
        """
        self.text_mutex.assert_held()

    # Look-ups -------------------------------------------------------------------------------------

    def get_kprobe(self, addr: int) -> Kprobe | None:
        """Return the probe or aggregator that the table has at ``addr``, or None if it has none."""
        return self.kprobe_table.get(addr)

    def get_optimized_kprobe(self, addr: int) -> AggrKprobe | None:
        """Return the aggregator whose jump would cover ``addr``, or None.

        That is an aggregator with a detour buffer whose replaced bytes hold ``addr`` behind their
        first byte.
        """
        return self.optprobes.get_optimized_kprobe(addr)

    def find_optimized(self, op_id: int) -> AggrKprobe | None:
        """Return the aggregator whose detour buffer carries ``op_id``, or None once it is freed."""
        return self.optprobes.by_id.get(op_id)

    def kprobes_inc_nmissed_count(self, p: Kprobe) -> None:
        """Count a miss of ``p``; a miss of an aggregator is counted on each of its children."""
        for probe in nmissed_of(p):
            probe.nmissed += 1
            for instrument in self.instruments:
                instrument.missed(probe)

    # Registration ---------------------------------------------------------------------------------

    def kprobe_addr(self, p: Kprobe) -> int:
        """Return the address that ``p`` asks for by its fields.

        :raises KprobeError: EINVAL if ``p`` has both an address and a symbol, or neither; ENOENT or
            EINVAL, as the profile has it, if there is no such symbol.
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
        """Return whether a probe at ``addr`` is one on a function's entry (kprobe_on_func_entry).

        It is one at the function's first byte, and at the address to which the arch layer moves a
        probe on that byte.
        """
        found = self.kallsyms.lookup(addr)
        return found is not None and (
            found[1] == 0 or self.arch.arch_adjust_kprobe_addr(addr - found[1]) == addr
        )

    def is_registered(self, p: Kprobe) -> bool:
        """Return whether ``p`` is registered now (__get_valid_kprobe).

        A registered probe is an entry of the table, or a child of one.
        """
        if p.addr is None:
            return False
        entry = self.kprobe_table.get(p.addr)
        return entry is p or (
            isinstance(entry, AggrKprobe) and any(child is p for child in entry.children)
        )

    def register_kprobe(self, p: Kprobe) -> None:
        """Put a probe in place, and arm it unless its flags hold DISABLED (register_kprobe).

        DISABLED is the only flag that registration looks at. ``addr`` stays set once the place is
        known, also when the place is refused, so a probe that names a symbol needs ``addr = None``
        before it is registered again.

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
        """Check ``p`` as far as that needs no lock, and reset its fields for a registration.

        Only these checks can be made without a look at the text, which other tasks may be writing.

        :raises KprobeError: ``p`` has a handler that this kernel lacks, is registered already, or
            asks for no place that can be probed.
        """
        if p.fault_handler is not None and not self.profile.fault_handlers:
            raise KprobeError(errno.EINVAL, "fault_handler: not there any more since v5.14")
        if p.break_handler is not None and not self.profile.jprobes:
            raise KprobeError(errno.EINVAL, "break_handler: not there any more since v4.19")
        # Look by the address that the probe has, since it makes the better message: a probe with a
        # symbol is refused below for having an address, too.
        self._refuse_registered(p)
        p.addr = addr = self.kprobe_addr(p)
        # Look by the address that the probe names, since the caller may have cleared its address.
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
        """Put a checked probe in the table and arm it. The caller holds the locks."""
        addr = p.at
        if self.profile.marks_entries and self.on_func_entry(addr):
            p.flags |= KprobeFlag.ON_FUNC_ENTRY
        if self.profile.on_ftrace and self.arch.arch_ftrace_location(addr):
            p.flags |= KprobeFlag.FTRACE
        old = self.get_kprobe(addr)
        if old is not None:
            self.aggregation.register_aggr_kprobe(old, p)
            return
        self.arch.arch_prepare_kprobe(p)
        self.kprobe_table[addr] = p
        if not self.kprobes_all_disarmed and not p.disabled:
            self.optprobes.arm_kprobe(p)
        self.aggregation.try_to_optimize_kprobe(p)

    def register_locked(self, p: Kprobe) -> None:
        """Register ``p`` as :meth:`register_kprobe` does, under locks that the caller holds."""
        self._check(p)
        self._register(p)
        self._tell_registered(p)

    def _tell_registered(self, p: Kprobe) -> None:
        for instrument in self.instruments:
            instrument.registered(p)

    def register_kprobes(self, ps: Sequence[Kprobe]) -> None:
        """Register all of ``ps`` or none (register_kprobes).

        When one registration fails, the probes before it are unregistered again.

        :raises KprobeError: EINVAL for an empty list, or the error of the registration that failed.
        """
        if self.arming.together:
            register_all(
                ps, self.register_locked, self.unregister_kprobes, self.locked("register_kprobes")
            )
        else:
            register_all(ps, self.register_kprobe, self.unregister_kprobes)

    # Unregistration -------------------------------------------------------------------------------

    def unregister_kprobe(self, p: Kprobe) -> bool:
        """Take one probe out of service (unregister_kprobe).

        :returns: whether it was registered.
        """
        return self.unregister_kprobes([p]) == 1

    def unregister_kprobes(
        self, ps: Iterable[Kprobe], *, disarmed: Callable[[], None] | None = None
    ) -> int:
        """Take probes out of service, with one grace period for all (unregister_kprobes).

        No handler of these probes runs after the return. A jump is undone later, by the optimizer.
        A probe that is not registered changes nothing. As in the kernel, ``addr`` of an
        unregistered probe stays set: a probe that names a symbol is refused at its next
        registration unless ``addr`` is cleared first. The flag DISABLED stays set, too, and the
        probe is disabled when it is registered again; in ``next`` its ``flags`` become those that
        it was registered with.

        :param disarmed: called with the locks held, before the grace period.
        :returns: how many were registered.
        """
        with self.locked("unregister_kprobes"):
            gone = self.unregistration.unregister_tops(ps)
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
            self.unregistration.unregister_bottom(p, bottom)
            for instrument in self.instruments:
                instrument.unregistered(p)
        return len(gone)

    def unhash(self, op: AggrKprobe) -> None:
        """Take an unused aggregator out of the table, if the table still has it."""
        if self.kprobe_table.get(op.at) is op:
            del self.kprobe_table[op.at]

    def free_aggr_kprobe(self, op: AggrKprobe) -> None:
        """Free an unused aggregator's slot and detour buffer (free_aggr_kprobe)."""
        self.optprobes.free_aggr_kprobe(op)

    def reoptimize_neighbours(self, addr: int) -> None:
        """Optimize the probes whose replaced bytes hold ``addr``, where nothing else hinders that.

        The caller has removed the probe at ``addr``, and its breakpoint or jump with it.
        """
        self.optprobes.reoptimize_neighbours(addr)

    def wait_for_kprobe_optimizer(self) -> None:
        """Wait until the optimizer has two empty lists, and no pass is scheduled or under way."""
        self.optimizer.wait()

    # Return and jumper probes ---------------------------------------------------------------------

    def register_kretprobe(self, rp: Kretprobe) -> None:
        """Probe a function's entry to run a handler when its calls return (register_kretprobe)."""
        self.kretprobes.register_kretprobe(rp)

    def register_kretprobes(self, rps: Sequence[Kretprobe]) -> None:
        """Register all of these return probes, or none if one fails (register_kretprobes)."""
        self.kretprobes.register_kretprobes(rps)

    def unregister_kretprobe(self, rp: Kretprobe) -> bool:
        """Take one return probe out of service, and return whether it was registered."""
        return self.kretprobes.unregister_kretprobe(rp)

    def unregister_kretprobes(self, rps: Iterable[Kretprobe]) -> int:
        """Take return probes out of service, and return how many of them were registered."""
        return self.kretprobes.unregister_kretprobes(rps)

    def register_jprobe(self, jp: Jprobe) -> None:
        """Let a jumper probe's entry run before the function that it probes (register_jprobe)."""
        self.jprobes.register_jprobe(jp)

    def register_jprobes(self, jps: Sequence[Jprobe]) -> None:
        """Register all of these jumper probes, or none if one fails (register_jprobes)."""
        self.jprobes.register_jprobes(jps)

    def unregister_jprobe(self, jp: Jprobe) -> bool:
        """Take one jumper probe out of service, and return whether it was registered."""
        return self.jprobes.unregister_jprobe(jp)

    def unregister_jprobes(self, jps: Iterable[Jprobe]) -> int:
        """Take jumper probes out of service, and return how many of them were registered."""
        return self.jprobes.unregister_jprobes(jps)

    # Code that goes away --------------------------------------------------------------------------

    def kprobes_module_going(self, start: int, size: int) -> int:
        """Take probes out of use in text that is about to be freed (kprobes_module_callback).

        The text is the ``size`` bytes at ``start``, and no CPU may be executing them. The probes
        stay registered, as GONE, until they are unregistered; when the code is there again, a probe
        registered at their address gets a slot of its own.

        :returns: how many addresses had a probe.
        """
        return module_going.kprobes_module_going(self, start, size)

    # Enabling -------------------------------------------------------------------------------------

    def disable_locked(self, p: Kprobe) -> Kprobe | None:
        """Disable ``p``, and its aggregator with the last live child (__disable_kprobe).

        The caller holds the locks.

        :returns: the table's entry; None when ``p`` is not registered.
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
            # There is no breakpoint to take away while all probes are disarmed, or the aggregator
            # is disabled.
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
        """Keep a probe registered, but let its handlers be called no more (disable_kprobe).

        :raises KprobeError: EINVAL when it is not registered.
        """
        with self.locked("disable_kprobe"):
            if self.disable_locked(p) is None:
                raise KprobeError(errno.EINVAL, f"{p!r} is not registered")

    def enable_kprobe(self, p: Kprobe) -> None:
        """Let the handlers of a disabled probe be called again (enable_kprobe).

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
