"""The record of what is expected of each probe.

It follows from the operations that control tasks have made on the probe, and from the order in
which the core took them. An operation takes effect while it holds kprobe_mutex, and may return long
after that: of two operations under way at once, the one that had the mutex last decides, whichever
returns last. So each operation notes when it last took the mutex, and its effect counts from there.

A probe is ``ON`` from the return of the operation that armed it to the start of the next one that
concerns it. The number that goes with it then changes, so that a pass can tell whether an operation
came during the pass. While an operation on a probe is under way nothing is expected of it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from engine.control.stepped_plane import ControlTask

__all__ = ("Effect", "Ledger", "Life", "Lives", "Operation")

Lives = tuple[tuple["Life", int], ...]


class Life(IntEnum):
    """This value says what holds for a probe at one moment."""

    OFF = 0
    """The probe is not registered, or its code is gone, so none of its handlers may run."""
    CHANGING = 1
    """An operation on the probe is under way, or the kernel leaves open whether it is armed.

    A pass may be a hit or none.
    """
    ON = 2
    """The probe is registered and enabled, so each pass over the armed text is a hit or a miss."""
    DISABLED = 3
    """The probe is disabled, or all probes are disarmed: no pass that begins now is a hit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """This record says what an operation changes when it succeeds, and has None for the rest.

    :ivar registered: whether each probe that the operation concerns is then registered.
    :ivar disabled: whether each of these probes is then disabled.
    :ivar gone: whether the code under each of these probes is then gone.
    :ivar armed: whether the global switch that arms probes is then on.
    :ivar optimizing: whether the global switch that allows optimization is then on.
    """

    registered: bool | None = None
    disabled: bool | None = None
    gone: bool | None = None
    armed: bool | None = None
    optimizing: bool | None = None


class Operation:
    """This record describes one operation under way.

    :ivar numbers: the numbers of the probes that it concerns.
    :ivar everything: it concerns all registered probes.
    :ivar effect: what it changes when it succeeds.
    :ivar order: when it last took kprobe_mutex, as a count of such takings; 0 if it has not
        taken it.
    """

    __slots__ = ("effect", "everything", "numbers", "order")

    def __init__(self, numbers: Sequence[int], effect: Effect, *, everything: bool) -> None:
        self.numbers = tuple(numbers)
        self.effect = effect
        self.everything = everything
        self.order = 0


_SWITCHES = ("armed", "optimizing")
_OF_A_PROBE = ("registered", "disabled", "gone")


