"""Several probes at one address: the aggregator that takes their place in the table. Answers to
init_aggr_kprobe(), register_aggr_kprobe(), reuse_unused_kprobe() and try_to_optimize_kprobe() in
kernel/kprobes.c.

What an aggregator's handlers do is :mod:`engine.core.aggregate`.
"""

from __future__ import annotations

import errno
from typing import Protocol

from engine.arch import Arch
from engine.core.aggregate import AggrHandlers
from engine.core.optprobes import Optprobes
from engine.core.profiles import Profile
from engine.errors import KprobeError
from engine.kprobe import AggrKprobe, Kprobe, KprobeFlag

__all__ = ("Aggregation", "AggregationHost")


class AggregationHost(Protocol):
    """What aggregation asks of the core: the table, and whether all probes are disarmed."""

    kprobe_table: dict[int, Kprobe]
    kprobes_all_disarmed: bool


class Aggregation:
    """Makes aggregators and puts probes under them. All of it needs kprobe_mutex and text_mutex."""

    def __init__(
        self,
        arch: Arch,
        optprobes: Optprobes,
        handlers: AggrHandlers,
        host: AggregationHost,
        profile: Profile,
    ) -> None:
        self._arch = arch
        self._optprobes = optprobes
        self._handlers = handlers
        self._host = host
        self._profile = profile

    def init_aggr_kprobe(self, ap: AggrKprobe, p: Kprobe) -> None:
        """Put ``ap`` in the place of ``p`` in the table and make ``p`` its first child."""
        ap.ainsn = p.ainsn
        ap.flags = p.flags & ~KprobeFlag.OPTIMIZED
        ap.pre_handler = self._handlers.pre_handler
        ap.fault_handler = self._handlers.fault_handler
        if p.post_handler is not None and not p.gone:
            ap.post_handler = self._handlers.post_handler
        if p.break_handler is not None and not p.gone:
            ap.break_handler = self._handlers.break_handler
        ap.children = [p]
        p.parent = ap
        self._host.kprobe_table[p.at] = ap

    def try_to_optimize_kprobe(self, p: Kprobe) -> None:
        """Make an aggregator of the first probe at an address, if the address can be optimized."""
        if p.ftrace:
            return
        ap = self._optprobes.alloc_aggr_kprobe(p)
        if not ap.optready:
            return
        self.init_aggr_kprobe(ap, p)
        self._optprobes.optimize_kprobe(ap)

    def register_aggr_kprobe(self, old: Kprobe, p: Kprobe) -> None:
        """Register a second or later probe at an address.

        :param old: the entry of the table at that address.
        :raises KprobeError: EEXIST (a second break_handler there), and what
            :meth:`_reuse_unused_kprobe` answers.
        """
        if isinstance(old, AggrKprobe):
            ap = old
            if ap.unused:
                self._reuse_unused_kprobe(ap, p)
        else:
            ap = self._optprobes.alloc_aggr_kprobe(old)
            self.init_aggr_kprobe(ap, old)
        if ap.gone:
            # Its code was removed, and its slot with it; now there is code again.
            self._arch.arch_prepare_kprobe(ap)
            self._optprobes.prepare_optimized_kprobe(ap)
            ap.flags = ap.flags & ~KprobeFlag.GONE | KprobeFlag.DISABLED
        p.ainsn = ap.ainsn
        if p.post_handler is not None or p.break_handler is not None:
            self._optprobes.unoptimize_kprobe(ap, force=True)
        if p.break_handler is None:
            ap.children.insert(0, p)
        elif ap.break_handler is None:
            ap.children.append(p)
            ap.break_handler = self._handlers.break_handler
        else:
            raise KprobeError(
                errno.EEXIST, f"{p!r}: one with a break_handler is there already, and two can't be"
            )
        p.parent = ap
        if p.post_handler is not None:
            ap.post_handler = self._handlers.post_handler
        if ap.disabled and not p.disabled:
            ap.flags &= ~KprobeFlag.DISABLED
            if not self._host.kprobes_all_disarmed:
                self._optprobes.arm_kprobe(ap)

    def _reuse_unused_kprobe(self, ap: AggrKprobe, p: Kprobe) -> None:
        """Take ``ap`` into use again for ``p``: its last child is gone, and its jump still stands,
        since the optimizer has not come yet.

        :raises KprobeError: EBUSY (this kernel waits until the optimizer has reclaimed it), EINVAL
            (it was not optimized).
        """
        if not self._profile.rescues_unused:
            raise KprobeError(
                errno.EBUSY, f"{ap!r} is unused and about to be reclaimed; wait for the optimizer"
            )
        if not ap.optready:
            raise KprobeError(errno.EINVAL, f"{ap!r} is unused, and was not optimized")
        if p.disabled and not self._profile.rescue_enables:
            return  # The aggregator stays disabled: the optimizer goes on undoing its jump.
        ap.flags &= ~KprobeFlag.DISABLED
        self._optprobes.optimize_kprobe(ap)
