"""The oracle of calls: with probes, each call leaves what it leaves without.

Where calls share data, all calls together leave what they leave without probes in some order.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.patching.oracles.oracle import Oracle
from engine.patching.orders import Left, add_call, difference, name_of
from engine.patching.patched_calls import difference_of_patched
from engine.patching.port_records import Fault
from engine.patching.situation import Situation
from engine.patching.unprobed import CallOutcome
from engine.patching.vcpu import VcpuState
from engine.search.explorable import Violation, ViolationKind

__all__ = ("CallResults",)


class CallResults(Oracle):
    """A call leaves the right registers, flags and buffers, and does not die.

    Vector and floating-point registers are compared, too. Where calls share data, each of them, and
    all of them together with the content of memory, leave what they leave in one order of
    :attr:`Situation.orders <engine.patching.situation.Situation>`; a call may also die of what it
    dies of in one of these orders.

    :ivar left: where calls share data, the names of what they have left so far, by task.
    """

    def __init__(self, now: Situation) -> None:
        super().__init__(now)
        self.left: Left = {}

    def reset(self) -> None:
        """Forget what the calls of the last schedule have left."""
        self.left = {}

    def save(self) -> Left:
        """The names of what calls have left so far."""
        return self.left

    def restore(self, saved: Left) -> None:
        """Take ``saved`` as what calls have left so far."""
        self.left = saved

    def key(self) -> object:
        """What calls have left so far, on which the verdict at the schedule's end depends."""
        if not self.left:
            return ()
        return sorted(self.left.items())

    def call_ended(self, vcpu: VcpuState, outcome: CallOutcome) -> Violation | None:
        """Compare what the call has left with what it leaves without probes."""
        addr = self.now.calls[vcpu.task].addr
        if self.now.orders is not None:
            return self._in_some_order(vcpu, addr, outcome)
        want = self.now.unprobed.outcomes[vcpu.task][vcpu.calls - 1]
        if outcome == want:
            return None
        patched = self.now.patched
        if patched is not None and outcome in patched[vcpu.task][vcpu.calls - 1]:
            return None
        facts = self.now.port.text.facts
        left = f"call {vcpu.calls} of CPU {vcpu.index} left"
        if patched is None:
            text = f"{left} {difference(outcome, want, facts)}"
        else:
            known = patched[vcpu.task][vcpu.calls - 1]
            text = f"{left} {difference_of_patched(outcome, known, facts)}"
        return Violation(ViolationKind.WRONG_RESULT, vcpu.index, addr, text)

    def _in_some_order(self, vcpu: VcpuState, addr: int, outcome: CallOutcome) -> Violation | None:
        """Note what a call has left, and whether it leaves that in some order without probes."""
        assert self.now.orders is not None
        name = name_of(outcome)
        self.left = add_call(self.left, vcpu.task, name)
        return self.now.orders.check_call((vcpu.task, vcpu.calls - 1), addr, name, outcome)

    def died(self, vcpu: VcpuState, fault: Fault) -> Violation | None:
        """Report the fault, unless the call dies of it in some order without probes."""
        port = self.now.port
        if (
            self.now.orders is not None
            and self._in_some_order(vcpu, 0, port.cpus.way_to_die(vcpu.task)) is None
        ):
            return None  # it dies of that in some order without probes, too
        explain = fault.explain
        if fault.rip in self.now.sites and fault.kind == port.text.facts.breakpoint_fault:
            others = self.now.node.state.control.foreign.all
            whose = "a probe, of a poke or of another user" if others else "a probe or of a poke"
            explain = f"the breakpoint of {whose}, which nobody handles"
        text = f"CPU {vcpu.index} at {fault.place}: {fault.kind}: {explain}"
        return Violation(
            ViolationKind.GUEST_FAULT, vcpu.index, fault.rip or port.cpus.ip(vcpu.index), text
        )

    def schedule_ended(self, waiting: Sequence[str]) -> Violation | None:
        """Compare what all calls and the memory hold with the orders without probes."""
        if self.now.orders is None:
            return None
        data = self.now.data
        return self.now.orders.check_end(
            self.left, data.changed(), data.content, self.now.port.memory.name
        )
