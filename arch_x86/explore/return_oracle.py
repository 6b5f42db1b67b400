"""Return probes: a model of which calls are open, and what the handlers of each return have to be.

The model is the explorer's own: it learns of a call when an entry_handler runs, and of a return when the trampoline asks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from arch_x86.explore.lives import Life, Lives
from arch_x86.explore.returns import OpenCalls as CoreCalls
from engine.search.explorable import Violation, ViolationKind

__all__ = ("OpenCall", "OpenCalls", "ReturnOracle", "Returned")


class OpenCall(NamedTuple):
    """A call that was entered over the armed entry, with an instance.

    ``probe``: its number, and the ``registration`` of it that was in force. ``frame``: where the return address lay. ``found``: what lay
    there; ``ret_addr``: where the call really returns to, which is another address if a return probe had been there before.
    """

    probe: int
    registration: int
    frame: int
    found: int
    ret_addr: int


class Returned(NamedTuple):
    """What the handler of a return probe saw: ``ret_addr`` of its instance, ``ip`` and ``value`` (RAX) of its pt_regs."""

    probe: int
    ret_addr: int
    ip: int
    value: int


OpenCalls = tuple[tuple[int, tuple[OpenCall, ...]], ...]
"""By task, oldest first."""


class ReturnOracle:
    """A call that was entered with its return probe registered and an instance free is followed by one handler when it returns: of several
    on a call that of the probe that was entered last comes first, each with the right return address and value. One that found no instance
    free is a miss. No handler runs once the probe is unregistered.

    :param trampoline: where calls with return probes return to.
    :param rethook: :attr:`engine.core.profiles.Profile.rethook`.
    :param where: names an address.
    :ivar opened: the model.
    """

    def __init__(self, trampoline: int, *, rethook: bool, where: Callable[[int], str]) -> None:
        self._trampoline = trampoline
        self._rethook = rethook
        self._where = where
        self.opened: OpenCalls = ()

    def _of(self, task: int) -> tuple[OpenCall, ...]:
        return dict(self.opened).get(task, ())

    def _set(self, task: int, calls: tuple[OpenCall, ...]) -> None:
        others = [one for one in self.opened if one[0] != task]
        self.opened = tuple(sorted([*others, (task, calls)] if calls else others))

    def _in_use(self, probe: int, registration: int) -> int:
        return sum((one.probe, one.registration) == (probe, registration) for _, calls in self.opened for one in calls)

    def entered(self, cpu: int, task: int, probe: int, registration: int, instances: int, frame: int, found: int) -> Violation | None:
        """The entry_handler of a probe that has so many ``instances`` runs; ``found`` lies on the stack at ``frame``."""
        free = instances - self._in_use(probe, registration)
        calls = self._of(task)
        ret_addr = next((one.ret_addr for one in reversed(calls) if one.frame == frame), found) if found == self._trampoline else found
        self._set(task, (*calls, OpenCall(probe, registration, frame, found, ret_addr)))
        if free > 0:
            return None
        text = f"return probe {probe} follows a call on CPU {cpu} with all its {instances} instances taken"
        return Violation(ViolationKind.EXTRA_HIT, cpu, None, text)

    def full(self, cpu: int, probe: int, registration: int, instances: int) -> Violation | None:
        """A return probe misses a call, since it has no instance free."""
        free = instances - self._in_use(probe, registration)
        if free <= 0:
            return None
        text = f"return probe {probe} misses a call on CPU {cpu} for want of an instance, and {free} of its {instances} are free"
        return Violation(ViolationKind.LOST_HIT, cpu, None, text)

    def returning(self, task: int, frame: int) -> tuple[OpenCall, ...]:
        """A call of ``task``, whose return address lay at ``frame``, has come to the trampoline: the probes that follow it, last entered
        first. They are not open any more."""
        calls = self._of(task)
        first = next((n for n, one in enumerate(calls) if one.frame == frame), len(calls))
        self._set(task, calls[:first])
        return tuple(reversed(calls[first:]))

    def returned(
        self, cpu: int, calls: tuple[OpenCall, ...], seen: list[Returned], value: int, lives: Lives, registration: Callable[[int], int]
    ) -> Violation | None:  # fmt: skip
        """The handlers of ``calls`` have been called as ``seen`` says; ``value``: RAX at the return."""
        left = list(seen)
        for one in calls:
            life = lives[one.probe][0] if registration(one.probe) == one.registration else Life.OFF
            came = bool(left) and left[0].probe == one.probe
            if life is Life.OFF or (life is Life.CHANGING and not came):
                continue  # if it came, it is left over
            begin = f"a call returns to {self._where(one.ret_addr)} on CPU {cpu}, and"
            if not came:
                text = f"{begin} the handler of return probe {one.probe} does not run"
                return Violation(ViolationKind.LOST_HIT, cpu, one.ret_addr, f"{text} in its turn")
            wrong = self._differs(one, left.pop(0), value)
            if wrong is not None:
                text = f"{begin} the handler of return probe {one.probe} is shown {wrong}"
                return Violation(ViolationKind.EXTRA_HIT, cpu, one.ret_addr, text)
        if left:
            text = f"the handler of return probe {left[0].probe} runs on CPU {cpu}, for no call that it was to follow"
            return Violation(ViolationKind.EXTRA_HIT, cpu, None, text)
        return None

    def _differs(self, one: OpenCall, got: Returned, value: int) -> str | None:
        ret_addr, ip = (one.found, one.ret_addr) if self._rethook else (one.ret_addr, self._trampoline)
        wanted = (("ri.ret_addr", got.ret_addr, ret_addr), ("regs.ip", got.ip, ip), ("RAX", got.value, value))
        return next((f"{name} = {new:#x} for {old:#x}" for name, new, old in wanted if new != old), None)

    def balanced(self, cpu: int, task: int, core: CoreCalls) -> Violation | None:
        """A call of ``task`` has returned. As many of its calls are open in the ``core``, and as many instances of each registration of a
        return probe are in use there, as calls are open here."""
        (stacks, taken), calls = core, len(self._of(task))
        kept = next((len(stack) for name, stack in stacks if name == task), 0)
        if kept != calls:
            text = f"a call returns on CPU {cpu}, and of its task {kept} calls are kept as open, where {calls} are"
            return Violation(ViolationKind.INVARIANT, cpu, None, text)
        for probe, registration, indices in taken:
            calls = self._in_use(probe, registration)
            if len(indices) != calls:
                text = (
                    f"return probe {probe} has {len(indices)} instances in use when a call returns on CPU {cpu}, and {calls} calls are open"
                )
                return Violation(ViolationKind.INVARIANT, cpu, None, text)
        return None

    def ended(self, cpu: int, task: int) -> Violation | None:
        """A task's call, the outermost one, has ended."""
        calls = self._of(task)
        if not calls:
            return None
        self._set(task, ())
        text = f"a call that return probe {calls[-1].probe} follows on CPU {cpu} has returned to {self._where(calls[-1].ret_addr)} past it"
        return Violation(ViolationKind.LOST_HIT, cpu, calls[-1].ret_addr, text)
