"""Which oracle is asked when, and the verdict on the present state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from engine.kretprobe import KretprobeInstance
from engine.patching.control_tree import ControlNode
from engine.patching.oracles.oracle import Oracle
from engine.patching.passes import Seen
from engine.patching.port import Fault
from engine.patching.sites import Site
from engine.patching.situation import Situation
from engine.patching.unprobed import CallOutcome
from engine.patching.vcpu import VcpuState
from engine.search.explorable import Violation

__all__ = ("Judge", "MakeOracle")

MakeOracle = Callable[[Situation], Oracle]
"""Makes an oracle for one exploration: an :class:`Oracle` class, as a rule."""
_Heard = tuple[Callable[..., "Violation | None"], ...]


class Judge:
    """Passes each event on to the oracles that mind it. Its methods are the events of :class:`Oracle`.

    :ivar violation: the first thing that went wrong in the present state.
    :ivar oracles: in their order.
    """

    def __init__(self, now: Situation, oracles: Sequence[MakeOracle]) -> None:
        self.violation: Violation | None = None
        self.oracles = tuple(make(now) for make in oracles)
        self._remembering = tuple(one for one in self.oracles if type(one).save is not Oracle.save)
        self._known_bad: dict[int, Violation] = {}
        self._control_state = self._heard("control_state")
        self._in_buffer = self._heard("in_buffer")
        self._instruction = self._heard("instruction")
        self._pass_over = self._heard("pass_over")
        self._call_ending = self._heard("call_ending")
        self._call_ended = self._heard("call_ended")
        self._died = self._heard("died")
        self._schedule_ended = self._heard("schedule_ended")
        self._handlers_asked = self._heard("handlers_asked")
        self._hit_goes_on = self._heard("hit_goes_on")
        self._step_begun = self._heard("step_begun")
        self._handler_ran = self._heard("handler_ran")
        self._function_entered = self._heard("function_entered")
        self._call_followed = self._heard("call_followed")
        self._instance_missing = self._heard("instance_missing")
        self._return_begins = self._heard("return_begins")
        self._return_handler_ran = self._heard("return_handler_ran")
        self._return_handled = self._heard("return_handled")
        self._return_over = self._heard("return_over")

    def _heard(self, event: str) -> _Heard:
        """The methods of the oracles that override ``event``."""
        mind = (one for one in self.oracles if getattr(type(one), event) is not getattr(Oracle, event))
        return tuple(getattr(one, event) for one in mind)

    def _tell(self, heard: _Heard, *what: Any) -> None:
        """All are told, since some remember what they hear; the first answer counts."""
        for hear in heard:
            violation = hear(*what)
            if self.violation is None:
                self.violation = violation

    # State ------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """See :class:`Oracle`."""
        for one in self.oracles:
            one.start()

    def reset(self) -> None:
        """See :class:`Oracle`."""
        self.violation = None
        for one in self._remembering:
            one.reset()

    def save(self) -> tuple[Any, ...]:
        """What the oracles remember. Nothing has gone wrong in a state that is saved."""
        return tuple([one.save() for one in self._remembering])

    def restore(self, saved: tuple[Any, ...]) -> None:
        """Go back to that."""
        self.violation = None
        for one, state in zip(self._remembering, saved, strict=True):
            one.restore(state)

    def key(self) -> tuple[Any, ...]:
        """For a state's name."""
        return tuple([one.key() for one in self._remembering])

    # Control states -----------------------------------------------------------------------------------------------------

    def learn(self, node: ControlNode) -> None:
        """A control state that is new: is it sound?"""
        for hear in self._control_state:
            violation = hear(node)
            if violation is not None:
                self._known_bad.setdefault(node.number, violation)

    def enter(self, node: ControlNode) -> None:
        """``node`` is the control state now."""
        if self.violation is None:
            self.violation = self._known_bad.get(node.number)

    # Events -------------------------------------------------------------------------------------------------------------

    def in_buffer(self, cpu: int, ip: int) -> None:
        """See :class:`Oracle`."""
        self._tell(self._in_buffer, cpu, ip)

    def instruction(self, vcpu: VcpuState, ip: int) -> None:
        """See :class:`Oracle`."""
        self._tell(self._instruction, vcpu, ip)

    def pass_over(self, vcpu: VcpuState, site: Site) -> None:
        """See :class:`Oracle`."""
        self._tell(self._pass_over, vcpu, site)

    def call_ending(self, vcpu: VcpuState) -> None:
        """See :class:`Oracle`."""
        self._tell(self._call_ending, vcpu)

    def call_ended(self, vcpu: VcpuState, outcome: CallOutcome) -> None:
        """See :class:`Oracle`."""
        self._tell(self._call_ended, vcpu, outcome)

    def died(self, vcpu: VcpuState, fault: Fault) -> None:
        """See :class:`Oracle`."""
        self._tell(self._died, vcpu, fault)

    def schedule_ended(self, waiting: Sequence[str]) -> None:
        """See :class:`Oracle`."""
        self._tell(self._schedule_ended, waiting)

    def handlers_asked(self, vcpu: VcpuState) -> None:
        """See :class:`Oracle`."""
        self._tell(self._handlers_asked, vcpu)

    def hit_goes_on(self, vcpu: VcpuState, name: int) -> None:
        """See :class:`Oracle`."""
        self._tell(self._hit_goes_on, vcpu, name)

    def step_begun(self, vcpu: VcpuState, wrong: str | None) -> None:
        """See :class:`Oracle`."""
        self._tell(self._step_begun, vcpu, wrong)

    def handler_ran(self, vcpu: VcpuState, seen: Seen, probe: int) -> None:
        """See :class:`Oracle`."""
        self._tell(self._handler_ran, vcpu, seen, probe)

    def function_entered(self, vcpu: VcpuState, wrong: str | None) -> None:
        """See :class:`Oracle`."""
        self._tell(self._function_entered, vcpu, wrong)

    def call_followed(self, vcpu: VcpuState, probe: int, regs: Any) -> None:
        """See :class:`Oracle`."""
        self._tell(self._call_followed, vcpu, probe, regs)

    def instance_missing(self, vcpu: VcpuState, probe: int) -> None:
        """See :class:`Oracle`."""
        self._tell(self._instance_missing, vcpu, probe)

    def return_begins(self, vcpu: VcpuState, frame: int, value: int) -> None:
        """See :class:`Oracle`."""
        self._tell(self._return_begins, vcpu, frame, value)

    def return_handler_ran(self, vcpu: VcpuState, probe: int, ri: KretprobeInstance, regs: Any) -> None:
        """See :class:`Oracle`."""
        self._tell(self._return_handler_ran, vcpu, probe, ri, regs)

    def return_handled(self, vcpu: VcpuState) -> None:
        """See :class:`Oracle`."""
        self._tell(self._return_handled, vcpu)

    def return_over(self, vcpu: VcpuState) -> None:
        """See :class:`Oracle`."""
        self._tell(self._return_over, vcpu)
