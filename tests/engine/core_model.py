"""A plain model of the kprobes core: who is registered, who is enabled, and what follows from that.
No text, no lists, no flags.

It says who must be called on a pass and which addresses may hold a breakpoint or a jump. What the
kernel does that one would not guess is said where it is modelled.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.kprobe import Kprobe


@dataclass(slots=True, eq=False)
class ModelProbe:
    """One registered probe."""

    kprobe: Kprobe
    site: int
    post: bool
    enabled: bool
    gone: bool = False


@dataclass(slots=True)
class Site:
    """What stands in the table at one offset. ``disabled`` is its own: a site can sleep while a
    probe of it is enabled.
    """

    probes: list[ModelProbe] = field(default_factory=list)
    disabled: bool = False
    aggregated: bool = False


@dataclass(slots=True)
class CoreModel:
    """``jump_sizes``: bytes that a jump at an offset would replace, for offsets that can be
    optimized at all.

    ``reuses_dying``, ``rescue_enables``, ``enables_while_disarmed``: as the profile has it.
    ``forgets``: there are things after which what may be optimized is not.
    """

    jump_sizes: dict[int, int]
    reuses_dying: bool
    rescue_enables: bool = True
    enables_while_disarmed: bool = False
    forgets: bool = True
    sites: dict[int, Site] = field(default_factory=dict)
    all_disarmed: bool = False
    allowed: bool = True
    dying: set[int] = field(default_factory=set)
    """Nobody is registered there, but a jump or breakpoint still is: the optimizer will reclaim it.
    """
    leaked: set[int] = field(default_factory=set)
    """A dying one that a neighbour forced back: in 2010 it is never reclaimed, and answers EBUSY
    for good.
    """
    blocked: set[int] = field(default_factory=set)
    """Had an armed neighbour in its bytes: whether it is optimized again is not said here."""
    rearmed: set[int] = field(default_factory=set)
    """Armed again while its jump still stood: stays a breakpoint that counts as optimized."""

    def probes(self) -> list[ModelProbe]:
        return [p for offset in sorted(self.sites) for p in self.sites[offset].probes]

    def armed(self, offset: int) -> bool:
        site = self.sites.get(offset)
        return site is not None and not site.disabled and not self.all_disarmed

    def inside(self, offset: int) -> range:
        """Behind the first byte of what a jump there replaces."""
        return range(offset + 1, offset + self.jump_sizes.get(offset, 1))

    def around(self, offset: int) -> list[int]:
        """Offsets whose jump would replace bytes at ``offset``."""
        return [other for other in self.jump_sizes if offset in self.inside(other)]

    def may_jump(self, offset: int) -> bool:
        """Everything allows a jump there now."""
        site = self.sites.get(offset)
        if (
            site is None
            or offset not in self.jump_sizes
            or not self.armed(offset)
            or not self.allowed
        ):
            return False
        if any(p.post and not p.gone for p in site.probes):
            return False
        return not any(
            other in self.sites and not self.sites[other].disabled for other in self.inside(offset)
        )

    def must_jump(self, offset: int) -> bool:
        """And nothing has happened after which the kernel forgets to."""
        return self.may_jump(offset) and not (
            self.forgets and (offset in self.blocked or offset in self.rearmed)
        )

    def called(self, offset: int) -> list[ModelProbe]:
        """Whose handlers a pass runs, in order."""
        return (
            [p for p in self.sites[offset].probes if p.enabled and not p.gone]
            if self.armed(offset)
            else []
        )

    # Changes --------------------------------------------------------------------------------------

    def _arm(self, offset: int) -> None:
        """It gets its breakpoint: jumps over it go."""
        for other in self.around(offset):
            if other in self.dying:
                self.dying.discard(other)
                self.leaked.add(other)
            elif other in self.sites:
                self.blocked.add(other)
        if any(other in self.sites or other in self.dying for other in self.inside(offset)):
            self.blocked.add(offset)

    def register(self, kprobe: Kprobe, offset: int, *, post: bool, enabled: bool) -> ModelProbe:
        probe = ModelProbe(kprobe, offset, post, enabled)
        site = self.sites.get(offset)
        if site is None:
            site = self.sites[offset] = Site(
                disabled=not enabled, aggregated=offset in self.jump_sizes
            )
            dying = offset in self.dying
            if self.reuses_dying and (dying or offset in self.leaked):
                if not dying:
                    self.blocked.add(offset)  # forced back, and on its way to the freeing list
                site.disabled = not enabled and not self.rescue_enables
                self.dying.discard(offset)
                self.leaked.discard(offset)
            elif enabled and not self.all_disarmed:
                self._arm(offset)
        else:
            site.aggregated = True
            if site.probes[0].gone and all(p.gone for p in site.probes):
                site.disabled = True
            if site.disabled and enabled:
                site.disabled = False
                if not self.all_disarmed:
                    self._arm(offset)
        site.probes.insert(0, probe)
        return probe

    def _disable(self, probe: ModelProbe) -> None:
        if not probe.enabled or probe.gone:
            return
        probe.enabled = False
        site = self.sites[probe.site]
        if not any(p.enabled and not p.gone for p in site.probes):
            site.disabled = True

    def disable(self, probe: ModelProbe) -> None:
        self._disable(probe)

    def enable(self, probe: ModelProbe) -> None:
        site = self.sites[probe.site]
        if site.aggregated:
            probe.enabled = True
        if not site.disabled or (self.all_disarmed and not self.enables_while_disarmed):
            return  # while all are disarmed, a site that is disabled sleeps on in the kernels
        probe.enabled = True
        site.disabled = False
        if not self.all_disarmed:
            self._arm(probe.site)

    def unregister(self, probe: ModelProbe) -> None:
        self._disable(probe)
        site = self.sites[probe.site]
        site.probes.remove(probe)
        if not site.probes:
            del self.sites[probe.site]
            self.blocked.discard(probe.site)

    def code_gone(self) -> None:
        for site in self.sites.values():
            site.disabled = True
            for probe in site.probes:
                probe.gone = True
        self.dying.clear()
        self.leaked.clear()
        self.blocked.clear()
        self.rearmed.clear()

    def listed(self) -> list[tuple[int, str]]:
        """Offset and flags of each probe as debugfs shows them, but for OPTIMIZED."""
        return [
            (p.site, "[GONE]" if p.gone else "" if p.enabled else "[DISABLED]")
            for p in self.probes()
        ]
