"""The protocol of oracles: an object that is told what happens, and answers with a violation.

To add an oracle, write a class of :class:`Oracle` in a file of its own, override the events that it
needs, and add it to the tuple in :mod:`engine.patching.oracles.listed`. From outside of the
packages, give it to an experiment instead (``Experiment(oracles=(MyOracle,), ...)``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engine.kretprobe import KretprobeInstance
from engine.patching.control_tree import ControlNode
from engine.patching.passes import Seen
from engine.patching.port_records import Fault
from engine.patching.sites import Site
from engine.patching.unprobed import CallOutcome
from engine.patching.vcpu import VcpuState
from engine.search.explorable import Violation

if TYPE_CHECKING:
    from engine.patching.situation import Situation

__all__ = ("Oracle",)


class Oracle:
    """An oracle without a rule; each of its methods is an event of a schedule.

    An event answers with a violation, or with None. An event that no oracle overrides costs one
    empty call. Of several violations the first in time counts, and of those that one event brings,
    that of the oracle that is listed first.

    An oracle may rely on this: events come in the order of time; :meth:`reset` comes in front of a
    schedule's first event, and :meth:`restore` where the exploration goes back to an earlier state;
    no state is saved in which something has gone wrong.

    What an oracle remembers from one event of a schedule to the next is part of the explored state.
    So it overrides :meth:`reset`, :meth:`save`, :meth:`restore` and :meth:`key`, all four.

    :param now: the state that the exploration is in. An oracle looks at it, and changes nothing.
    """

    def __init__(self, now: Situation) -> None:
        self.now = now

    # State ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """All is set up, and the machine stands at its start.

        The event comes again when :attr:`Situation.orders <engine.patching.situation.Situation>`
        become known.
        """

    def reset(self) -> None:
        """A schedule begins."""

    def save(self) -> Any:
        """What the oracle remembers of the schedule so far.

        The object that it returns must not change any more.
        """
        return None

    def restore(self, saved: Any) -> None:
        """Remember again what :meth:`save` has returned."""

    def key(self) -> Any:
        """What the oracle remembers, for a state's name.

        The result prints alike exactly where the verdicts that can follow are alike.
        """
        return None

    # Control tasks --------------------------------------------------------------------------------

    def control_state(self, node: ControlNode) -> Violation | None:
        """A control state was met for the first time.

        The answer is remembered with the control state, so it must depend on ``node`` alone.
        """

    def in_buffer(self, cpu: int, ip: int) -> Violation | None:
        """A vCPU or task is at ``ip``, in the memory of slots and detour buffers.

        Told of a vCPU that is about to go on, of one that stands there when a control task has made
        a step, and of a task of the vCPU that does not run.
        """

    # vCPUs ----------------------------------------------------------------------------------------

    def instruction(self, vcpu: VcpuState, ip: int) -> Violation | None:
        """The vCPU is about to execute the instruction at ``ip``, which lies near a site."""

    def pass_over(self, vcpu: VcpuState, site: Site) -> Violation | None:
        """The pass over ``site`` that the vCPU is in (``vcpu.passing``) is over."""

    def call_ending(self, vcpu: VcpuState) -> Violation | None:
        """The task's call has returned to the machine; a pass that it is in is not over yet."""

    def call_ended(self, vcpu: VcpuState, outcome: CallOutcome) -> Violation | None:
        """The task's call has returned, and has left ``outcome``."""

    def died(self, vcpu: VcpuState, fault: Fault) -> Violation | None:
        """The task's call has died of ``fault``."""

    def schedule_ended(self, waiting: Sequence[str]) -> Violation | None:
        """The schedule has ended, since nothing can go on.

        :param waiting: a line on each control task that has not ended, and on each task that is
            asleep.
        """

    # Hits -----------------------------------------------------------------------------------------

    def handlers_asked(self, vcpu: VcpuState) -> Violation | None:
        """A stub, or a detour buffer, has just asked for handlers."""

    def hit_goes_on(self, vcpu: VcpuState, name: int) -> Violation | None:
        """A hit goes on with the probe that is called ``name`` in the present control state."""

    def step_begun(self, vcpu: VcpuState, wrong: str | None) -> Violation | None:
        """A single step begins.

        :param wrong: a sentence on what is not as it should be there, or None.
        """

    def handler_ran(self, vcpu: VcpuState, seen: Seen, probe: int) -> Violation | None:
        """A handler of probe number ``probe`` runs.

        :param seen: ``Seen.HIT`` for a pre_handler or an entry_handler, else a post_handler.
        """

    def function_entered(self, vcpu: VcpuState, wrong: str | None) -> Violation | None:
        """The handler of an NMI calls a function.

        :param wrong: a sentence on what is not as a function may expect, or None.
        """

    # Return probes --------------------------------------------------------------------------------

    def call_followed(self, vcpu: VcpuState, probe: int, regs: Any) -> Violation | None:
        """The entry_handler of return probe ``probe`` runs, so the entered call is followed.

        :param regs: the pt_regs at the entry.
        """

    def instance_missing(self, vcpu: VcpuState, probe: int) -> Violation | None:
        """Return probe ``probe`` has counted a call that found no free instance."""

    def return_begins(self, vcpu: VcpuState, frame: int, value: int) -> Violation | None:
        """A followed call has come to the trampoline, and its handlers have not run.

        :param frame: the address on the stack where the return address lay.
        :param value: what the call returns.
        """

    def return_handler_ran(
        self, vcpu: VcpuState, probe: int, ri: KretprobeInstance, regs: Any
    ) -> Violation | None:
        """The handler of return probe ``probe`` runs.

        :param ri: the instance that it is shown.
        :param regs: the pt_regs that it is shown.
        """

    def return_handled(self, vcpu: VcpuState) -> Violation | None:
        """All handlers of that return have run."""

    def return_over(self, vcpu: VcpuState) -> Violation | None:
        """The core has forgotten the call (``open_calls`` of the situation)."""
