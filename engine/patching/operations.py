"""The operations of the core that control tasks carry out, with notes for the oracles.

The notes say what each probe may do and must do during an operation and after it, and the oracles
go by them (:mod:`engine.patching.expectations`).
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
from engine.patching.breakpoint_operations import BreakpointOperations
from engine.patching.control_side import DieChain, ExploredArch, ExploredText
from engine.patching.expectations import Effect, Ledger, Lives
from engine.patching.foreign_lives import ForeignLives
from engine.patching.handler_log import HandlerLog
from engine.patching.lock_notes import LockNotes
from engine.patching.patched_sites import PatchedSite, TextIs
from engine.patching.probe_kinds import PLAIN_KINDS, ProbeKinds
from engine.patching.static_branches import StaticBranches
from engine.patching.static_calls import StaticCalls
from engine.patching.text_operations import TextOperations
from engine.syntax.kprobe_events import MAXACTIVE_MAX

__all__ = (
    "BEHIND_OPERATION",
    "BETWEEN_OPERATIONS",
    "Control",
    "unsettled",
)

BETWEEN_OPERATIONS: Final = "next operation"
"""This is the name of the point in front of each operation."""
BEHIND_OPERATION: Final = "behind the operation"
"""This is the name of the point behind each operation, where the scenario's code goes on.

There is such a point only where control tasks share variables.
"""
_NUMBERS: Final = 10_000
"""The numbers that probes can be given are below this one.

