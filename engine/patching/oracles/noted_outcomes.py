"""No oracle at all: notes what calls leave without probes, in the order in which they are made, for
the oracles of an exploration with probes (:mod:`engine.patching.baseline`).
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
    """With probes a call may leave that, too, or die so.

    :param at_end: called at the end of each schedule, before its ending is noted.
    :ivar found: the orders that were met since a fresh record was put here.
    """

    def __init__(self, now: Situation, at_end: Callable[[], None]) -> None:
        super().__init__(now)
        self.found = Orders(now.port.text.facts)
        self._at_end = at_end
        self._left: Left = {}

    def reset(self) -> None:
        """See :class:`Oracle`."""
        self._left = {}

    def save(self) -> Left:
        """See :class:`Oracle`."""
        return self._left

    def restore(self, saved: Left) -> None:
        """See :class:`Oracle`."""
        self._left = saved

    def key(self) -> object:
        """See :class:`Oracle`."""
        return sorted(self._left.items())

    def call_ended(self, vcpu: VcpuState, outcome: CallOutcome) -> None:
        """See :class:`Oracle`."""
        self._left = add_call(
            self._left, vcpu.task, self.found.note_call(vcpu.task, vcpu.calls - 1, outcome)
        )

    def died(self, vcpu: VcpuState, fault: Fault) -> None:
        """See :class:`Oracle`."""
        self.call_ended(vcpu, self.now.port.cpus.way_to_die(vcpu.task))

    def schedule_ended(self, waiting: Sequence[str]) -> None:
        """See :class:`Oracle`."""
        self._at_end()
        data = self.now.data
        self.found.note_end(self._left, data.changed(), data.content)
