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
from typing import Any, Final, TypeAlias, cast, overload

from arch_x86.isa.constants import HLT, INT3, PAGE_SIZE
from arch_x86.isa.decode import decode
from arch_x86.isa.onward import Onward, onward
from arch_x86.protocols.poke_array import PokeArray
from arch_x86.text.poke import TextControl, TextPokeParam
from arch_x86.text.space import TextSpace
from engine.brief import described, shortened
from engine.control.stepped_plane import stop_here
from engine.control.sync import Freeze
from engine.errors import InputError, printable

__all__ = ("COPY_MAX", "Patch", "PatchProtocol", "Patcher", "Run", "protocol")

COPY_MAX: Final = 1024
"""A protocol may copy so many bytes at once; a site has far fewer."""


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
    :ivar defers: whether the protocol has come to a core sync that leaves out CPUs in user mode.
    :ivar allocates: whether the protocol has allocated memory.
    :ivar covers_jumps: whether the protocol has stored a breakpoint over a probe's jump, the rest
        of which stood behind it while CPUs ran.
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
        self.defers = False
        self.allocates = False
        self.covers_jumps = False
        self._parked = False
        self._frozen = False
        self._hidden = False

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
        """Return ``size`` bytes of the text as it is now, or those of them that there are."""
        return self._text.read(_address(addr), _size(size))

    def store(self, addr: int, data: bytes, why: str, *, step: str | None = None) -> None:
        """Store 1, 2, 4, 8 or 16 bytes by one instruction.

        :raises InputError: ``addr`` is no address, or ``data`` is no bytes.
        """
        if self.does(step):
            self._text.store_once(_address(addr), _bytes(data), reason=str(why))

    def copy(self, addr: int, data: bytes, why: str, *, step: str | None = None) -> None:
        """Store bytes by a memcpy() whose stores are not known: one byte after the other.

        :raises InputError: ``addr`` is no address, or ``data`` is no bytes, or too many: each byte
            is a step that others come in front of.
        """
        content = _bytes(data)
        if len(content) > COPY_MAX:
            raise InputError(
                f"copy(): {len(content):,} bytes, each of which is a step; copy at most"
                f" {COPY_MAX:,}"
            )
        if content and self.does(step):
            self._text.write(_address(addr), content, reason=str(why))

    # The CPUs -------------------------------------------------------------------------------------

    def sync(self, why: str, *, step: str | None = None, deferrable: bool = False) -> None:
        """Interrupt every CPU, so that each fetches the text as it is now (text_poke_sync()).

        :param deferrable: a CPU in user mode is not interrupted, and not waited for.
        """
        self.defers |= deferrable
        if self.does(step):
            self._require_running(why)
            plane = self._plane
            (plane.text_poke_sync_deferrable if deferrable else plane.text_poke_sync)(why)

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
                " it has returned, or changes what they may do; do that before it or behind it"
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
        :raises InputError: the tasks are suspended already, or ``moves`` has no pairs of addresses.
        """
        self._require_running(why)
        if self._frozen:
            raise InputError(
                f"{why}: freeze() behind freeze(): the tasks are suspended already; call thaw()"
                " in between"
            )
        for pair in moves:
            _require_pair(pair)
        self.suspends = self._frozen = True
        self._plane.freeze_tasks(Freeze(tuple(moves), new_tasks), why)

    def thaw(self, why: str) -> None:
        """Let the tasks go on that were suspended.

        :raises InputError: none are.
        """
        self._require_running(why)
        if not self._frozen:
            raise InputError(f"{why}: thaw() without freeze(): no task is suspended")
        self._frozen = False
        self._plane.thaw_tasks(why)

    def hide(self, patch: Patch, why: str) -> None:
        """Take the right to execute the pages of ``patch`` away.

        A CPU that has taken a core sync since then faults there, and waits.

        :raises InputError: they are hidden already, or those of another patch are.
        """
        self._require_running(why)
        if self._hidden:
            raise InputError(
                f"{why}: hide() behind hide(): pages are hidden already; call show() in between"
            )
        self._hidden = True
        first = patch.addr // PAGE_SIZE * PAGE_SIZE
        last = (patch.addr + len(patch.new) - 1) // PAGE_SIZE * PAGE_SIZE
        self._plane.hide_code(range(first, last + PAGE_SIZE), why)

    def show(self, why: str) -> None:
        """Give the right to execute back; CPUs that wait go on, and fetch the text as it is.

        :raises InputError: no pages are hidden.
        """
        self._require_running(why)
        if not self._hidden:
            raise InputError(f"{why}: show() without hide(): no pages are hidden")
        self._hidden = False
        self._plane.show_code(why)

    def allocate(self, why: str) -> None:
        """Allocate memory, for which no task may hold the allocator's lock."""
        self._require_running(why)
        self.allocates = True
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
            if record.goes_on is not None:
                self.last = self.held[patch.addr] = record

    def record(self, patch: Patch, *, as_old: bool = False) -> TextPokeParam:
        """Return what the handler has to know of ``patch``.

        :param as_old: a CPU goes on as if it had executed the old instruction; else the new one.
        :returns: a record, without ``goes_on`` where another handler takes the breakpoint.
        :raises InputError: the handler can't do what that instruction does.
        """
        goes_on = patch.old_goes_on if as_old else patch.new_goes_on
        if goes_on is None and not patch.owned:
            which, code = ("old", patch.old) if as_old else ("new", patch.new)
            raise InputError(
                f"{patch.reason}: the handler of the protocol's breakpoint has to do what the"
                f" {which} instruction does, {code.hex(' ')}, and it can do a no-op, a relative"
                " jump or call, a conditional jump, a return, and return0 where the program has a"
                " function __static_call_return0; give other code, or a protocol without a handler"
            )
        return TextPokeParam(patch.addr, patch.new, patch.reason, goes_on)

    def handled(self, why: str, *, step: str | None = None) -> None:
        """Tell the handler that the breakpoints are gone, and wait for CPUs that read its record.

        :param step: the name of the wait.
        """
        self.held.clear()
        if self.does(step):
            self._require_running(why)
            self._plane.traps_over(why)

    def breakpoint(self, patch: Patch, *, step: str | None = None) -> None:
        """Store a breakpoint over the first byte of ``patch``."""
        if self.does(step) and patch.owned and not self._parked:
            self.covers_jumps = True
        self.store(patch.addr, INT3, f"{patch.reason}: breakpoint", step=step)

    def halt(self, patch: Patch, *, step: str | None = None) -> None:
        """Store a HLT over the first byte of ``patch``: user-mode code faults there (#GP).

        The handler is asked, as behind a breakpoint.
        """
        self.store(patch.addr, HLT, f"{patch.reason}: hlt", step=step)


