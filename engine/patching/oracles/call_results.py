"""Oracle 2, of calls: each leaves what it leaves without probes, and the calls together what they
leave in some order without probes.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.patching.oracles.oracle import Oracle
from engine.patching.orders import Left, add_call, difference, name_of
from engine.patching.port import Fault
from engine.patching.situation import Situation
from engine.patching.unprobed import CallOutcome
from engine.patching.vcpu import VcpuState
from engine.search.explorable import Violation, ViolationKind

__all__ = ("CallResults",)


class CallResults(Oracle):
    """Registers, flags, vector and floating-point registers, buffers, and no fault.

    Where calls share data, each of them, and all of them together with what is in memory, leave
    what they do in one of
    :attr:`Situation.orders`; there a call may also die as it does in one.

    :ivar left: where calls share data, what they have left so far, by name.
    """

    def __init__(self, now: Situation) -> None:
        super().__init__(now)
        self.left: Left = {}

    def reset(self) -> None:
        """See :class:`Oracle`."""
        self.left = {}

    def save(self) -> Left:
        """See :class:`Oracle`."""
        return self.left

    def restore(self, saved: Left) -> None:
        """See :class:`Oracle`."""
        self.left = saved

    def key(self) -> object:
        """The verdict at the end is on all that was left."""
        if not self.left:
            return ()
        return sorted(self.left.items())

    def call_ended(self, vcpu: VcpuState, outcome: CallOutcome) -> Violation | None:
        """See :class:`Oracle`."""
        addr = self.now.calls[vcpu.task].addr
        if self.now.orders is not None:
            return self._in_some_order(vcpu, addr, outcome)
        want = self.now.unprobed.outcomes[vcpu.task][vcpu.calls - 1]
        if outcome == want:
            return None
        text = (
            f"call {vcpu.calls} of CPU {vcpu.index} left"
            f" {difference(outcome, want, self.now.port.text.facts)}"
        )
        return Violation(ViolationKind.WRONG_RESULT, vcpu.index, addr, text)

    def _in_some_order(self, vcpu: VcpuState, addr: int, outcome: CallOutcome) -> Violation | None:
        assert self.now.orders is not None
        name = name_of(outcome)
        self.left = add_call(self.left, vcpu.task, name)
        return self.now.orders.check_call((vcpu.task, vcpu.calls - 1), addr, name, outcome)

    def died(self, vcpu: VcpuState, fault: Fault) -> Violation | None:
        """See :class:`Oracle`."""
        port = self.now.port
        if (
            self.now.orders is not None
            and self._in_some_order(vcpu, 0, port.cpus.way_to_die(vcpu.task)) is None
        ):
            return None  # it dies so in some order without probes
        text = f"CPU {vcpu.index} at {fault.place}: {fault.kind}: {fault.explain}"
        return Violation(
            ViolationKind.GUEST_FAULT, vcpu.index, fault.rip or port.cpus.ip(vcpu.index), text
        )

    def schedule_ended(self, waiting: Sequence[str]) -> Violation | None:
        """See :class:`Oracle`."""
        if self.now.orders is None:
            return None
        data = self.now.data
        return self.now.orders.check_end(
            self.left, data.changed(), data.content, self.now.port.memory.name
        )
