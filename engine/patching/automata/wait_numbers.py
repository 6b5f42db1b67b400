"""What the waits of control tasks are left with, by number."""

from __future__ import annotations

from typing import Any, Final

from engine.patching.automata.rules import Left, Rules
from engine.patching.automata.vcpu_record import stable_hash
from engine.patching.automata.vcpu_transitions import Event

__all__ = ("NO_WAITS", "WaitNumbers")

NO_WAITS: Final = 0
"""The number of the waits where no control task waits for vCPUs."""


class WaitNumbers:
    """The numbers of all that waits were left with so far.

    :param rules: the rules by which waits end.
    :param cpus: how many vCPUs there are.
    :ivar lefts: by number, the waits and whom each still waits for.
    :ivar names: by number, a hash of 63 bits for the name of a state.
    :ivar concern: by number and vCPU, how the waits concern its runs
        (:meth:`engine.patching.automata.rules.Rules.concerned`).
    """

    def __init__(self, rules: Rules, cpus: int) -> None:
        self._rules = rules
        self._numbers: dict[tuple[Any, ...], int] = {(): NO_WAITS}
        self._dropped: dict[tuple[int, int, Event], int] = {}
        self.lefts: list[Left] = [{}]
        self.names: list[int] = [0]
        self.concern: list[tuple[int, ...]] = [(0,) * cpus]

    def number_of(self, left: Left) -> int:
        """Return the number of what the waits are left with."""
        key = tuple((task, wait.kind, who) for task, (wait, who) in left.items())
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.lefts)
            self.lefts.append(dict(left))
            self.names.append(stable_hash(self._rules.name_of(left)))
            self.concern.append(self._rules.concerned(left))
        return number

    def behind(self, left: int, cpu: int, event: Event) -> int:
        """Return the number of what is left of the waits behind ``event`` on a vCPU."""
        key = (left, cpu, event)
        known = self._dropped.get(key)
        if known is None:
            known = self._dropped[key] = self.number_of(
                self._rules.dropped(
                    self.lefts[left],
                    cpu,
                    quiescent=event.quiescent,
                    passed=event.passed,
                    synced=event.synced,
                )
            )
        return known