class Ledger:
    """The ledger has the operations under way, and what those that are over have left.

    :param sleeps_on: a probe that is enabled while all are disarmed may or may not be armed
        with the others (:attr:`engine.core.profiles.Profile.enables_while_disarmed` is false).
    :ivar under_way: the operations under way, by control task.
    :ivar jumped: the probes whose site held a jump when an operation on them took kprobe_mutex.
    :ivar rearmed: the addresses at which a breakpoint was written again while an earlier jump
        waited to be undone.
    :ivar copied_for_post: by address, whether the probe that the copy in the slot was made for
        had a post_handler.
    """

    def __init__(self, *, sleeps_on: bool) -> None:
        self._sleeps_on = sleeps_on
        self._clock = 0
        self._facts: dict[
            tuple[str, int], tuple[int, bool]
        ] = {}  # Each fact has the order of the operation that stated it, and what it states.
        self._epochs: list[int] = []
        self._registrations: list[int] = []
        self.under_way: dict[object, Operation] = {}
        self.jumped: set[int] = set()
        self.rearmed: set[int] = set()
        self.copied_for_post: dict[int, bool] = {}
        self.lives: Lives = ()

    def know(self, number: int) -> None:
        """Note that there is a probe with the number ``number``."""
        while len(self._epochs) <= number:
            self._epochs.append(0)
            self._registrations.append(0)
        self._note()

    # Operations -----------------------------------------------------------------------------------

    def begin(
        self, task: object, numbers: Sequence[int], effect: Effect, *, everything: bool = False
    ) -> None:
        """Note that ``task`` begins an operation.

        :param numbers: the numbers of the probes that it concerns.
        :param effect: what it changes when it succeeds.
        :param everything: it concerns all registered probes.
        """
        operation = self.under_way[task] = Operation(numbers, effect, everything=everything)
        self._changed(operation)

    def locked(self, operation: Operation) -> None:
        """Note that ``operation`` has taken kprobe_mutex."""
        self._clock += 1
        operation.order = self._clock
        if operation.effect.registered:
            for n in operation.numbers:
                self._registrations[n] += 1

    def end(self, task: object, *, done: bool) -> None:
        """Note that the operation of ``task`` is over.

        :param done: it has succeeded; otherwise it has failed, and has no effect.
        """
        operation = self.under_way[task]
        if done:
            if not operation.order:
                self.locked(operation)
            self._take_effect(operation, operation.effect)
        self._changed(operation, over=True)
        del self.under_way[task]
        self._note()

    def _take_effect(self, operation: Operation, effect: Effect) -> None:
        for name in _SWITCHES:
            value = getattr(effect, name)
            if value is not None:
                self._say(name, -1, operation.order, value)
        for n in operation.numbers:
            # An enabled probe is armed at once, unless all probes are disarmed.
            if effect.disabled is False:
                off = not self._holds("armed", -1, default=True) or any(
                    one.everything for one in self.under_way.values()
                )
                self._say(
                    "asleep",
                    n,
                    operation.order,
                    self._sleeps_on and off and self._holds("disabled", n),
                )
            elif effect.disabled or effect.registered is not None:
                self._say("asleep", n, operation.order, False)
            if effect.registered:
                self._say("gone", n, operation.order, False)
                self._say("since", n, operation.order, True)
            for name in _OF_A_PROBE:
                value = getattr(effect, name)
                if value is not None:
                    self._say(name, n, operation.order, value)

    def _say(self, name: str, n: int, order: int, value: bool) -> None:
        if order >= self._facts.get((name, n), (0, False))[0]:
            self._facts[name, n] = (order, value)

    def _holds(self, name: str, n: int, *, default: bool = False) -> bool:
        fact = self._facts.get((name, n))
        return default if fact is None else fact[1]

    def _changed(self, operation: Operation, *, over: bool = False) -> None:
        """Count a change of each probe that an operation concerns.

        :param operation: an operation that has just begun, or is ``over``.
        """
        for n in range(len(self._epochs)):
            if n in operation.numbers or (operation.everything and self.registered(n)):
                self._epochs[n] += 1
        if not over:
            self._note()

    def _note(self) -> None:
        self.lives = tuple((self._life(n), epoch) for n, epoch in enumerate(self._epochs))

    def _life(self, n: int) -> Life:
        registered = self.registered(n)
        if any(
            n in one.numbers or (one.everything and registered) for one in self.under_way.values()
        ):
            return Life.CHANGING
        if not registered or self._holds("gone", n):
            return Life.OFF
        if self._holds("disabled", n) or not self.armed:
            return Life.DISABLED
        return Life.CHANGING if self._holds("asleep", n) else Life.ON

    # What holds -----------------------------------------------------------------------------------

    def registered(self, n: int) -> bool:
        """Return whether the operations that are over have left probe ``n`` registered."""
        return self._holds("registered", n)

    def enabled(self, n: int) -> bool:
        """Return whether probe ``n`` is registered, is not disabled, and has its code."""
        return self.registered(n) and not self._holds("disabled", n) and not self._holds("gone", n)

    def asleep(self, n: int) -> bool:
        """Return whether the kernel leaves open if probe ``n`` is armed when all probes are.

        It is open for a probe that was enabled while all were disarmed, in some profiles.
        """
        return self._holds("asleep", n)

    @property
    def armed(self) -> bool:
        """Return whether probes are armed, as debugfs kprobes/enabled says."""
        return self._holds("armed", -1, default=True)

    @property
    def optimizing(self) -> bool:
        """Return whether optimization is allowed, as the sysctl debug.kprobes-optimization says."""
        return self._holds("optimizing", -1, default=True)

    def since(self, n: int) -> int:
        """Return when probe ``n`` was registered last: a newer registration has a higher number."""
        return self._facts.get(("since", n), (0, False))[0]

    def registration(self, n: int) -> int:
        """Return how often probe ``n`` was about to be registered.

        The probe does not follow calls any more that were entered before the last time.
        """
        return self._registrations[n]

    def _later_than(self, operation: Operation) -> tuple[tuple[str, int], ...]:
        """Return the facts that operations have stated which had the mutex after ``operation``.

        Each fact is a name and a probe's number. There are none if ``operation`` has not
        had the mutex.
        """
        return tuple(
            sorted(key for key, (order, _) in self._facts.items() if 0 < operation.order < order)
        )

    def state(self, sites: Sequence[Hashable]) -> Hashable:
        """Return what the name of a control state has of all that is expected from here on.

        :param sites: the address of each probe. Which probe was registered first matters
            only among probes at one address.
        """
        facts = {key: value for key, (_, value) in self._facts.items()}
        numbers = range(len(self._epochs))
        live = sorted((n for n in numbers if self.registered(n)), key=self.since)
        groups = [tuple(n for n in live if sites[n] == site) for site in set(sites)]
        ages = tuple(sorted(group for group in groups if len(group) > 1))
        pending: Hashable = ()
        if self.under_way:
            orders = sorted(one.order for one in self.under_way.values())
            pending = tuple(
                sorted(
                    (
                        _name(task),
                        one.numbers,
                        one.everything,
                        orders.index(one.order),
                        self._later_than(one),
                    )
                    for task, one in self.under_way.items()
                )
            )
        places = (
            tuple(sorted(self.jumped)),
            tuple(sorted(self.rearmed)),
            tuple(sorted(self.copied_for_post.items())),
        )
        told = (self.lives, tuple(sorted(facts.items())), tuple(self._registrations), places)
        return (told, ages, pending)


def _name(task: object) -> int:
    return task.index if isinstance(task, ControlTask) else -1
