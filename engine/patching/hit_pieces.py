"""Hits in pieces: between any two pieces there is a choice point."""

from __future__ import annotations

from engine.hit_phases import HitKind, HitPhase
from engine.patching.handler_events import HandlerEvents
from engine.patching.hit_in_progress import Hit
from engine.patching.judge import Judge
from engine.patching.open_calls import load_calls, store_calls
from engine.patching.situation import Situation
from engine.patching.vcpu import VcpuState

__all__ = ("HitPieces",)


class HitPieces:
    """This object lets the present control state's kprobes layer go on with a vCPU's hit."""

    def __init__(self, now: Situation, judge: Judge, events: HandlerEvents) -> None:
        self._now = now
        self._judge = judge
        self._events = events
        self._hits = now.port.hits

    def load(self, vcpu: VcpuState) -> None:
        """Load what is kept of this vCPU's hits and calls into the present kprobes layer."""
        state = self._now.node.state
        self._hits.load(state, vcpu.index, vcpu.block)
        if state.control.returns:
            state.arch.tasks[vcpu.index] = vcpu.task
            load_calls(state, self._now.open_calls)

    def store(self, vcpu: VcpuState) -> None:
        """Keep what the present control state's layer knows of this vCPU's hits and calls."""
        state = self._now.node.state
        vcpu.block = self._hits.store(state, vcpu.index)
        if state.control.returns:
            self._now.open_calls = store_calls(state)

    def goes_on_freed(self, vcpu: VcpuState, probe: int = 0) -> bool:
        """Tell the oracles which probes a hit goes on with, and return whether that is a violation.

        These are the probe with the name ``probe`` and the one in the CPU's record of its
        hit; the name 0 stands for no probe.
        """
        for name in {probe, vcpu.block[0]}:
            if name:
                self._judge.hit_goes_on(vcpu, name)
        return self._judge.violation is not None

    def advance(self, vcpu: VcpuState) -> HitPhase | None:
        """Do the next piece of the hit that the vCPU is in.

        :returns: the phase of the hit before that piece, or None if something was wrong
            before it.
        """
        hit, state = vcpu.hit, self._now.node.state
        assert hit is not None
        if self.goes_on_freed(vcpu, hit.probe):
            return None
        self.load(vcpu)
        by_breakpoint = hit.phase is HitPhase.HANDLED and hit.kind is HitKind.INT3
        missed, flags = self._events.misses(state), self._hits.flags(hit) if by_breakpoint else 0
        vcpu.hit = self._hits.advance(state, vcpu.index, hit)
        self._events.missed(state, missed)
        self.store(vcpu)
        if hit.phase is HitPhase.FOUND and not hit.probe:
            # The breakpoint is no probe's: if the vCPU was stepping, it stands behind the copy and
            # has ended the step.
            vcpu.stepping = False
        if hit.phase is HitPhase.HANDLED and not self._now.port.cpus.died(vcpu.index):
            self._note_way(vcpu, hit, flags)
        return hit.phase

    def _note_way(self, vcpu: VcpuState, hit: Hit, flags: int) -> None:
        """Count how a hit goes on whose handlers have run, and note whether a single step begins.

        :param flags: the flags in the pt_regs of what was hit, from before the last piece.
        """
        coverage = self._now.coverage
        if hit.kind is HitKind.OPTIMIZED:
            coverage.jump += 1
            return
        if hit.kind is HitKind.FTRACE:
            coverage.ftrace += 1
            return
        coverage.int3 += 1
        way = self._hits.way_taken(hit, vcpu.block, flags)
        if way is not None:
            vcpu.stepping = way.stepped
            # Without a probe in the record the hit is over, since its copy is boosted.
            if vcpu.block[0]:
                self._judge.step_begun(vcpu, way.wrong)
            coverage.stepped += way.stepped
            coverage.boosted += not way.stepped

    def end_pass(self, vcpu: VcpuState) -> None:
        """Let the oracles judge the pass that the vCPU is in, and end it."""
        assert vcpu.passing is not None
        self._judge.pass_over(vcpu, self._now.sites[vcpu.passing.addr])
        vcpu.passing, vcpu.stepping = None, False