def _address(addr: object) -> int:
    """Return ``addr``, which has to be an address.

    :raises InputError: it is none.
    """
    if isinstance(addr, int) and not isinstance(addr, bool):
        return addr
    raise InputError(f"addr={_shown(addr)}: no address; give a number, such as patch.addr + 1")


def _bytes(data: object) -> bytes:
    """Return ``data`` as bytes that do not change.

    :raises InputError: it is neither bytes nor a bytearray nor a memoryview.
    """
    if isinstance(data, bytes | bytearray):
        return bytes(data)
    if isinstance(data, memoryview):
        return cast("memoryview[int]", data).tobytes()
    raise InputError(rf"data={_shown(data)}: no bytes; give bytes, such as b'\xcc'")


def _size(size: object) -> int:
    """Return ``size``, which has to be a number of bytes.

    :raises InputError: it is none, or too high.
    """
    if isinstance(size, int) and 0 <= size <= COPY_MAX:
        return size
    raise InputError(f"read(): {_shown(size)} bytes; give a size from 0 to {COPY_MAX:,}")


def _require_pair(pair: object) -> None:
    """Require that ``pair`` is a pair of addresses.

    :raises InputError: it is none.
    """
    both = cast("Sequence[object]", pair) if isinstance(pair, tuple | list) else ()
    if list(map(type, both)) != [int, int]:
        raise InputError(
            f"freeze(): moves has {_shown(cast('object', pair))}; give pairs of addresses"
        )


def _guards(guards: object) -> tuple[bytes, ...]:
    """Return ``guards``, which has to be a sequence of jumps to themselves.

    :raises InputError: it is something else.
    """
    several = cast("Sequence[object]", guards) if isinstance(guards, Sequence) else [guards]
    return tuple(map(_guard, several))


def _shown(value: object) -> str:
    """Return ``value`` as a message shows it."""
    return printable(shortened(repr(value)))


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
    :ivar guards: the jumps to themselves that it puts over the first bytes of a site, at which CPUs
        wait until it stores others there.
    """

    name: str
    run: Run
    steps: Mapping[str, str]
    leaves: Callable[[bytes, bytes], bytes] | None = None
    guards: tuple[bytes, ...] = ()

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
@overload
def protocol(*, guards: Sequence[bytes], **steps: str) -> Callable[[Run], PatchProtocol]: ...
def protocol(run: Any = None, /, *, guards: Any = (), **steps: str) -> object:
    r"""Return a decorator that makes a protocol of a function.

    :param run: the function, where the decorator has no parentheses: a protocol without steps.
    :param guards: the jumps to themselves that the protocol puts over the first bytes of a site,
        such as ``[b"\xeb\xfe"]``: a CPU that fetches one waits there.
    :param steps: what each step is for, by name; ``_`` stands for ``-``.
    :raises InputError: what the decorator stands over is no function of a patcher and patches, or
        one of the guards is no jump to itself.
    """
    named = {name.replace("_", "-"): what for name, what in steps.items()}
    waits = _guards(guards)

    def make(run: Run) -> PatchProtocol:
        name = str(getattr(run, "__name__", "protocol"))
        _require_function(run, name)
        return PatchProtocol(name, run, named, guards=waits)

    return make if run is None else make(run)


def _guard(code: object) -> bytes:
    """Return ``code``, which has to be an instruction that jumps to itself.

    :raises InputError: it is something else.
    """
    if isinstance(code, bytes):
        insn = decode(code, 0)
        if insn is not None and insn.raw == code and onward(code, 0) == Onward(0, None):
            return code
    raise InputError(
        f"guards={_shown(code)}: no jump to itself; give the bytes of such"
        r" jumps, [b'\xeb\xfe']"
    )


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
