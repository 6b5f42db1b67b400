"""The oracle of other users' breakpoints: kprobes and pokes leave them, and their hits, alone."""

from __future__ import annotations

from engine.foreign_breakpoint import ForeignBreakpoint
from engine.patching.control_tree import ControlNode
from engine.patching.expectations import Life
from engine.patching.oracles.oracle import Oracle
from engine.patching.passes import Seen
from engine.patching.sites import Site
from engine.patching.vcpu import VcpuState
from engine.search.explorable import Violation, ViolationKind

__all__ = ("ForeignBreakpoints",)


class ForeignBreakpoints(Oracle):
    """While another user's breakpoint is set, each pass over its instruction is one hit of it.

    While it is not set, no pass is one. While it is set and no lock is held, the text has a
    breakpoint there.
    """

    def control_state(self, node: ControlNode) -> Violation | None:
        """Report a breakpoint that is set, and that something has written over."""
        if any(node.held):
            return None
        foreign, state = node.state.control.foreign, node.state
        for number, (one, (life, _)) in enumerate(zip(foreign.all, foreign.lives, strict=True)):
            size = len(state.facts.breakpoint)
            there = state.text.read(one.addr, size)
            if life is Life.ON and there != state.facts.breakpoint:
                told = (
                    f"the breakpoint of user {number} is set at {self._where(one)}, and"
                    f" {there.hex(' ')} stands there"
                )
                return Violation(ViolationKind.LOST_HIT, None, one.addr, told)
        return None

    def pass_over(self, vcpu: VcpuState, site: Site) -> Violation | None:
        """Compare how often the user was told of the pass with how often it has to be."""
        passing = vcpu.passing
        assert passing is not None
        if not passing.foreign:
            return None
        foreign = self.now.node.state.control.foreign
        for number, (then, now) in enumerate(zip(passing.foreign, foreign.lives, strict=False)):
            one, (life, _) = foreign.all[number], now
            if one.addr != site.addr or then != now or life is Life.CHANGING:
                continue
            hits, due = passing.seen.count((Seen.FOREIGN, number)), int(life is Life.ON)
            if hits != due:
                kind = ViolationKind.LOST_HIT if hits < due else ViolationKind.EXTRA_HIT
                told = (
                    f"CPU {vcpu.index} passed {self._where(one)} with {hits} hits of the breakpoint"
                    f" of user {number}, {due} expected: it was {'' if due else 'not '}set"
                    " throughout"
                )
                return Violation(kind, vcpu.index, one.addr, told)
        return None

    def _where(self, one: ForeignBreakpoint) -> str:
        return self.now.port.text.where(one.addr)
