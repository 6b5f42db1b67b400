"""The names of states of numbers: what the hash of a state has of each vCPU."""

from __future__ import annotations

from collections.abc import Sequence

from engine.patching.automata.rules import Rules
from engine.patching.automata.vcpu_record import VcpuRecord, stable_hash

__all__ = ("StateNames",)


class StateNames:
    """Names vCPUs by the rules of :meth:`engine.patching.states.States.vcpu_names`.

    :param apart: tasks share nothing, so idle vCPUs count only where no task is in a call.
    :param alike: all calls of such tasks go alike, so it makes no difference which vCPU has which
        calls left.
    """

    def __init__(self, rules: Rules, *, apart: bool, alike: bool) -> None:
        self._rules = rules
        self._apart = apart
        self._alike = alike
        self._idle: dict[int, int] = {}

    def of(self, records: Sequence[VcpuRecord]) -> Sequence[int]:
        """Return hashes of 63 bits that name what the vCPUs are doing."""
        for record in records:
            if record.leaves_status:
                return [one.name for one in records]
        busy = [one.name for one in records if not (self._apart and one.idle)]
        if busy:
            return busy
        if not self._alike:
            return [one.name for one in records]
        return sorted(map(self._calls_left, records))

    def _calls_left(self, record: VcpuRecord) -> int:
        """Return a hash of the calls that the tasks of a vCPU between calls have left."""
        name = self._idle.get(record.number)
        if name is None:
            told = self._rules.calls_left(record)
            name = self._idle[record.number] = stable_hash(told)
        return name
