"""The hit path of optimized probes: what a detour buffer asks for. Answers to optimized_callback()
in arch/x86/kernel/kprobes.c (2.6.38).

Its probe may be disabled already, while the jump waits to be undone: then nothing runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from arch_x86.isa.constants import ADDRESS_MASK, INT3_SIZE
from arch_x86.probes.hit import Hit, Way
from engine.core.safety_steps import SafetyStep
from engine.hit import HitPhase
from engine.kprobe import AggrKprobe, KprobeStatus

if TYPE_CHECKING:
    from arch_x86.probes.cpu_state import CpuState
    from engine.core.profiles import Profile

__all__ = ("OptimizedHandler",)

_HIT_ACTIVE = KprobeStatus.HIT_ACTIVE
_FOUND, _BETWEEN, _HANDLED, _RESUMED = (
    HitPhase.FOUND,
    HitPhase.BETWEEN,
    HitPhase.HANDLED,
    HitPhase.RESUMED,
)


class OptimizedHandler:
    """The pieces of a hit behind a jump."""

    def __init__(self, cpus: CpuState, profile: Profile) -> None:
        self._cpus = cpus
        self._asks_for_disabled = profile.has(SafetyStep.DISABLED_CHECK)

    def way(self) -> Way:
        """The pieces."""
        return Way(trap=self.found, found=self.handle, between=self.handle, handled=self.done)

    def found(self, hit: Hit) -> HitPhase:
        """Look the probe up whose handlers are next."""
        cpus, cpu = self._cpus, hit.cpu
        op = cpus.core.find_optimized(hit.argument)
        if op is None or (op.disabled and self._asks_for_disabled):
            return _RESUMED
        cpus.cpu = cpu
        block = cpus.ctlblk[cpu]
        if block.current is not None:
            cpus.core.kprobes_inc_nmissed_count(op)
            return _RESUMED
        regs = hit.regs
        regs.ip = op.at + INT3_SIZE
        regs.orig_ax = ADDRESS_MASK
        hit.probe = block.current = op
        block.status = _HIT_ACTIVE
        return _FOUND

    def handle(self, hit: Hit) -> HitPhase:
        """Run the pre_handler of the next child."""
        cpus, p = self._cpus, hit.probe
        assert isinstance(p, AggrKprobe)
        cpus.cpu = hit.cpu
        aggr = cpus.core.aggr
        children = hit.children if hit.phase is _BETWEEN else aggr.order(p)
        if children:
            aggr.child_opt_pre_handler(children[0], hit.regs)
            hit.children = children = children[1:]
        return _BETWEEN if children else _HANDLED

    def done(self, hit: Hit) -> HitPhase:
        """They are done."""
        self._cpus.ctlblk[hit.cpu].current = None
        return _RESUMED
