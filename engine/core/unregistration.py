"""The two halves of unregistering a probe, before and after the grace period. Answers to
__unregister_kprobe_top() and __unregister_kprobe_bottom() in kernel/kprobes.c.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto
from typing import Protocol

from engine.arch import Arch
from engine.core.arming import Arming
from engine.core.optprobes import Optprobes
from engine.core.profiles import Profile
from engine.kprobe import AggrKprobe, Kprobe

__all__ = ("Bottom", "Unregistration", "UnregistrationHost")


class UnregistrationHost(Protocol):
    """What unregistering asks of the core."""

    arming: Arming
    kprobe_table: dict[int, Kprobe]
    kprobes_all_disarmed: bool

    def disable_locked(self, p: Kprobe) -> Kprobe | None:
        """Disable a probe and, with its last live child, the aggregator, with the locks held.
        Returns the table's entry, None when the probe is not registered.
        """
        ...


class Bottom(Enum):
    """What is left to do for an unregistered probe after the grace period."""

    INDEPENDENT = auto()
    """The probe stood alone: its slot is to be freed."""
    LAST_CHILD = auto()
    """The probe's aggregator has left the table: it is to be freed."""
    NOTHING = auto()
    """Others still use the aggregator, or the optimizer will reclaim it."""


class Unregistration:
    """Takes probes out of service and frees what they leave."""

    def __init__(
        self, arch: Arch, optprobes: Optprobes, host: UnregistrationHost, profile: Profile
    ) -> None:
        self._arch = arch
        self._optprobes = optprobes
        self._host = host
        self._profile = profile

    def unregister_tops(self, ps: Iterable[Kprobe]) -> list[tuple[Kprobe, Bottom]]:
        """Take those of ``ps`` out of service that are registered, with the locks held.

        :returns: these probes, and what is left to do for each.
        """
        gone: dict[Kprobe, Bottom] = {}
        for group in self._host.arming.groups(ps):
            entries: dict[Kprobe, Kprobe] = {}
            for p in group:
                if p in gone or p in entries:
                    continue
                entry = self._host.disable_locked(p)
                if entry is None:
                    p.addr = None
                else:
                    entries[p] = entry
            # A CPU that hits a breakpoint which still stands has to find its probe.
            self._host.arming.flush()
            for p, entry in entries.items():
                gone[p] = self.unregister_top(p, entry)
        return list(gone.items())

    def unregister_top(self, p: Kprobe, entry: Kprobe) -> Bottom:
        """Take ``p``, which is disabled, out of its table's ``entry``, or ``entry`` out of the
        table.
        """
        table = self._host.kprobe_table
        if not isinstance(entry, AggrKprobe):
            del table[entry.at]
            return Bottom.INDEPENDENT
        if len(entry.children) == 1 and entry.disarmed:
            del table[entry.at]
            return Bottom.LAST_CHILD
        # Others remain, or the jump is still being undone: the optimizer will reclaim the
        # aggregator.
        if p.break_handler is not None and not p.gone:
            entry.break_handler = None
        # An aggregator on an ftrace location keeps its post_handler: the kernel tells by it which
        # of two sets of functions the location is in (5dd7caf0bdc5).
        posts = entry.ftrace or any(
            child.post_handler for child in entry.children if child is not p
        )
        if p.post_handler is not None and not p.gone and not posts:
            entry.post_handler = None
        entry.children.remove(p)
        if not entry.disabled and not self._host.kprobes_all_disarmed:
            self._optprobes.optimize_kprobe(entry)
        return Bottom.NOTHING

    def unregister_bottom(self, p: Kprobe, bottom: Bottom) -> None:
        """Free what ``p`` leaves. The grace period is over: no CPU runs a handler of ``p`` any
        more.
        """
        parent = p.parent
        match bottom:
            case Bottom.INDEPENDENT:
                self._arch.arch_remove_kprobe(p)
            case Bottom.LAST_CHILD:
                assert parent is not None
                parent.children.clear()
                self._optprobes.free_aggr_kprobe(parent)
            case Bottom.NOTHING:
                pass
        p.parent = None
        p.ainsn = None
        if self._profile.gives_flags_back:
            p.flags = p.given
