"""What a patch protocol is, and what it works with: stores, core syncs, waits and breakpoints.

A protocol is a function of a :class:`Patcher` and the patches to make. Each thing that it does for
safety may be a named step, which ``--without`` leaves out::

    @protocol(sync="every CPU has fetched the new bytes when the protocol is done")
    def one_store(p: Patcher, patches: Sequence[Patch]) -> None:
        for patch in patches:
            p.store(patch.addr, patch.eight(), "the whole instruction")
            p.sync("done", step="sync")

docs/protocols.md explains it, and the protocols that come along.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, overload

from arch_x86.isa.constants import HLT, INT3, PAGE_SIZE
from arch_x86.isa.onward import Onward
from arch_x86.protocols.poke_array import PokeArray
from arch_x86.text.poke import TextControl, TextPokeParam
from arch_x86.text.space import TextSpace
from engine.brief import described, shortened
from engine.control.stepped_plane import stop_here
from engine.control.sync import Freeze
from engine.errors import InputError, printable

__all__ = ("Patch", "PatchProtocol", "Patcher", "Run", "protocol")


@dataclass(frozen=True, slots=True)
class Patch:
    """A piece of code to be replaced.

    :ivar addr: the address of its first byte.
    :ivar old: the bytes there now.
    :ivar new: the bytes that take their place, as many.
    :ivar behind: the bytes behind them, which stay: enough for a store of 16 bytes.
    :ivar reason: why, in a few words, for a timeline.
    :ivar old_goes_on: where a CPU goes on that hits a breakpoint at ``addr``, as if it had executed
        the first old instruction; None: the handler can't do what that does.
    :ivar new_goes_on: the same for the first new instruction.
    :ivar moves: for protocols that suspend tasks, pairs of addresses: a task that stands at the
        first one, in the old code, has its matching place at the second one.
    :ivar owned: a breakpoint at ``addr`` has another handler, so the protocol needs none.
    """

    addr: int
    old: bytes
    new: bytes
    behind: bytes
    reason: str
    old_goes_on: Onward | None = None
    new_goes_on: Onward | None = None
    moves: tuple[tuple[int, int], ...] = ()
    owned: bool = False

    def __repr__(self) -> str:
        return described(self, f"{self.addr:#x}", f"{self.old.hex()} -> {self.new.hex()}")

    def eight(self) -> bytes:
        """Return 8 bytes for one store at ``addr``: the new bytes, and those behind as they are.

        :raises InputError: there are more than 8 new bytes.
        """
        if len(self.new) > 8:
            raise InputError(
                f"{self.reason}: {len(self.new)} bytes do not go into a store of 8; give a protocol"
                " that stores more"
            )
        return (self.new + self.behind)[:8]


class Patcher:
    """What a protocol works with: the text, the CPUs, and the handler of its breakpoints.

    :param text: the text.
    :param plane: stops and synchronizes the CPUs.
    :param steps: the names of the protocol's steps.
    :param without: the names of the steps to leave out.
    :ivar held: the breakpoints that the handler knows, by address.
    :ivar last: the breakpoint that it was told of last. Without ``hits_over`` a CPU may still read
        its record when it is gone.
    :ivar suspends: whether the protocol has suspended tasks.
    :ivar array: the kernel's array of pokes; None: ``held`` takes its place.
    """

    def __init__(
        self,
        text: TextSpace,
        plane: TextControl,
        *,
        steps: Collection[str],
        without: frozenset[str],
    ) -> None:
        self._text = text
        self._plane = plane
        self._steps = steps
        self._without = without
        self.held: dict[int, TextPokeParam] = {}
        self.last: TextPokeParam | None = None
        self.array: PokeArray | None = None
        self.suspends = False
        self._parked = False

    def does(self, step: str | None) -> bool:
        """Return whether ``step`` is taken; None is no step that can be left out.

        :raises InputError: the protocol has no such step.
        """
        if step is not None and step not in self._steps:
            meant = step.replace("_", "-")
            if meant in self._steps:
                raise InputError(f"step={printable(repr(step))}: write step={meant!r}")
            raise InputError(
                f"step={printable(repr(step))}: no step of the protocol; name it in its decorator:"
                f" protocol({step.replace('-', '_')}='what it is for')"
            )
        return step is None or step not in self._without

    # Stores ---------------------------------------------------------------------------------------

    def read(self, addr: int, size: int) -> bytes:
        """Return ``size`` bytes of the text as it is now."""
        return self._text.read(addr, size)

    def store(self, addr: int, data: bytes, why: str, *, step: str | None = None) -> None:
        """Store 1, 2, 4, 8 or 16 bytes by one instruction."""
        if self.does(step):
            self._text.store_once(addr, data, reason=why)

    def copy(self, addr: int, data: bytes, why: str, *, step: str | None = None) -> None:
        """Store bytes by a memcpy() whose stores are not known: one byte after the other."""
        if data and self.does(step):
            self._text.write(addr, data, reason=why)

    # The CPUs -------------------------------------------------------------------------------------

    def sync(self, why: str, *, step: str | None = None) -> None:
        """Interrupt every CPU, so that each fetches the text as it is now (text_poke_sync())."""
        if self.does(step):
            self._require_running(why)
            self._plane.text_poke_sync(why)

    def stop_machine(self, fn: Callable[[], None], why: str, *, step: str | None = None) -> None:
        """Call ``fn`` while every CPU is parked; without ``step`` while the CPUs run.

        :raises InputError: ``fn`` waits for the CPUs, which are parked.
        """
        if self.does(step):
            self._require_running(why)
            self._plane.stop_machine(partial(self._while_parked, fn), why)
        else:
            fn()

    def _while_parked(self, fn: Callable[[], None]) -> None:
        self._parked = True
        try:
            fn()
        finally:
            self._parked = False

    def _require_running(self, why: str) -> None:
        """Refuse to wait for CPUs that are parked.

        :raises InputError: they are.
        """
        if self._parked:
            raise InputError(
                f"{why}: the function of stop_machine() waits for the CPUs, which are parked until"
                " it has returned; wait before it or behind it"
            )

    def wait_for_cpus(self, why: str, *, step: str | None = None) -> None:
        """Wait until every CPU has passed a quiescent point (synchronize_sched())."""
        if self.does(step):
            self._require_running(why)
            self._plane.synchronize_sched(why)

    def wait_for_tasks(self, why: str, *, step: str | None = None) -> None:
        """Wait until every task has called schedule() or ended (synchronize_rcu_tasks())."""
        if self.does(step):
            self._require_running(why)
            self._plane.synchronize_rcu_tasks(why)

    def freeze(
        self, why: str, *, moves: Sequence[tuple[int, int]] = (), new_tasks: bool = True
    ) -> None:
        """Suspend every task where it stands, as a hooking library suspends threads.

        :param moves: a task that stands at the first address of a pair is moved to the second.
        :param new_tasks: no task begins meanwhile, either.
        """
        self._require_running(why)
        self.suspends = True
        self._plane.freeze_tasks(Freeze(tuple(moves), new_tasks), why)

    def thaw(self, why: str) -> None:
        """Let the tasks go on that were suspended."""
        self._plane.thaw_tasks(why)

    def hide(self, patch: Patch, why: str) -> None:
        """Take the right to execute the pages of ``patch`` away.

        A CPU that has taken a core sync since then faults there, and waits.
        """
        first = patch.addr // PAGE_SIZE * PAGE_SIZE
        last = (patch.addr + len(patch.new) - 1) // PAGE_SIZE * PAGE_SIZE
        self._plane.hide_code(range(first, last + PAGE_SIZE), why)

    def show(self, why: str) -> None:
        """Give the right to execute back; CPUs that wait go on, and fetch the text as it is."""
        self._plane.show_code(why)

    def allocate(self, why: str) -> None:
        """Allocate memory, for which no task may hold the allocator's lock."""
        self._require_running(why)
        self._plane.allocate(why)

    def note(self, why: str) -> None:
        """Make a point in front of a store to the handler's records: a CPU in a hit may read them.

        :param why: what is stored, for a timeline.
        """
        stop_here(why)

    # Breakpoints ----------------------------------------------------------------------------------

    def handle(
        self, patches: Sequence[Patch], *, as_old: bool = False, step: str | None = None
    ) -> None:
        """Let CPUs that hit a breakpoint over one of ``patches`` go on from now on.

        Where the first byte of one of them has changed already, there is a point in front of that:
        a CPU may hit the breakpoint before the handler is told.

        :param as_old: they go on as if they had executed the old instruction; else the new one.
        :raises InputError: a handler can't do what that instruction does.
        """
        if not self.does(step):
            return
        if any(self.read(patch.addr, 1) != patch.old[:1] for patch in patches):
            self.note("the handler is told")
        for patch in patches:
            record = self.record(patch, as_old=as_old)
            if record.target is not None:
                self.last = self.held[patch.addr] = record

    def record(self, patch: Patch, *, as_old: bool = False) -> TextPokeParam:
        """Return what the handler has to know of ``patch``.

        :param as_old: a CPU goes on as if it had executed the old instruction; else the new one.
        :returns: a record, without a target where another handler takes the breakpoint.
        :raises InputError: the handler can't do what that instruction does.
        """
        goes_on = patch.old_goes_on if as_old else patch.new_goes_on
        if goes_on is None and not patch.owned:
            which, code = ("old", patch.old) if as_old else ("new", patch.new)
            raise InputError(
                f"{patch.reason}: the handler of the protocol's breakpoint has to do what the"
                f" {which} instruction does, {code.hex(' ')}, and it can do a no-op, a relative"
                " jump or a relative call; give other code, or a protocol without a handler"
            )
        target, returns = (None, None) if goes_on is None else goes_on
        return TextPokeParam(patch.addr, patch.new, patch.reason, target, returns)

    def handled(self, why: str, *, step: str | None = None) -> None:
        """Tell the handler that the breakpoints are gone, and wait for CPUs that read its record.

        :param step: the name of the wait.
        """
        self.held.clear()
        if self.does(step):
            self._plane.traps_over(why)

    def breakpoint(self, patch: Patch, *, step: str | None = None) -> None:
        """Store a breakpoint over the first byte of ``patch``."""
        self.store(patch.addr, INT3, f"{patch.reason}: breakpoint", step=step)

    def halt(self, patch: Patch, *, step: str | None = None) -> None:
        """Store a HLT over the first byte of ``patch``: user-mode code faults there (#GP).

        The handler is asked, as behind a breakpoint.
        """
        self.store(patch.addr, HLT, f"{patch.reason}: hlt", step=step)


