"""Hits, a piece at a time: what lies between two pieces is a choice point."""

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
    """Lets the kprobes layer of the present control state go on with the hit of a vCPU."""

    def __init__(self, now: Situation, judge: Judge, events: HandlerEvents) -> None:
        self._now = now
        self._judge = judge
        self._events = events
        self._hits = now.port.hits

    def load(self, vcpu: VcpuState) -> None:
        """What the kprobes layer knows of this CPU goes into that of the present control state."""
        state = self._now.node.state
        self._hits.load(state, vcpu.index, vcpu.block)
        if state.control.returns:
            state.arch.tasks[vcpu.index] = vcpu.task
            load_calls(state, self._now.open_calls)

    def store(self, vcpu: VcpuState) -> None:
        """What it knows now is kept with the vCPU."""
        state = self._now.node.state
        vcpu.block = self._hits.store(state, vcpu.index)
        if state.control.returns:
            self._now.open_calls = store_calls(state)

    def goes_on_freed(self, vcpu: VcpuState, probe: int = 0) -> bool:
        """A hit goes on, with the probe of that name and the one that the CPU says it is in, if it
        does: has something gone wrong?
        """
        for name in {probe, vcpu.block[0]}:
            if name:
                self._judge.hit_goes_on(vcpu, name)
        return self._judge.violation is not None

    def advance(self, vcpu: VcpuState) -> HitPhase | None:
        """The next piece of the hit that the vCPU is in. Returns what that was; None: something was
        wrong before it.
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
            vcpu.stepping = (
                False  # a breakpoint behind the copy has ended the step, if there was one
            )
        if hit.phase is HitPhase.HANDLED and not self._now.port.cpus.died(vcpu.index):
            self._note_way(vcpu, hit, flags)
        return hit.phase

    def _note_way(self, vcpu: VcpuState, hit: Hit, flags: int) -> None:
        """The handlers of a hit have run, and it goes on: coverage, and whether a single step
        begins.

        :param flags: the flags of what was hit, as they were until now.
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
            if vcpu.block[0]:  # else the hit is over: its copy is boosted
                self._judge.step_begun(vcpu, way.wrong)
            coverage.stepped += way.stepped
            coverage.boosted += not way.stepped

    def end_pass(self, vcpu: VcpuState) -> None:
        """The pass over a site that the vCPU is in is over."""
        assert vcpu.passing is not None
        self._judge.pass_over(vcpu, self._now.sites[vcpu.passing.addr])
        vcpu.passing, vcpu.stepping = None, False
