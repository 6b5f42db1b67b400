"""The oracle of return probes: each followed call is reported once, with the right values.

It has a model of its own of the calls that are open. The model learns of a call when an
entry_handler runs, and of a return when the trampoline asks.
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
    """A call that was entered over the armed entry and has an instance.

    :ivar probe: the number of the return probe.
    :ivar registration: which registration of the probe was in force.
    :ivar frame: the address on the stack where the return address lay.
    :ivar found: the address that lay there.
    :ivar ret_addr: the address to which the call really returns. It differs from ``found`` where
        another return probe had put the trampoline there before.
    """

    probe: int
    registration: int
    frame: int
    found: int
    ret_addr: int


class Returned(NamedTuple):
    """What the handler of a return probe was shown.

    :ivar ret_addr: that of its instance.
    :ivar ip: that of its pt_regs.
    :ivar value: the call's result in its pt_regs.
    """

    probe: int
    ret_addr: int
    ip: int
    value: int


FollowedCalls = tuple[tuple[int, tuple[FollowedCall, ...]], ...]
"""The open calls of each task, oldest first."""


class ReturnProbes(Oracle):
    """A call that is entered with its return probe enabled and an instance free is followed.

    The handler runs once when the call returns. Of several return probes on a call, the handler of
    the one that was entered last runs first, and each is shown the right return address and value.
    A call that found no instance free is a miss. No handler runs once its probe is unregistered.

    :ivar opened: the calls that are open.
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
        """Forget the open calls of the last schedule."""
        self.opened = ()

    def save(self) -> FollowedCalls:
        """The calls that are open."""
        return self.opened

    def restore(self, saved: FollowedCalls) -> None:
        """Take ``saved`` as the calls that are open."""
        self.opened = saved

    def key(self) -> FollowedCalls:
        """The calls that are open, on which later verdicts depend."""
        return self.opened

    def _of(self, task: int) -> tuple[FollowedCall, ...]:
        """The open calls of ``task``, oldest first."""
        return dict(self.opened).get(task, ())

    def _set(self, task: int, calls: tuple[FollowedCall, ...]) -> None:
        """Make ``calls`` the open calls of ``task``."""
        others = [one for one in self.opened if one[0] != task]
        self.opened = tuple(sorted([*others, (task, calls)] if calls else others))

    def _in_use(self, probe: int, registration: int) -> int:
        """The number of instances that a registration of return probe ``probe`` has in use."""
        return sum(
            (one.probe, one.registration) == (probe, registration)
            for _, calls in self.opened
            for one in calls
        )

    def _registration(self, probe: int) -> int:
        """Which registration of return probe ``probe`` is in force."""
        return self.now.node.state.control.ledger.registration(probe)

    def _instances(self, probe: int) -> int:
        """The number of instances of return probe ``probe``."""
        return self.now.node.state.control.returns[probe].maxactive

    # Entries --------------------------------------------------------------------------------------

    def call_followed(self, vcpu: VcpuState, probe: int, regs: Any) -> Violation | None:
        """Add the call to the model; report it if all instances of the probe are in use already."""
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
        """Report the miss if an instance of the probe is free."""
        if self.now.node.lives[probe][0] is Life.CHANGING:
            # The probe is being unregistered: 6.1 takes its instances away at once, and a hit on
            # its way to one finds none.
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
        """Note which handlers have to run now: those of the call, the last entered first.

        Their calls are not open any more.
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
        """Note what the handler was shown."""
        hits = self.now.port.hits
        self._seen.append(
            Returned(probe, ri.ret_addr, hits.instruction_pointer(regs), hits.return_value(regs))
        )
        return None

    def return_handled(self, vcpu: VcpuState) -> Violation | None:
        """Compare the handlers that ran, and what they were shown, with what the model expects."""
        cpu, left = vcpu.index, list(self._seen)
        for one in self._returning:
            life = (
                self.now.node.lives[one.probe][0]
                if self._registration(one.probe) == one.registration
                else Life.OFF
            )
            came = bool(left) and left[0].probe == one.probe
            if life is Life.OFF or (life is Life.CHANGING and not came):
                continue  # A handler that came all the same is left over, and is reported below.
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
        """The first value that the handler was shown wrongly, as text, or None."""
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
        """Compare the core's open calls and instances in use with the model.

        As many calls of the task are open in the core as in the model, and as many instances of
        each registration of a return probe are in use.
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
        """Report a followed call that is still open behind the outermost call of its task."""
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