Run: TypeAlias = Callable[[Patcher, Sequence[Patch]], None]
"""Replaces the old code of the patches by the new code."""


@dataclass(frozen=True, slots=True)
class PatchProtocol:
    """A protocol that has a name.

    :ivar name: the word of ``--protocol``.
    :ivar run: replaces the code of all patches that it is given, in the order of their addresses.
    :ivar steps: what each of its steps is for, by name.
    :ivar leaves: returns what it leaves where it puts old code back, given the old code and the new
        code; None: the old code.
    """

    name: str
    run: Run
    steps: Mapping[str, str]
    leaves: Callable[[bytes, bytes], bytes] | None = None

    def __repr__(self) -> str:
        return described(self, shortened(self.name), *self.steps)

    @property
    def what(self) -> str:
        """The first line of the function's docstring."""
        return (self.run.__doc__ or "").strip().partition("\n")[0]


@overload
def protocol(run: Run, /) -> PatchProtocol: ...


@overload
def protocol(**steps: str) -> Callable[[Run], PatchProtocol]: ...


def protocol(run: Run | None = None, /, **steps: str) -> object:
    """Return a decorator that makes a protocol of a function.

    :param run: the function, where the decorator has no parentheses: a protocol without steps.
    :param steps: what each step is for, by name; ``_`` stands for ``-``.
    :raises InputError: what the decorator stands over is no function of a patcher and patches.
    """
    named = {name.replace("_", "-"): what for name, what in steps.items()}

    def make(run: Run) -> PatchProtocol:
        name = str(getattr(run, "__name__", "protocol"))
        _require_function(run, name)
        return PatchProtocol(name, run, named)

    return make if run is None else make(run)


def _require_function(run: object, name: str) -> None:
    """Require a function that does its work when it is called with a patcher and patches.

    :raises InputError: ``run`` takes other arguments, or a call of it would only return an object
        that has yet to be run.
    """
    if not callable(run):
        raise InputError(f"{printable(repr(run))}: optprobe.protocol() stands over a function")
    if inspect.isgeneratorfunction(run) or inspect.isasyncgenfunction(run):
        raise InputError(f"{name}: a protocol does its work when it is called; leave yield out")
    if inspect.iscoroutinefunction(run):
        raise InputError(f"{name}: a protocol does its work when it is called; leave async out")
    with suppress(TypeError, ValueError):  # Some functions of C have no signature.
        signature = inspect.signature(run)
        try:
            signature.bind(None, ())
        except TypeError:
            raise InputError(
                f"{name}{signature}: a protocol takes two arguments, (p, patches): what it works"
                " with, and the patches to make"
            ) from None
