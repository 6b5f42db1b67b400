"""The places in the text where it makes a difference what a vCPU does.

These are sites, the jumps that were prepared for them, slots and detour buffers.
"""

from __future__ import annotations

from typing import Final

from engine.kprobe import AggrKprobe, Kprobe, Method
from engine.patching.control_side import ExploredArch
from engine.patching.control_tree import ControlNode
from engine.patching.sites import Site
from engine.patching.situation import Situation

__all__ = ("Places",)

_WAYS: Final = {Method.BOOSTED: "boosted", Method.INT3: "stepped"}


class Places:
    """This object knows sites, the jumps prepared for them, and the buffers.

    It learns more with each control state that is met.

    :ivar watched: the addresses in front of whose instruction a run stops at a choice point.
    :ivar stops: the addresses in front of whose instruction a run stops, though not every stop
        there is a choice point.
    :ivar new: spans of such addresses that no vCPU has been told of yet.
    :ivar near: the addresses within sites, from the first byte of their original instructions
        to the last.
    :ivar methods: how sites without a jump can be hit, as words of
    :class:`engine.search.explorable.Coverage`.
    """

    def __init__(self, now: Situation) -> None:
        self._now = now
        self._text = now.port.text
        facts = self._text.facts
        self._patches = facts.breakpoint[:1] + facts.jump
        self.watched: set[int] = set()
        self.stops: set[int] = set()
        self.near: set[int] = set()
        self.methods: set[str] = set()
        self.new: list[tuple[int, int]] = []
        for addr in (*now.experiment.resched, *now.experiment.asleep):
            self.watch(addr, addr + 1)
        for span in (now.experiment.lock, now.experiment.user):
            if span is not None:
                self.watch(span.start, span.stop + 1)
        for site in now.patches:
            self.near.update(range(site.addr, site.end))
            self.watch(site.addr, site.end + 1)

    def learn(self, node: ControlNode) -> None:
        """Note the sites, jumps and buffers of a new control state, and what to watch in it."""
        for number, p in enumerate(node.state.control.probes):
            if p.addr is not None:
                entry = node.state.core.get_kprobe(p.addr)
                # A probe without an entry or a site was refused, or is not registered yet, and no
                # byte of text is written for it.
                if entry is not None or p.addr in self._now.sites:
                    self._learn_probe(node.state.arch, p.addr, number, entry)
        for one in node.state.control.foreign.all:
            site = self._now.sites.get(one.addr)
            if site is None:
                self._learn_site(node.state.arch, one.addr, 0)
        for start, end in node.state.arch.watch_ranges():
            self.watch(start, end)

    def _learn_probe(
        self, arch: ExploredArch, addr: int, number: int, entry: Kprobe | None
    ) -> None:
        """Note that probe ``number`` is, or was, at ``addr``, where the table has ``entry``."""
        op = entry if isinstance(entry, AggrKprobe) and entry.optinsn is not None else None
        size = 0 if op is None else op.optinsn.size
        site = self._now.sites.get(addr)
        if site is None or site.end < addr + size:
            site = self._learn_site(arch, addr, size)
        site.probes.add(number)
        call = None if entry is None else self._text.ftrace(entry.ainsn)
        if call is not None:
            site.calls.add(call[0])
        elif entry is not None and entry.ainsn is not None and not site.jumps:
            self.methods.add(_WAYS.get(arch.method_of(entry), "int3"))
        if op is not None:
            site.jumps.add(op.optinsn.jump)

    def _learn_site(self, arch: ExploredArch, addr: int, size: int) -> Site:
        """Note a new site, or more of the original instructions of a known one."""
        insns = arch.originals(self._text.image, addr, size)
        site = self._now.sites.setdefault(addr, Site(addr, insns, self._patches))
        site.insns = insns
        self._now.insns.update(insns)
        self.near.update(range(addr, site.end))
        self.watch(addr, site.end + 1)
        return site

    def watch(self, start: int, end: int) -> None:
        """Let runs stop at the addresses from ``start`` to below ``end``.

        This takes effect with the next :meth:`install`. An address is watched only once,
        since it would otherwise stop a run that starts there.
        """
        for addr in range(start, end):
            if addr not in self.watched:
                self.watched.add(addr)
                self.stop_at(addr)

    def stop_in(self, start: int, end: int) -> None:
        """Let runs stop at the addresses from ``start`` to below ``end``.

        This takes effect as with :meth:`watch`.
        """
        for addr in range(start, end):
            self.stop_at(addr)

    def stop_at(self, addr: int) -> None:
        """Let runs stop at ``addr``. This takes effect as with :meth:`watch`."""
        if addr in self.stops:
            return
        self.stops.add(addr)
        if self.new and self.new[-1][1] == addr:
            self.new[-1] = (self.new[-1][0], addr + 1)
        else:
            self.new.append((addr, addr + 1))

    def install(self) -> None:
        """Tell the vCPUs what to watch from now on."""
        self._text.watch(self.new)
        self.new = []

    def allowed_methods(self) -> tuple[str, ...]:
        """Return how the sites can be hit; there is no way where no probe was registered."""
        sites = [site for site in self._now.sites.values() if site.probes]
        by_ftrace = ("ftrace",) if any(site.calls for site in sites) else ()
        if all(site.calls for site in sites):
            return by_ftrace
        if any(site.jumps for site in sites):
            return (*by_ftrace, "int3", "jump")
        return (*by_ftrace, "int3", *sorted(self.methods - {"int3"}))
