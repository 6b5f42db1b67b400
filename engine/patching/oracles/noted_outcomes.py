"""Notes what calls leave without probes, for the oracles of an exploration with probes.

It is an oracle without a rule: :mod:`engine.patching.baseline` explores all orders of the calls
with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine.patching.oracles.oracle import Oracle
from engine.patching.orders import Left, Orders, add_call
from engine.patching.port_records import Fault
from engine.patching.situation import Situation
from engine.patching.unprobed import CallOutcome
from engine.patching.vcpu import VcpuState

__all__ = ("NotedOutcomes",)


class NotedOutcomes(Oracle):
    """Notes what each call leaves or dies of, and what each schedule ends with.

    :param at_end: called at the end of each schedule, before what it ends with is noted.
    :ivar found: the record of the orders that were met. :mod:`engine.patching.baseline` may put a
        fresh one in its place.
    """

    def __init__(self, now: Situation, at_end: Callable[[], None]) -> None:
        super().__init__(now)
        self.found = Orders(now.port.text.facts)
        self._at_end = at_end
        self._left: Left = {}

    def reset(self) -> None:
        """Forget what the calls of the last schedule have left."""
        self._left = {}

    def save(self) -> Left:
        """The names of what calls have left so far."""
        return self._left

    def restore(self, saved: Left) -> None:
        """Take ``saved`` as what calls have left so far."""
        self._left = saved

    def key(self) -> object:
        """What calls have left so far, since it is noted at the schedule's end."""
        return sorted(self._left.items())

    def call_ended(self, vcpu: VcpuState, outcome: CallOutcome) -> None:
        """Note what the call has left."""
        self._left = add_call(
            self._left, vcpu.task, self.found.note_call(vcpu.task, vcpu.calls - 1, outcome)
        )

    def died(self, vcpu: VcpuState, fault: Fault) -> None:
        """Note of what the call has died."""
        self.call_ended(vcpu, self.now.port.cpus.way_to_die(vcpu.task))

    def schedule_ended(self, waiting: Sequence[str]) -> None:
        """Note what all calls and the memory hold at the end."""
        self._at_end()
        data = self.now.data
        self.found.note_end(self._left, data.changed(), data.content)
