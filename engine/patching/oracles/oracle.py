"""What an oracle is: an object that is told what happens in a schedule, and answers with a
violation where that must not be.

To add one, write a class of :class:`Oracle` in a file of its own, override the events that it
needs, and add it to the tuple in
:mod:`engine.patching.oracles.listed`; or, from outside of the packages, give it to a case
(``Experiment(oracles=(MyOracle,), ...)``).
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
    """Events of a schedule, none of which this class minds. An event that no oracle overrides costs
    one empty call.

    Of several violations the first in time counts; of those that one event brings, that of the
    oracle that is listed first. What an oracle remembers from one event to the next of a schedule
    is part of the explored state: it overrides :meth:`reset`, :meth:`save`,
    :meth:`restore` and :meth:`key`, all four.

    :param now: where the exploration stands. Look at it, and change nothing.
    """

    def __init__(self, now: Situation) -> None:
        self.now = now

    # State ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """All is set up, and the machine stands at its start. Comes again when
        :attr:`Situation.orders` become known.
        """

    def reset(self) -> None:
        """A schedule begins."""

    def save(self) -> Any:
        """What the oracle remembers of the schedule so far; it is not changed any more."""
        return None

    def restore(self, saved: Any) -> None:
        """Go back to what :meth:`save` gave."""

    def key(self) -> Any:
        """The same for a state's name: something that prints alike exactly where the verdicts that
        can follow are alike.
        """
        return None

    # Control tasks --------------------------------------------------------------------------------

    def control_state(self, node: ControlNode) -> Violation | None:
        """A control state was met for the first time. The answer is remembered with it, so it has
        to depend on ``node`` alone.
        """

    def in_buffer(self, cpu: int, ip: int) -> Violation | None:
        """A vCPU that is about to go on, or that stands there when a control task has made a step,
        is at ``ip``, in the room of slots and detour buffers; so is a task of the vCPU that does
        not run.
        """

    # vCPUs ----------------------------------------------------------------------------------------

    def instruction(self, vcpu: VcpuState, ip: int) -> Violation | None:
        """The vCPU is about to execute the instruction at ``ip``, which lies near a site."""

    def pass_over(self, vcpu: VcpuState, site: Site) -> Violation | None:
        """The pass over ``site`` that the vCPU is in (``vcpu.passing``) is over."""

    def call_ending(self, vcpu: VcpuState) -> Violation | None:
        """The task's call has returned, and the machine has answered; a pass that it is in is not
        over yet.
        """

    def call_ended(self, vcpu: VcpuState, outcome: CallOutcome) -> Violation | None:
        """The task's call has returned, and has left ``outcome``."""

    def died(self, vcpu: VcpuState, fault: Fault) -> Violation | None:
        """The task's call has died of ``fault``."""

    def schedule_ended(self, waiting: Sequence[str]) -> Violation | None:
        """Nobody can go on. ``waiting``: a line on each control task that has not ended, and on
        each task that sleeps then.
        """

    # Hits -----------------------------------------------------------------------------------------

    def handlers_asked(self, vcpu: VcpuState) -> Violation | None:
        """A stub, or a detour buffer, has just asked for handlers."""

    def hit_goes_on(self, vcpu: VcpuState, name: int) -> Violation | None:
        """A hit goes on with the probe of that name in the present control state."""

    def step_begun(self, vcpu: VcpuState, wrong: str | None) -> Violation | None:
        """A single step begins. ``wrong``: what is not as it should be, in a sentence; None:
        nothing.
        """

    def handler_ran(self, vcpu: VcpuState, seen: Seen, probe: int) -> Violation | None:
        """A handler of probe number ``probe`` runs: a pre_handler or entry_handler (``Seen.HIT``),
        or a post_handler.
        """

    def function_entered(self, vcpu: VcpuState, wrong: str | None) -> Violation | None:
        """The handler of an NMI calls a function. ``wrong``: what is not as a function may expect;
        None: nothing.
        """

    # Return probes --------------------------------------------------------------------------------

    def call_followed(self, vcpu: VcpuState, probe: int, regs: Any) -> Violation | None:
        """The entry_handler of return probe ``probe`` runs, with these pt_regs: the call that was
        entered is followed.
        """

    def instance_missing(self, vcpu: VcpuState, probe: int) -> Violation | None:
        """Return probe ``probe`` has counted a call that found no free instance."""

    def return_begins(self, vcpu: VcpuState, frame: int, value: int) -> Violation | None:
        """A call whose return address lay at ``frame`` has come to the trampoline and returns
        ``value``. Its handlers have not run.
        """

    def return_handler_ran(
        self, vcpu: VcpuState, probe: int, ri: KretprobeInstance, regs: Any
    ) -> Violation | None:
        """The handler of return probe ``probe`` runs with that instance and these pt_regs."""

    def return_handled(self, vcpu: VcpuState) -> Violation | None:
        """The handlers of that return have run."""

    def return_over(self, vcpu: VcpuState) -> Violation | None:
        """The core has let go of the call (:attr:`Situation.open_calls`)."""
