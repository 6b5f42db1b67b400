"""Oracle 3, of return probes: a model of which calls are open, and what the handlers of each return
have to be.

The model is the oracle's own: it learns of a call when an entry_handler runs, and of a return when
the trampoline asks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from engine.kretprobe import KretprobeInstance
from engine.patching.expectations import Life
from engine.patching.oracles.oracle import Oracle
from engine.patching.situation import Situation
from engine.patching.vcpu import VcpuState
from engine.search.explorable import Violation, ViolationKind

__all__ = ("FollowedCall", "FollowedCalls", "ReturnProbes", "Returned")


class FollowedCall(NamedTuple):
    """A call that was entered over the armed entry, with an instance.

    ``probe``: its number, and the ``registration`` of it that was in force. ``frame``: where the
    return address lay. ``found``: what lay there; ``ret_addr``: where the call really returns to,
    which is another address if a return probe had been there before.
    """

    probe: int
    registration: int
    frame: int
    found: int
    ret_addr: int


class Returned(NamedTuple):
    """What the handler of a return probe saw: ``ret_addr`` of its instance, ``ip`` and ``value``
    (the call's result) of its pt_regs.
    """

    probe: int
    ret_addr: int
    ip: int
    value: int


FollowedCalls = tuple[tuple[int, tuple[FollowedCall, ...]], ...]
"""By task, oldest first."""


class ReturnProbes(Oracle):
    """A call that was entered with its return probe registered and an instance free is followed by
    one handler when it returns: of several on a call that of the probe that was entered last comes
    first, each with the right return address and value. One that found no instance free is a miss.
    No handler runs once the probe is unregistered.

    :ivar opened: the model.
    """

    def __init__(self, now: Situation) -> None:
        super().__init__(now)
        self._trampoline = now.port.text.trampoline
        self._result = now.port.text.facts.result
        self._rethook = now.experiment.profile.rethook
        self.opened: FollowedCalls = ()
        self._returning: tuple[FollowedCall, ...] = ()
        self._value = 0
        self._seen: list[Returned] = []

    # State ----------------------------------------------------------------------------------------

    def reset(self) -> None:
        """See :class:`Oracle`."""
        self.opened = ()

    def save(self) -> FollowedCalls:
        """See :class:`Oracle`."""
        return self.opened

    def restore(self, saved: FollowedCalls) -> None:
        """See :class:`Oracle`."""
        self.opened = saved

    def key(self) -> FollowedCalls:
        """See :class:`Oracle`."""
        return self.opened

    def _of(self, task: int) -> tuple[FollowedCall, ...]:
        return dict(self.opened).get(task, ())

    def _set(self, task: int, calls: tuple[FollowedCall, ...]) -> None:
        others = [one for one in self.opened if one[0] != task]
        self.opened = tuple(sorted([*others, (task, calls)] if calls else others))

    def _in_use(self, probe: int, registration: int) -> int:
        return sum(
            (one.probe, one.registration) == (probe, registration)
            for _, calls in self.opened
            for one in calls
        )

    def _registration(self, probe: int) -> int:
        return self.now.node.state.control.ledger.registration(probe)

    def _instances(self, probe: int) -> int:
        return self.now.node.state.control.returns[probe].maxactive

    # Entries --------------------------------------------------------------------------------------

    def call_followed(self, vcpu: VcpuState, probe: int, regs: Any) -> Violation | None:
        """See :class:`Oracle`."""
        hits = self.now.port.hits
        frame, registration, instances = (
            hits.stack_pointer(regs),
            self._registration(probe),
            self._instances(probe),
        )
        found = hits.stack_word(frame)
        free = instances - self._in_use(probe, registration)
        calls = self._of(vcpu.task)
        ret_addr = (
            next((one.ret_addr for one in reversed(calls) if one.frame == frame), found)
            if found == self._trampoline
            else found
        )
        self._set(vcpu.task, (*calls, FollowedCall(probe, registration, frame, found, ret_addr)))
        if free > 0:
            return None
        text = (
            f"return probe {probe} follows a call on CPU {vcpu.index} with all its {instances}"
            " instances taken"
        )
        return Violation(ViolationKind.EXTRA_HIT, vcpu.index, None, text)

    def instance_missing(self, vcpu: VcpuState, probe: int) -> Violation | None:
        """See :class:`Oracle`."""
        if self.now.node.lives[probe][0] is Life.CHANGING:
            # it is being unregistered: 6.1 takes its instances away at once, and a hit that is on
            # its way finds none
            return None
        instances = self._instances(probe)
        free = instances - self._in_use(probe, self._registration(probe))
        if free <= 0:
            return None
        text = (
            f"return probe {probe} misses a call on CPU {vcpu.index} for want of an instance, and"
            f" {free} of its {instances} are free"
        )
        return Violation(ViolationKind.LOST_HIT, vcpu.index, None, text)

    # Returns --------------------------------------------------------------------------------------

    def return_begins(self, vcpu: VcpuState, frame: int, value: int) -> Violation | None:
        """The probes that follow the call are, last entered first, to be called now. Their calls
        are not open any more.
        """
        calls = self._of(vcpu.task)
        first = next((n for n, one in enumerate(calls) if one.frame == frame), len(calls))
        self._set(vcpu.task, calls[:first])
        self._returning, self._value = tuple(reversed(calls[first:])), value
        self._seen.clear()
        return None

    def return_handler_ran(
        self, vcpu: VcpuState, probe: int, ri: KretprobeInstance, regs: Any
    ) -> Violation | None:
        """See :class:`Oracle`."""
        hits = self.now.port.hits
        self._seen.append(
            Returned(probe, ri.ret_addr, hits.instruction_pointer(regs), hits.return_value(regs))
        )
        return None

    def return_handled(self, vcpu: VcpuState) -> Violation | None:
        """See :class:`Oracle`."""
        cpu, left = vcpu.index, list(self._seen)
        for one in self._returning:
            life = (
                self.now.node.lives[one.probe][0]
                if self._registration(one.probe) == one.registration
                else Life.OFF
            )
            came = bool(left) and left[0].probe == one.probe
            if life is Life.OFF or (life is Life.CHANGING and not came):
                continue  # if it came, it is left over
            begin = f"a call returns to {self.now.port.text.where(one.ret_addr)} on CPU {cpu}, and"
            if not came:
                text = f"{begin} the handler of return probe {one.probe} does not run"
                return Violation(ViolationKind.LOST_HIT, cpu, one.ret_addr, f"{text} in its turn")
            wrong = self._differs(one, left.pop(0), self._value)
            if wrong is not None:
                text = f"{begin} the handler of return probe {one.probe} is shown {wrong}"
                return Violation(ViolationKind.EXTRA_HIT, cpu, one.ret_addr, text)
        if left:
            text = (
                f"the handler of return probe {left[0].probe} runs on CPU {cpu}, for no call that"
                " it was to follow"
            )
            return Violation(ViolationKind.EXTRA_HIT, cpu, None, text)
        return None

    def _differs(self, one: FollowedCall, got: Returned, value: int) -> str | None:
        ret_addr, ip = (
            (one.found, one.ret_addr) if self._rethook else (one.ret_addr, self._trampoline)
        )
        wanted = (
            ("ri.ret_addr", got.ret_addr, ret_addr),
            ("regs.ip", got.ip, ip),
            (self._result, got.value, value),
        )
        return next(
            (f"{name} = {new:#x} for {old:#x}" for name, new, old in wanted if new != old), None
        )

    def return_over(self, vcpu: VcpuState) -> Violation | None:
        """As many calls of the task are open in the core, and as many instances of each
        registration of a return probe are in use there, as calls are open in the model.
        """
        cpu, task = vcpu.index, vcpu.task
        (stacks, taken), calls = self.now.open_calls, len(self._of(task))
        kept = next((len(stack) for name, stack in stacks if name == task), 0)
        if kept != calls:
            text = (
                f"a call returns on CPU {cpu}, and of its task {kept} calls are kept as open, where"
                f" {calls} are"
            )
            return Violation(ViolationKind.INVARIANT, cpu, None, text)
        for probe, registration, indices in taken:
            calls = self._in_use(probe, registration)
            if len(indices) != calls:
                text = (
                    f"return probe {probe} has {len(indices)} instances in use when a call returns"
                    f" on CPU {cpu}, and {calls} calls are open"
                )
                return Violation(ViolationKind.INVARIANT, cpu, None, text)
        return None

    def call_ended(self, vcpu: VcpuState, outcome: Any) -> Violation | None:
        """It was the outermost one of its task: none is open any more."""
        cpu, calls = vcpu.index, self._of(vcpu.task)
        if not calls:
            return None
        self._set(vcpu.task, ())
        where = self.now.port.text.where(calls[-1].ret_addr)
        text = (
            f"a call that return probe {calls[-1].probe} follows on CPU {cpu} has returned to"
            f" {where} past it"
        )
        return Violation(ViolationKind.LOST_HIT, cpu, calls[-1].ret_addr, text)
