"""The judge passes each event to the oracles, and keeps the verdict on the present state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from engine.kretprobe import KretprobeInstance
from engine.patching.control_tree import ControlNode
from engine.patching.oracles.oracle import Oracle
from engine.patching.passes import Seen
from engine.patching.port_records import Fault
from engine.patching.sites import Site
from engine.patching.situation import Situation
from engine.patching.stray_stores import with_stray_store
from engine.patching.unprobed import CallOutcome
from engine.patching.vcpu import VcpuState
from engine.search.explorable import Violation

__all__ = ("Judge", "MakeOracle")

MakeOracle = Callable[[Situation], Oracle]
"""Such a function makes an oracle for one exploration; it may be a class of :class:`Oracle`."""


class Judge:
    """The judge passes each event on to the oracles that have a method of their own for it.

    All of these oracles are told of an event, since some remember what they hear. The first
    violation that one of them returns counts. Each attribute that can be called is an event of
    :class:`Oracle`, and takes the arguments of its method there.

    :ivar violation: the first thing that went wrong in the present state, or None.
    :ivar oracles: the oracles in the order in which they are told.
    """

    def __init__(self, now: Situation, oracles: Sequence[MakeOracle]) -> None:
        self._now = now
        self.violation: Violation | None = None
        self.oracles = tuple(make(now) for make in oracles)
        self._remembering = tuple(one for one in self.oracles if type(one).save is not Oracle.save)
        self._saves = tuple(one.save for one in self._remembering)
        self._keys = tuple(one.key for one in self._remembering)
        self._known_bad: dict[int, Violation] = {}
        self._control_state = self._heard("control_state")
        self.in_buffer: Callable[[int, int], None] = self._event("in_buffer")
        self.instruction: Callable[[VcpuState, int], None] = self._event("instruction")
        self.pass_over: Callable[[VcpuState, Site], None] = self._event("pass_over")
        self.call_ending: Callable[[VcpuState], None] = self._event("call_ending")
        self.call_ended: Callable[[VcpuState, CallOutcome], None] = self._event("call_ended")
        self.died: Callable[[VcpuState, Fault], None] = self._event("died")
        self.schedule_ended: Callable[[Sequence[str]], None] = self._event("schedule_ended")
        self.handlers_asked: Callable[[VcpuState], None] = self._event("handlers_asked")
        self.hit_goes_on: Callable[[VcpuState, int], None] = self._event("hit_goes_on")
        self.step_begun: Callable[[VcpuState, str | None], None] = self._event("step_begun")
        self.handler_ran: Callable[[VcpuState, Seen, int], None] = self._event("handler_ran")
        self.function_entered: Callable[[VcpuState, str | None], None] = self._event(
            "function_entered"
        )
        self.call_followed: Callable[[VcpuState, int, Any], None] = self._event("call_followed")
        self.instance_missing: Callable[[VcpuState, int], None] = self._event("instance_missing")
        self.return_begins: Callable[[VcpuState, int, int], None] = self._event("return_begins")
        self.return_handler_ran: Callable[[VcpuState, int, KretprobeInstance, Any], None] = (
            self._event("return_handler_ran")
        )
        self.return_handled: Callable[[VcpuState], None] = self._event("return_handled")
        self.return_over: Callable[[VcpuState], None] = self._event("return_over")

    def _heard(self, event: str) -> tuple[Callable[..., Violation | None], ...]:
        """Return the methods by which oracles override the one called ``event``."""
        mind = (
            one for one in self.oracles if getattr(type(one), event) is not getattr(Oracle, event)
        )
        return tuple(getattr(one, event) for one in mind)

    def _event(self, name: str) -> Callable[..., None]:
        """Return the function that tells the oracles of the event ``name``."""
        heard, now = self._heard(name), self._now
        # Beside static branches and static calls, probes write to the text, too.
        only_patches = bool(now.patches) and not now.experiment.switched

        def tell(*what: Any) -> None:
            for hear in heard:
                violation = hear(*what)
                if violation is not None and self.violation is None:
                    self.violation = with_stray_store(now, violation) if only_patches else violation

        return tell

    # State ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Let all oracles start, now that all is set up or the orders of shared data are known."""
        for one in self.oracles:
            one.start()

    def reset(self) -> None:
        """Forget what is wrong, and let the oracles forget what they remember."""
        self.violation = None
        for one in self._remembering:
            one.reset()

    def save(self) -> tuple[Any, ...]:
        """Return what the oracles remember, for :meth:`restore`.

        The violation is not kept, since nothing has gone wrong in a state that is saved.
        """
        return tuple([save() for save in self._saves])

    def restore(self, saved: tuple[Any, ...]) -> None:
        """Let the oracles remember again what they did when :meth:`save` was called."""
        self.violation = None
        for one, state in zip(self._remembering, saved, strict=True):
            one.restore(state)

    def key(self) -> tuple[Any, ...]:
        """Return what the hash of a state has of what the oracles remember."""
        return tuple([key() for key in self._keys])

    # Control states -------------------------------------------------------------------------------

    def learn(self, node: ControlNode) -> None:
        """Ask the oracles whether a new control state is sound, and keep the first violation."""
        for hear in self._control_state:
            violation = hear(node)
            if violation is not None:
                self._known_bad.setdefault(node.number, violation)

    def known_bad(self, node: ControlNode) -> Violation | None:
        """Return what the oracles have found wrong in the control state ``node`` itself."""
        return self._known_bad.get(node.number)

    def forget_violation(self) -> None:
        """Forget what is wrong in the present state."""
        self.violation = None

    def enter(self, node: ControlNode) -> None:
        """Note that ``node`` is the present control state, which may have a known violation."""
        if self.violation is None:
            self.violation = self._known_bad.get(node.number)
