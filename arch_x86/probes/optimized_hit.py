"""This module handles hits behind a jump: optimized_callback() (arch/x86/kernel/kprobes.c, 2.6.38).

A detour buffer asks for the handlers. Its probe may be disabled already, while the jump waits to be
undone; no handler runs then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from arch_x86.isa.constants import ADDRESS_MASK, INT3_SIZE
from arch_x86.probes.hit import Hit, Way
from engine.core.safety_steps import SafetyStep
from engine.hit_phases import HitPhase
from engine.kprobe import AggrKprobe, KprobeStatus

if TYPE_CHECKING:
    from arch_x86.probes.cpu_state import CpuState
    from arch_x86.probes.ptregs import PtRegs
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
    """This class has the pieces of a hit behind a jump.

    :param cpus: what is known of each CPU.
    :param profile: says whether a disabled probe is looked for (``disabled-check``).
    """

    def __init__(self, cpus: CpuState, profile: Profile) -> None:
        self._cpus = cpus
        self._asks_for_disabled = profile.has(SafetyStep.DISABLED_CHECK)

    def way(self) -> Way:
        """Return the pieces by the phase in which each runs."""
        return Way(trap=self.found, found=self.handle, between=self.handle, handled=self.done)

    def found(self, hit: Hit) -> HitPhase:
        """Look up the probe of the detour buffer, and return the phase that follows.

        The hit is over where there is nothing to run.
        """
        op = self._begin(hit.cpu, hit.argument, hit.regs)
        if op is None:
            return _RESUMED
        hit.probe = op
        return _FOUND

    def _begin(self, cpu: int, op_id: int, regs: PtRegs) -> AggrKprobe | None:
        """Begin the hit of the probe whose detour buffer has the number ``op_id``.

        :returns: None where the probe has gone or is disabled, or where it is a miss. A miss is
            asked for after that, so that it is only counted on a probe that would have run.
        """
        cpus = self._cpus
        op = cpus.core.find_optimized(op_id)
        if op is None or (op.disabled and self._asks_for_disabled):
            return None
        cpus.cpu = cpu
        block = cpus.ctlblk[cpu]
        if block.current is not None:
            cpus.core.kprobes_inc_nmissed_count(op)
            return None
        regs.ip = op.at + INT3_SIZE
        regs.orig_ax = ADDRESS_MASK
        block.current = op
        block.status = _HIT_ACTIVE
        return op

    def handle(self, hit: Hit) -> HitPhase:
        """Run the pre_handler of the next child, and return the phase that follows.

        What the handler returns is ignored, as opt_pre_handler() ignores it.
        """
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
        """End the hit; the detour buffer goes on to the copied instructions."""
        self._end(hit.cpu)
        return _RESUMED

    def _end(self, cpu: int) -> None:
        self._cpus.ctlblk[cpu].current = None

    def at_once(self, cpu: int, op_id: int, regs: PtRegs) -> None:
        """Run all pieces of a hit, with nothing between them."""
        op = self._begin(cpu, op_id, regs)
        if op is None:
            return
        cpus = self._cpus
        aggr = cpus.core.aggr
        for child in aggr.order(op):
            cpus.cpu = cpu
            aggr.child_opt_pre_handler(child, regs)
        self._end(cpu)
