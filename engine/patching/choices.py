"""The choices that the present state offers, what each costs, and which are left out since another
one stands for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from engine.patching.boundaries import Boundaries
from engine.patching.control_steps import ControlSteps
from engine.patching.independence import others_in_flight
from engine.patching.parked_task import Mode
from engine.patching.situation import Situation
from engine.patching.vcpu import VcpuState
from engine.patching.waits import Waits
from engine.search.explorable import Choice

__all__ = ("Choices",)


class Choices:
    """Offers them. What costs something takes of the preemption bound: to leave a vCPU in the
    middle of its call, an interrupt, an NMI.

    :ivar apart: of tasks that share nothing one at a time is in the middle of its call
        (:mod:`engine.patching.independence`).
    :ivar alike: all calls of such tasks go alike, so that it is all the same which of the vCPUs
        between calls makes one.
    """

    def __init__(
        self,
        now: Situation,
        *,
        boundaries: Boundaries,
        waits: Waits,
        steps: ControlSteps,
        apart: bool,
        alike: bool,
    ) -> None:
        self._now = now
        self._experiment = now.experiment
        self._calls = now.calls
        self._cpus = now.port.cpus
        self._boundaries = boundaries
        self._waits = waits
        self._steps = steps
        self.apart = apart
        self.alike = alike
        self._vcpu_of = {str(vcpu.index): vcpu for vcpu in now.vcpus}

    @property
    def current(self) -> VcpuState | None:
        """The vCPU that went on last, if it is not between calls: to leave that one may cost
        something.
        """
        vcpu = self._vcpu_of.get(self._now.actor)
        return vcpu if vcpu is not None and vcpu.live else None

    def offered(self) -> list[Choice]:
        """How to go on; as before first, where that can be. Empty: nobody can."""
        now, waits, vcpu = self._now, self._waits, self.current
        stopped, stopping = now.node.stopped, bool(waits.left) and waits.stopping
        whole = vcpu is not None and self.goes_whole(vcpu)
        if vcpu is not None and whole and not (vcpu.quiet or stopped or stopping):
            return [Choice(now.actor, 0)]  # it stands where nothing can come in that costs nothing
        stops = self._boundaries.stops
        runnable = [
            one
            for one in now.vcpus
            if one.nmi or not (stopped or one.over or (stopping and stops(one.index)))
        ]
        price, found = 0, list[Choice]()
        if vcpu is not None and vcpu in runnable:
            # To leave it is what the bound counts; but in schedule() somebody may wait for it, and
            # then it is left for nothing.
            found.append(Choice(now.actor, 0))
            price = 0 if vcpu.quiet and waits.left and not vcpu.nmi else 1
            if not whole:
                found += self.events(vcpu)
            if vcpu.parked and vcpu.quiescent:
                found.append(Choice(f"s{now.actor}", 0))
        controls: Sequence[int] = (
            [task for task in now.node.tasks if waits.over(task)] if waits.left else now.node.tasks
        )
        if self._experiment.reduce and len(controls) > 1:
            controls = self._steps.without_those_that_only_wait(controls)
        if not runnable and not controls:
            return []
        if stopped and self._experiment.nmis:  # stop_machine keeps no NMI away
            found += [
                Choice(f"n{one.index}", 1)
                for one in now.vcpus
                if not one.nmi and not self.goes_whole(one)
            ]
        if price and whole:
            return found
        first = len(found)
        found += [Choice(f"c{task}", price) for task in controls]
        for other in self._different(runnable):
            if other is not vcpu:
                found += self.other(other, price)
        for index in range(first, len(found)):  # the one that went on last comes first
            if found[index].actor == now.actor:
                found.insert(0, found.pop(index))
                break
        return found

    def _different(self, vcpus: Sequence[VcpuState]) -> Sequence[VcpuState]:
        """While a task is in a call, of the vCPUs that are between alike ones the first will do."""
        if not self.alike or len(vcpus) < 3 or all(vcpu.idle for vcpu in vcpus):
            return vcpus
        seen = set[tuple[Any, ...]]()
        return [
            vcpu
            for vcpu in vcpus
            if not vcpu.idle or not ((left := self.calls_left(vcpu)) in seen or seen.add(left))
        ]

    def calls_left(self, vcpu: VcpuState) -> tuple[Any, ...]:
        """What calls the tasks of a vCPU between calls have left, whichever tasks they are."""
        return tuple(sorted((self._calls[task].times, done) for task, done in vcpu.key(())[0]))

    def other(self, vcpu: VcpuState, price: int) -> Iterator[Choice]:
        """How a vCPU can go on that was not the last to do so."""
        if vcpu.mode is not Mode.DONE or vcpu.nmi:
            yield Choice(str(vcpu.index), price)
        if vcpu.parked and vcpu.quiescent:
            yield Choice(f"s{vcpu.index}", price)

    def goes_whole(self, vcpu: VcpuState) -> bool:
        """Nothing that costs anything has to happen to the vCPU before its call is over
        (:mod:`engine.patching.independence`).
        """
        return self.apart and others_in_flight(self._now.vcpus, vcpu)

    def events(self, vcpu: VcpuState) -> Iterator[Choice]:
        """What can happen to a vCPU that runs: an NMI, an interrupt, one that gives the CPU to
        another task.
        """
        cpu = vcpu.index
        if (
            self._experiment.nmis
            and not vcpu.nmi
            and vcpu.mode is Mode.CALL
            and self._cpus.takes_nmi(cpu)
        ):
            yield Choice(f"n{cpu}", 1)
        if (
            vcpu.mode is Mode.CALL
            and self._experiment.interrupts
            and self._boundaries.takes_interrupt(cpu)
        ):
            yield Choice(f"i{cpu}", 1)
            if self._boundaries.preempts(cpu) and any(
                one.mode is not Mode.DONE for one in vcpu.parked
            ):
                yield Choice(f"p{cpu}", 1)