Each number up to the highest that is given takes room, and so does each in the name of every
control state.
"""


def unsettled(core: Kprobes) -> str | None:
    """Return what wait_for_kprobe_optimizer() has left to do when it returns, or None."""
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


class Control(TextOperations, BreakpointOperations):
    """This object carries out the operations on the core of one control state.

    :param log: is told of each handler that runs.
    :param jump: the first byte of the jump that an optimized probe writes.
    :param poke: the poke protocol of the control state.
    :param switched: the static branches and static calls of the program.
    :param arch: writes the code of these.
    :param die_chain: has the users of breakpoints that are not kprobes.
    :param kinds: the classes that probes are made of.
    :param made: is called with each probe that is made, before any other code has the probe.
    :param stops_behind: there is a point behind each operation, too, so that other tasks can
        come before the scenario's code goes on.
    :ivar probes: the probes by number, in the order of :meth:`kprobe` and :meth:`kretprobe`
        calls.
    :ivar returns: the return probes among them, by number.
    :ivar instances: the instances of each registration of a return probe, by the probe's number
        and the count of its registrations. They stay here after the probe is unregistered.
    :ivar told: of each control task, by its index, how many operations it has begun, and
        whether those that can fail have succeeded. That decides what the task's code keeps
        where the explorer can't look, such as the position of a loop. Where tasks share
        variables it also has what they hold when the task's code goes on (:meth:`saw`).
    :ivar refused: a line for the user for each probe that the core has refused, and for each
        breakpoint of another user that was refused.
    :ivar foreign: the breakpoints of other users, and what is expected of each.
    :ivar ledger: what is expected of each probe.
    :ivar notes: writes into the ledger what an operation meets under its lock.
    :ivar branches: the static branches of the program, and the key that switches them.
    :ivar static_calls: the static calls of the program, and their key.
    :ivar text_is: how far a patch protocol has come that replaces code.
    :ivar broken: the promise that an operation had not kept when it returned, or None.
    """

    def __init__(
        self,
        core: Kprobes,
        log: HandlerLog,
        text: ExploredText,
        image: Image,
        *,
        jump: bytes,
        poke: Any,
        switched: Sequence[PatchedSite] = (),
        arch: ExploredArch,
        die_chain: DieChain,
        kinds: ProbeKinds = PLAIN_KINDS,
        made: Callable[[Kprobe], None] | None = None,
        stops_behind: bool = False,
    ) -> None:
        self.core = core
        self.poke = poke
        branches = [site for site in switched if site.functions is None]
        calls = [site for site in switched if site.functions is not None]
        self.branches = StaticBranches(core, branches, arch.arch_jump_label_transform)
        self.static_calls = StaticCalls(core, calls, arch.arch_static_call_transform)
        self._text = text
        self._image = image
        self._log = log
        self._die_chain = die_chain
        self.foreign = ForeignLives()
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
        self.text_is = TextIs.OLD

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
        """Make a probe whose handlers tell the log of each hit, at a symbol or at an address.

        :param offset: the distance of the site from ``symbol``, in bytes.
        :param post: the probe has a post_handler, too.
        :param disabled: the probe is registered as disabled.
        :param number: the probe's number, where several control tasks make probes;
            otherwise probes are numbered as they come.
        :raises InputError: another probe has the number, or it is out of range.
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
        """Make a return probe whose handlers tell the log, on a function ``symbol`` or at ``addr``.

        :param maxactive: how many calls the probe can follow at once.
        :raises InputError: ``maxactive`` is too high.
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
        """Give the new probe ``p`` its number.

        :raises InputError: another probe has that number, or the number is out of range.
        """
        if not 0 <= number < _NUMBERS or number in self._numbered:
            if number in self._numbered:
                raise InputError(f"number={number}: another probe has that number already")
            raise InputError(f"number={number}: a number is 0 to {_NUMBERS - 1}")
        self._numbered.add(number)
        while len(self.probes) <= number:
            self.probes.append(Kprobe())  # Another task has yet to use this number.
        self.probes[number] = p
        if self._made is not None:
            self._made(p)
        self.ledger.know(number)

    @property
    def lives(self) -> Lives:
        """Return what holds for each probe, with a count of the changes before."""
        return self.ledger.lives

    def number_of(self, p: Kprobe) -> int | None:
        """Return the number of a probe, or None if it is not one of the scenario's."""
        return next((n for n, known in enumerate(self.probes) if known is p), None)

    def _numbers(self, *ps: Kprobe) -> list[int]:
        return [n for n, known in enumerate(self.probes) if any(known is p for p in ps)]

    def _begin(self) -> None:
        """Stop in front of an operation of the current control task, then count the operation."""
        self.core.plane.point(BETWEEN_OPERATIONS)
        task = self._task
        begun, answers = self.told.get(task, (0, ()))
        self.told[task] = (begun + 1, answers)

    def _answers(self, answer: bool) -> None:
        """Note how an operation of the current control task ended.

        :param answer: True for success; False if the operation has raised an error.
        """
        begun, answers = self.told[self._task]
        self.told[self._task] = (begun, (*answers, answer))

    def saw(self, task: int, state: Hashable) -> None:
        """Note that the scenario's code of a control task goes on, and can look at ``state``.

        A state that is equal to the last one is not noted again: a loop that waits for
        another task comes to the same state in each round.
        """
        begun, answers = self.told.get(task, (0, ()))
        if not answers or answers[-1] != state:
            self.told[task] = (begun, (*answers, state))

    def _over(self) -> None:
        """Stop behind an operation, if other tasks may store what this one reads there."""
        if self._stops_behind:
            self.core.plane.point(BEHIND_OPERATION)

    @property
    def _task(self) -> int:
        return getattr(self.core.plane.current, "index", -1)

    @contextmanager
    def _changing(
        self, numbers: Sequence[int], effect: Effect, *, everything: bool = False
    ) -> Generator[None]:
        """Note the begin and the end of an operation on the probes ``numbers``.

        An operation that raises an error has no effect. The error is an answer like any
        other, since the scenario's code may catch it and go on.

        :param effect: what the operation leaves if it succeeds.
        :param everything: the operation is on all registered probes.
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
        """Register ``p`` by register_kprobe(), and return whether the core took it.

        :param must: raise the core's error instead of returning False.
        :raises KprobeError: the core refused ``p``, and ``must`` is set.
        :raises InputError: another control task is registering ``p`` now.
        """
        numbers = self._numbers(p)
        disabled = not self._disabled.isdisjoint(numbers)
        try:
            with self._changing(numbers, Effect(registered=True, disabled=disabled)):
                if not self.core.is_registered(p):
                    p.addr = None if p.symbol_name is not None else p.addr
                    # The probe still has the flags that unregistering has left. The kernel makes no
                    # such store as this one, so it must never be a choice point.
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
        """Refuse to register a probe that another control task is registering.

        register_kprobe() looks whether ``p`` is registered before it has the lock, so two
        tasks that register ``p`` at once would both go on.

        :raises InputError: another task is registering ``p``, and the core would not refuse
            ``p`` yet.
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
        """Unregister the probes by unregister_kprobes()."""
        with self._changing(self._numbers(*ps), Effect(registered=False)):
            self.core.unregister_kprobes(ps)

    def disable(self, p: Kprobe) -> None:
        """Disable the probe by disable_kprobe()."""
        with self._changing(self._numbers(p), Effect(disabled=True)):
            self.core.disable_kprobe(p)

    def enable(self, p: Kprobe) -> None:
        """Enable the probe by enable_kprobe()."""
        with self._changing(self._numbers(p), Effect(disabled=False)):
            self.core.enable_kprobe(p)

    def register_return(self, rp: Kretprobe) -> None:
        """Register the return probe by register_kretprobe()."""
        with self._changing(self._numbers(rp.kp), Effect(registered=True, disabled=rp.kp.disabled)):
            self._refuse_twice(self._numbers(rp.kp), rp.kp)
            self.core.register_kretprobe(rp)

    def unregister_return(self, rp: Kretprobe) -> None:
        """Unregister the return probe by unregister_kretprobe().

        As in the kernel, nothing happens to a probe that is not registered.
        """
        with self._changing(self._numbers(rp.kp), Effect(registered=False)):
            self.core.unregister_kretprobe(rp)

    def settle(self) -> None:
        """Wait by wait_for_kprobe_optimizer(), and note in ``broken`` what that has left to do."""
        self._begin()
        self.core.wait_for_kprobe_optimizer()
        self.broken = self.broken or unsettled(self.core)
        self._over()

    def optimization(self, *, on: bool) -> None:
        """Allow or forbid optimization, as the sysctl debug.kprobes-optimization does."""
        with self._changing((), Effect(optimizing=on)):
            set_kprobes_optimization(self.core, on=on)

    def switch(self, *, on: bool) -> None:
        """Arm or disarm all probes, as debugfs kprobes/enabled does.

        A disarmed probe is never hit.
        """
        with self._changing((), Effect(armed=on), everything=True):
            set_kprobes_enabled(self.core, on=on)

    def module_going(self, symbol: str) -> None:
        """Free the code of the function ``symbol`` while no CPU is in it.

        The core is told first, by kprobes_module_going(), and then the loader takes the
        code away.
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
        """Load the code of the function ``symbol`` again."""
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
