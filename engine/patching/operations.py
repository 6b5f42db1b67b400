"""What a scenario's control tasks do: the core's operations, with a note of what each probe may and
must do meanwhile.

The notes are what the oracles go by (:mod:`engine.patching.expectations`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Sequence
from contextlib import contextmanager
from typing import Any, Final

from engine.core.global_switches import set_kprobes_enabled, set_kprobes_optimization
from engine.core.kprobes import Kprobes
from engine.errors import InputError, KprobeError, printable
from engine.image import Image
from engine.kprobe import Kprobe, KprobeFlag, Queue
from engine.kretprobe import Kretprobe, KretprobeInstance
from engine.patching.control_side import ExploredText
from engine.patching.expectations import Effect, Ledger, Lives
from engine.patching.handler_log import HandlerLog
from engine.patching.lock_notes import LockNotes
from engine.patching.probe_kinds import PLAIN_KINDS, ProbeKinds
from engine.syntax.kprobe_events import MAXACTIVE_MAX

__all__ = (
    "BEHIND_OPERATION",
    "BETWEEN_OPERATIONS",
    "Control",
    "unsettled",
)

BETWEEN_OPERATIONS: Final = "next operation"
"""Name of the point in front of each operation."""
BEHIND_OPERATION: Final = "behind the operation"
"""Name of the point behind each operation, where control tasks share variables: the scenario's code
goes on there.
"""
_NUMBERS: Final = 10_000
"""Numbers that probes can be given are below this one. Each number up to the highest that is given
takes room, and so does each of them in the name of every control state.
"""


def unsettled(core: Kprobes) -> str | None:
    """What is left to do for the optimizer, now that wait_for_kprobe_optimizer() has returned;
    None: nothing.
    """
    listed = [
        queue.value
        for queue in (Queue.OPTIMIZING, Queue.UNOPTIMIZING)
        if core.optimizer.lists[queue]
    ]
    if listed:
        return f"waiting for the optimizer has ended, and the {listed[0]} list is not empty"
    if any(core.optimizer.due):
        return "waiting for the optimizer has ended, and a pass is scheduled or under way"
    return None


class Control:
    """The operations, on one control state's core.

    :param log: told of each handler that runs.
    :param jump: the first byte of the jump that an optimized probe writes.
    :param kinds: the classes that probes are made of.
    :param made: called with each probe that is made, before anybody else has it.
    :param stops_behind: there is a point behind each operation, too, so that other tasks can come
        before the scenario's code goes on.
    :ivar probes: by number, in the order of :meth:`kprobe` and :meth:`kretprobe` calls.
        ``returns``: the return probes among them.
    :ivar instances: of each registration of a return probe, by its number and which one it was,
        also when it is unregistered.
    :ivar told: of each control task, by its index, how many operations it has begun, and whether
        those that can fail have succeeded. What the task's code keeps where nobody can look at it
        (the position of a loop, say) is decided by that. Where tasks share variables, also what
        they hold when its code goes on (:meth:`saw`).
    :ivar refused: a line for each probe that the core has refused, for the user.
    :ivar ledger: what is expected of each of them.
    :ivar notes: writes into the ledger what an operation meets under its lock.
    :ivar broken: what an operation has promised, and did not keep when it returned; None as long as
        there is no such thing.
    """

    def __init__(
        self,
        core: Kprobes,
        log: HandlerLog,
        text: ExploredText,
        image: Image,
        *,
        jump: bytes,
        kinds: ProbeKinds = PLAIN_KINDS,
        made: Callable[[Kprobe], None] | None = None,
        stops_behind: bool = False,
    ) -> None:
        self.core = core
        self._text = text
        self._image = image
        self._log = log
        self._kinds = kinds
        self._made = made
        self._stops_behind = stops_behind
        self.probes: list[Kprobe] = []
        self.returns: dict[int, Kretprobe] = {}
        self.told: dict[int, tuple[int, tuple[Hashable, ...]]] = {}
        self.refused: list[str] = []
        self.instances: dict[tuple[int, int], tuple[KretprobeInstance, ...]] = {}
        self._disabled: set[int] = set()
        self._numbered: set[int] = set()
        self.ledger = Ledger(sleeps_on=not core.profile.enables_while_disarmed)
        self.notes = LockNotes(
            core,
            text,
            self.ledger,
            jump=jump,
            probes=self.probes,
            returns=self.returns,
            instances=self.instances,
        )
        self.broken: str | None = None

    # Probes ---------------------------------------------------------------------------------------

    def kprobe(
        self,
        symbol: str | None,
        offset: int = 0,
        *,
        addr: int | None = None,
        post: bool = False,
        disabled: bool = False,
        number: int | None = None,
    ) -> Kprobe:
        """A probe whose handler counts, at a symbol or an address; ``post``: with a post_handler,
        too; ``disabled``: registered so.

        :param number: its number, where several control tasks make probes; else they are numbered
            as they come.
        """
        number = len(self.probes) if number is None else number

        def pre_handler(_p: Kprobe, regs: Any) -> int:
            self._log.hit(number, regs)
            return 0

        def post_handler(_p: Kprobe, regs: Any, _flags: int) -> None:
            self._log.post(number, regs)

        p = self._kinds.probe(addr=addr, symbol_name=symbol, offset=offset, pre_handler=pre_handler)
        p.post_handler = post_handler if post else None
        p.flags = KprobeFlag.DISABLED if disabled else KprobeFlag(0)
        self._add(p, number)
        if disabled:
            self._disabled.add(number)
        return p

    def kretprobe(
        self, symbol: str | None, maxactive: int = 8, *, addr: int | None = None
    ) -> Kretprobe:
        """A return probe whose handlers count, on the function called ``symbol`` or at ``addr``.

        :param maxactive: how many calls it can follow at once.
        """
        if maxactive > MAXACTIVE_MAX:
            raise InputError(
                f"maxactive={maxactive}: a return probe follows {MAXACTIVE_MAX} calls at once at"
                " most"
            )
        number = len(self.probes)

        def entry_handler(_ri: KretprobeInstance, regs: Any) -> int:
            self._log.entered(number, regs)
            return 0

        def handler(ri: KretprobeInstance, regs: Any) -> int:
            self._log.returned(number, ri, regs)
            return 0

        rp = Kretprobe(
            addr=addr,
            symbol_name=symbol,
            handler=handler,
            entry_handler=entry_handler,
            maxactive=maxactive,
        )
        rp.kp = self._kinds.entry(addr=addr, symbol_name=symbol)
        rp.kp.rp = rp
        self._add(rp.kp, number)
        self.returns[number] = rp
        return rp

    def _add(self, p: Kprobe, number: int) -> None:
        """``p`` is made, and has that number from now on.

        :raises InputError: another probe has that number, or it is none.
        """
        if not 0 <= number < _NUMBERS or number in self._numbered:
            if number in self._numbered:
                raise InputError(f"number={number}: another probe has that number already")
            raise InputError(f"number={number}: a number is 0 to {_NUMBERS - 1}")
        self._numbered.add(number)
        while len(self.probes) <= number:
            self.probes.append(Kprobe())  # of another task, which has not come to make it
        self.probes[number] = p
        if self._made is not None:
            self._made(p)
        self.ledger.know(number)

    @property
    def lives(self) -> Lives:
        """Of each probe, what holds for it, and since how many changes."""
        return self.ledger.lives

    def number_of(self, p: Kprobe) -> int | None:
        """The number of a probe; None: it is not one of the scenario's."""
        return next((n for n, known in enumerate(self.probes) if known is p), None)

    def _numbers(self, *ps: Kprobe) -> list[int]:
        return [n for n, known in enumerate(self.probes) if any(known is p for p in ps)]

    def _begin(self) -> None:
        """The current control task begins an operation."""
        self.core.plane.point(BETWEEN_OPERATIONS)
        task = self._task
        begun, answers = self.told.get(task, (0, ()))
        self.told[task] = (begun + 1, answers)

    def _answers(self, answer: bool) -> None:
        """An operation of the current control task ends: with success, or else it has raised an
        error.
        """
        begun, answers = self.told[self._task]
        self.told[self._task] = (begun, (*answers, answer))

    def saw(self, task: int, state: Hashable) -> None:
        """The scenario's code of a control task goes on, and can look at ``state``. What it saw
        last, too, is told once: a loop that waits for another task comes to the same state in each
        round.
        """
        begun, answers = self.told.get(task, (0, ()))
        if not answers or answers[-1] != state:
            self.told[task] = (begun, (*answers, state))

    def _over(self) -> None:
        """An operation of the current control task is over: a point, if others may tell it
        something there.
        """
        if self._stops_behind:
            self.core.plane.point(BEHIND_OPERATION)

    @property
    def _task(self) -> int:
        return getattr(self.core.plane.current, "index", -1)

    @contextmanager
    def _changing(
        self, numbers: Sequence[int], effect: Effect, *, everything: bool = False
    ) -> Generator[None]:
        """An operation on the probes ``numbers``, or on all that are registered. Where it raises,
        it has no effect, and a scenario's code may go on with that as well as with an answer.
        """
        self._begin()
        task = self.core.plane.current
        self.ledger.begin(task, numbers, effect, everything=everything)
        done = False
        try:
            yield
            done = True
        finally:
            self.ledger.end(task, done=done)
            self._answers(done)
            self._over()

    # Operations -----------------------------------------------------------------------------------

    def register(self, p: Kprobe, *, must: bool = False) -> bool:
        """register_kprobe(). False: the core refused it; with ``must`` that is an error."""
        numbers = self._numbers(p)
        disabled = not self._disabled.isdisjoint(numbers)
        try:
            with self._changing(numbers, Effect(registered=True, disabled=disabled)):
                if not self.core.is_registered(p):
                    p.addr = None if p.symbol_name is not None else p.addr
                    # It keeps what unregistering has left. This store is none of the kernel's, so
                    # it is never a choice point.
                    object.__setattr__(
                        p, "flags", KprobeFlag.DISABLED if disabled else KprobeFlag(0)
                    )
                self._refuse_twice(numbers, p)
                self.core.register_kprobe(p)
        except KprobeError as error:
            if must:
                raise
            place = (
                f"{p.addr or 0:#x}" if p.symbol_name is None else f"{p.symbol_name}+{p.offset:#x}"
            )
            self.refused.append(
                f"control task {self.core.plane.current!r}: register_kprobe({place}) was refused:"
                f" {error}"
            )
            return False
        return True

    def _refuse_twice(self, numbers: Sequence[int], p: Kprobe) -> None:
        """register_kprobe() asks whether ``p`` is registered before it has the lock, so that two at
        once both go on.

        :raises InputError: another task is registering ``p``, and has not come so far that it would
            be refused now.
        """
        others = (
            one
            for task, one in self.ledger.under_way.items()
            if task is not self.core.plane.current and one.effect.registered
        )
        if not self.core.is_registered(p) and any(
            n in one.numbers for one in others for n in numbers
        ):
            raise InputError(
                f"register({p!r}): another control task is registering it now, and no kernel bears"
                " that; use a probe each"
            )

    def unregister(self, *ps: Kprobe) -> None:
        """unregister_kprobes()."""
        with self._changing(self._numbers(*ps), Effect(registered=False)):
            self.core.unregister_kprobes(ps)

    def disable(self, p: Kprobe) -> None:
        """disable_kprobe()."""
        with self._changing(self._numbers(p), Effect(disabled=True)):
            self.core.disable_kprobe(p)

    def enable(self, p: Kprobe) -> None:
        """enable_kprobe()."""
        with self._changing(self._numbers(p), Effect(disabled=False)):
            self.core.enable_kprobe(p)

    def register_return(self, rp: Kretprobe) -> None:
        """register_kretprobe()."""
        with self._changing(self._numbers(rp.kp), Effect(registered=True, disabled=rp.kp.disabled)):
            self._refuse_twice(self._numbers(rp.kp), rp.kp)
            self.core.register_kretprobe(rp)

    def unregister_return(self, rp: Kretprobe) -> None:
        """unregister_kretprobe(). One that is not registered is let be, as the kernel does."""
        with self._changing(self._numbers(rp.kp), Effect(registered=False)):
            self.core.unregister_kretprobe(rp)

    def settle(self) -> None:
        """wait_for_kprobe_optimizer()."""
        self._begin()
        self.core.wait_for_kprobe_optimizer()
        self.broken = self.broken or unsettled(self.core)
        self._over()

    def optimization(self, *, on: bool) -> None:
        """sysctl debug.kprobes-optimization."""
        with self._changing((), Effect(optimizing=on)):
            set_kprobes_optimization(self.core, on=on)

    def switch(self, *, on: bool) -> None:
        """debugfs kprobes/enabled: while it is off no probe is hit."""
        with self._changing((), Effect(armed=on), everything=True):
            set_kprobes_enabled(self.core, on=on)

    def module_going(self, symbol: str) -> None:
        """The code of a function, nobody in it, is about to be freed, and is:
        kprobes_module_going(), and the loader.
        """
        start, size = self._extent(symbol)
        numbers = [
            n
            for n, p in enumerate(self.probes)
            if p.addr is not None and start <= p.addr < start + size
        ]
        with self._changing(numbers, Effect(gone=True)):
            self.core.kprobes_module_going(start, size)
            self._text.unload(start, size)

    def module_back(self, symbol: str) -> None:
        """It is loaded again."""
        self._begin()
        start, size = self._extent(symbol)
        self._text.load(start, self._image.read(start, size))
        self._over()

    def _extent(self, symbol: str) -> tuple[int, int]:
        found = self._image.by_name.get(symbol)
        if found is None:
            raise InputError(
                f"no function {printable(symbol)}; there is"
                f" {', '.join(sorted(self._image.by_name)[:5])}"
            )
        return found.addr, found.size
