"""The choices that the present state offers, and what each costs.

Choices that another one stands for are left out. The cost of a choice is taken from the bound on
preemptions. These choices cost 1:

* leaving a vCPU in the middle of its call, where it could go on, for a control task or for another
  vCPU;
* an interrupt on the vCPU that went on last, and an NMI there or on a vCPU that ``stop_machine``
  holds.

Where stores to the text are left that a vCPU has not seen, it may fetch its next instruction in
several ways (:mod:`engine.patching.fetch_model`). To go on with the vCPU is to fetch the present
text; a choice in front of that takes the next one of the other ways. It costs what it costs to go
on with the vCPU.

All other choices cost nothing: the actor that went on last goes on; a control task or a vCPU goes
on after a control task, or after a vCPU whose call has ended; and a vCPU in ``schedule()`` is left
while a control task waits. So in a schedule without a preemption no call is left where it could go
on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from engine.patching.boundaries import Boundaries
from engine.patching.control_steps import ControlSteps
from engine.patching.fetches import Fetches
from engine.patching.independence import others_in_flight
from engine.patching.parked_task import Mode
from engine.patching.situation import Situation
from engine.patching.vcpu import VcpuState
from engine.patching.waits import Waits
from engine.search.actor import Actor, ActorKind
from engine.search.explorable import Choice

__all__ = ("Choices",)


class Choices:
    """This object works out the choices of the present state.

    :ivar apart: of tasks that share nothing, only one at a time is in the middle of its call
        (:mod:`engine.patching.independence`).
    :ivar alike: all calls of such tasks go alike, so it makes no difference which of the vCPUs
        between calls makes one.
    """

    def __init__(
        self,
        now: Situation,
        *,
        boundaries: Boundaries,
        waits: Waits,
        steps: ControlSteps,
        fetches: Fetches,
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
        self._fetches = fetches
        self.apart = apart
        self.alike = alike
        self._vcpu_of = {vcpu.actor: vcpu for vcpu in now.vcpus}

    @property
    def current(self) -> VcpuState | None:
        """Return the vCPU that went on last, if it is in a call or in an NMI, or else None.

        Only leaving such a vCPU may cost something.
        """
        actor = self._now.actor
        vcpu = None if actor is None else self._vcpu_of.get(actor)
        return vcpu if vcpu is not None and vcpu.live else None

    def offered(self) -> list[Choice]:
        """Return the choices of the present state; there are none if no actor can go on.

        Where the actor that went on last can go on, that choice comes first.
        """
        now, waits, vcpu = self._now, self._waits, self.current
        if vcpu is not None and vcpu.chosen:
            return [Choice(vcpu.actor, 0), *self._other_fetch(vcpu, 0)]
        stopped, stopping = now.node.stopped, bool(waits.left) and waits.stopping
        whole = vcpu is not None and self.goes_whole(vcpu)
        held = self._boundaries.holds
        if vcpu is not None and whole and not (vcpu.quiet or stopped or stopping or held):
            # The vCPU is in the middle of a call that is made whole, so the only other choices here
            # are those that cost something, and none of them is made.
            return [Choice(vcpu.actor, 0)]
        runnable = self._runnable(stopped=stopped, stopping=stopping)
        spinning = self._preempted(runnable) if held and not whole else []
        if held:
            runnable = [one for one in runnable if not self._boundaries.waits_to_run(one)]
        price, found = 0, list[Choice]()
        if vcpu is not None and vcpu in runnable:
            # The bound counts how often a vCPU is left that could go on. Where the vCPU stands in
            # schedule() and a control task waits, leaving it is what a kernel does there, and costs
            # nothing.
            found.append(Choice(vcpu.actor, 0))
            price = 0 if vcpu.quiet and waits.left and not vcpu.nmi else 1
            if not whole:
                if vcpu.view:
                    found += self._other_fetch(vcpu, 0)
                found += self.events(vcpu)
            if vcpu.parked and vcpu.quiescent:
                found.append(Choice(Actor(ActorKind.SWITCH, vcpu.index), 0))
        controls: Sequence[int] = (
            [task for task in now.node.tasks if waits.over(task)] if waits.left else now.node.tasks
        )
        if self._experiment.reduce and len(controls) > 1:
            controls = self._steps.without_those_that_only_wait(controls)
        found += spinning
        if not runnable and not controls:
            return found
        if stopped and self._experiment.nmis:
            # stop_machine keeps interrupts away from the vCPUs, but no NMI.
            found += [
                Choice(Actor(ActorKind.NMI, one.index), 1)
                for one in now.vcpus
                if not one.nmi and not self.goes_whole(one)
            ]
        if price and whole:
            return found
        first = len(found)
        found += [Choice(Actor(ActorKind.CONTROL, task), price) for task in controls]
        for other in self._different(runnable):
            if other is not vcpu:
                found += self.other(other, price)
        # The actor that went on last comes first, so that a search which always takes the first
        # choice makes no switch that it need not make.
        for index in range(first, len(found)):
            if found[index].actor == now.actor:
                found.insert(0, found.pop(index))
                break
        return found

    def _preempted(self, vcpus: Sequence[VcpuState]) -> list[Choice]:
        """Return the choices that a task which jumps to itself loses its vCPU to the other task.

        An interrupt takes the vCPU from such a task sooner or later, so it costs nothing.

        :param vcpus: those that no stop_machine() holds.
        """
        return [
            Choice(Actor(ActorKind.PREEMPTION, vcpu.index), 0)
            for vcpu in vcpus
            if self._boundaries.spins(vcpu)
            and self._boundaries.preempts(vcpu.index)
            and any(one.mode is not Mode.DONE for one in vcpu.parked)
        ]

    def _runnable(self, *, stopped: bool, stopping: bool) -> list[VcpuState]:
        """Return the vCPUs that ``stop_machine`` lets go on, and that have a call to make.

        :param stopped: ``stop_machine`` runs its function.
        :param stopping: ``stop_machine`` waits for all vCPUs to be parked.
        """
        stops = self._boundaries.stops
        return [
            one
            for one in self._now.vcpus
            if one.nmi or not (stopped or one.over or (stopping and stops(one.index)))
        ]

    def _different(self, vcpus: Sequence[VcpuState]) -> Sequence[VcpuState]:
        """Return the vCPUs whose choices lead to different states.

        While a task is in a call, all vCPUs between calls that have the same calls left
        lead to the same states, so only the first of them is taken.
        """
        if not self.alike or len(vcpus) < 3 or all(vcpu.idle for vcpu in vcpus):
            return vcpus
        seen = set[tuple[Any, ...]]()
        return [
            vcpu
            for vcpu in vcpus
            if not vcpu.idle or not ((left := self.calls_left(vcpu)) in seen or seen.add(left))
        ]

    def calls_left(self, vcpu: VcpuState) -> tuple[Any, ...]:
        """Return the calls that the tasks of a vCPU between calls have left, in sorted order.

        Which of the vCPU's tasks has them makes no difference. The stores that the vCPU has not
        seen come last.
        """
        left = sorted((self._calls[task].times, done) for task, done in vcpu.key(())[0])
        return (tuple(left), vcpu.view, vcpu.frozen, vcpu.shut_out)

    def other(self, vcpu: VcpuState, price: int) -> Iterator[Choice]:
        """Yield the choices of a vCPU that was not the last to go on, at ``price`` each.

        Its task goes on, or its other task does.
        """
        if vcpu.mode is not Mode.DONE or vcpu.nmi:
            yield Choice(vcpu.actor, price)
            if vcpu.view:
                yield from self._other_fetch(vcpu, price)
        if vcpu.parked and vcpu.quiescent:
            yield Choice(Actor(ActorKind.SWITCH, vcpu.index), price)

    def _other_fetch(self, vcpu: VcpuState, price: int) -> Iterator[Choice]:
        """Yield the choice that the vCPU fetches its next instruction in another way.

        There is none if the way that is chosen so far is the last one.
        """
        if vcpu.chosen + 1 < len(self._fetches.ways(vcpu)):
            yield Choice(Actor(ActorKind.FETCH, vcpu.index), price)

    def goes_whole(self, vcpu: VcpuState) -> bool:
        """Return whether the vCPU's call is made whole.

        It is while another task is in the middle of its call: nothing that costs anything
        need happen to this vCPU before its call is over
        (:mod:`engine.patching.independence`).
        """
        return self.apart and others_in_flight(self._now.vcpus, vcpu)

    def events(self, vcpu: VcpuState) -> Iterator[Choice]:
        """Yield what can happen to a vCPU in a call.

        That is an NMI, an interrupt, or an interrupt whose return gives the vCPU to another
        task.
        """
        cpu = vcpu.index
        if (
            self._experiment.nmis
            and not vcpu.nmi
            and vcpu.mode is Mode.CALL
            and self._cpus.takes_nmi(cpu)
        ):
            yield Choice(Actor(ActorKind.NMI, cpu), 1)
        if (
            vcpu.mode is Mode.CALL
            and self._experiment.interrupts
            and self._boundaries.takes_interrupt(cpu)
        ):
            yield Choice(Actor(ActorKind.INTERRUPT, cpu), 1)
            if self._boundaries.preempts(cpu) and any(
                one.mode is not Mode.DONE for one in vcpu.parked
            ):
                yield Choice(Actor(ActorKind.PREEMPTION, cpu), 1)
