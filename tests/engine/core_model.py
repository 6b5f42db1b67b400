"""A plain model of the kprobes core: which probes are registered and enabled, and what follows.

It has no text, no lists and no flags. It says whose handlers a pass over a site calls, and which
addresses may hold a breakpoint or a jump. What the kernel does that one would not guess is said
where it is modelled.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.kprobe import Kprobe


@dataclass(slots=True, eq=False)
class ModelProbe:
    """One registered probe, as the model knows it."""

    kprobe: Kprobe
    site: int
    post: bool
    enabled: bool
    gone: bool = False


@dataclass(slots=True)
class Site:
    """The entry of the table at one offset.

    :ivar disabled: whether the entry itself is disabled, which it can be while a probe of it is
        enabled.
    :ivar aggregated: whether the entry is an aggregator.
    """

    probes: list[ModelProbe] = field(default_factory=list)
    disabled: bool = False
    aggregated: bool = False


@dataclass(slots=True)
class CoreModel:
    """The model of one core.

    :ivar jump_sizes: the bytes that a jump would replace, by each offset that can be optimized at
        all.
    :ivar reuses_dying: ``rescues_unused`` of the profile; ``rescue_enables`` and
        ``enables_while_disarmed`` are its fields of these names.
    :ivar forgets: whether the kernel sometimes forgets that a probe may be optimized.
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
    """Offsets where no probe is registered, but a jump or breakpoint still stands.

    The optimizer will reclaim them.
    """
    leaked: set[int] = field(default_factory=set)
    """Dying offsets whose jump a neighbour forced back.

    In 2010 they are never reclaimed, and answer EBUSY for good.
    """
    blocked: set[int] = field(default_factory=set)
    """Offsets that had an armed neighbour in their bytes.

    The model does not say whether they are optimized again.
    """
    rearmed: set[int] = field(default_factory=set)
    """Offsets that were armed again while their jump still stood.

    They stay breakpoints that count as optimized.
    """

    def probes(self) -> list[ModelProbe]:
        return [p for offset in sorted(self.sites) for p in self.sites[offset].probes]

    def armed(self, offset: int) -> bool:
        site = self.sites.get(offset)
        return site is not None and not site.disabled and not self.all_disarmed

    def inside(self, offset: int) -> range:
        """The offsets of the bytes that a jump at ``offset`` replaces, but the first."""
        return range(offset + 1, offset + self.jump_sizes.get(offset, 1))

    def around(self, offset: int) -> list[int]:
        """The offsets whose jump would replace the byte at ``offset``."""
        return [other for other in self.jump_sizes if offset in self.inside(other)]

    def may_jump(self, offset: int) -> bool:
        """Whether everything allows a jump at ``offset`` now."""
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
        """Whether a jump is allowed, and nothing has happened after which the kernel forgets it."""
        return self.may_jump(offset) and not (
            self.forgets and (offset in self.blocked or offset in self.rearmed)
        )

    def called(self, offset: int) -> list[ModelProbe]:
        """The probes whose handlers a pass over ``offset`` runs, in order."""
        return (
            [p for p in self.sites[offset].probes if p.enabled and not p.gone]
            if self.armed(offset)
            else []
        )

    # Changes --------------------------------------------------------------------------------------

    def _arm(self, offset: int) -> None:
        """Write the breakpoint at ``offset``, for which jumps over it have to go."""
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
                    # it was forced back, and is on its way to the freeing list
                    self.blocked.add(offset)
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
            # In the kernels a disabled entry stays so while all are disarmed, though its probe is
            # enabled.
            return
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
        """The offset and flags of each probe as debugfs shows them, but for OPTIMIZED."""
        return [
            (p.site, "[GONE]" if p.gone else "" if p.enabled else "[DISABLED]")
            for p in self.probes()
        ]
