"""What calls that share data may leave with probes: what they leave without, in some order.

An order tells which task goes on at each access of shared memory, and
:mod:`engine.patching.baseline` finds all orders. Each has an :class:`Ending`: what each call has
left, and what is in memory. With probes the calls run in some order, too, so a schedule has to end
in one of these endings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import chain
from typing import Final, NamedTuple

from engine.patching.port_records import PatchFacts
from engine.patching.unprobed import CallOutcome
from engine.search.explorable import Violation, ViolationKind

__all__ = ("Ending", "Left", "Memory", "Orders", "add_call", "difference", "name_of")

Left = Mapping[int, tuple[bytes, ...]]
"""This map has the names (:func:`name_of`) of what each task's calls left, in their order.

Each task that has ended a call is in it.
"""
Memory = Mapping[int, bytes]
"""This map names the content of each span of data that differs from the start, by address."""
Content = Callable[[int], tuple[bytes, bytes]]
"""Such a function returns what a span of data held at the start, and what it holds now.

Its argument is the physical address of the span.
"""

_CONTENTS_MOST: Final = 4096
"""So many contents of memory are kept, to tell in which byte two endings differ.

Of other contents it is only told that they differ. The kept ones are small next to the machine's
memory, and orders with more endings than that are rare.
"""


class Ending(NamedTuple):
    """An ending is what calls and memory hold at the end of a schedule.

    :ivar calls: the names of what the calls of each task have left.
    :ivar memory: the names of the contents of memory that differ from the start.
    """

    calls: tuple[tuple[int, tuple[bytes, ...]], ...]
    memory: tuple[tuple[int, bytes], ...]


def name_of(outcome: CallOutcome) -> bytes:
    """Return a short name for what a call has left, which is the same in every process."""
    return blake2b(repr(outcome).encode(), digest_size=8).digest()


def add_call(left: Left, task: int, name: bytes) -> Left:
    """Return ``left`` with one more call of ``task``."""
    return {**left, task: (*left.get(task, ()), name)}


def difference(got: CallOutcome, want: CallOutcome, facts: PatchFacts) -> str:
    """Return the first part in which what a call has left differs from what an unprobed one leaves.

    :param got: what the call has left.
    :param want: what the unprobed call leaves.
    :param facts: the names of the parts.
    """
    for name, new, old in zip(facts.registers, got[0], want[0], strict=True):
        if new != old:
            return f"{name} = {new:#x}, without probes {old:#x}"
    different = (
        part for part, new, old in zip(facts.parts, got[1:], want[1:], strict=True) if new != old
    )
    return f"{next(different)} that differs from the unprobed run"


@dataclass(slots=True)
class Orders:
    """This record has all orders in which the calls of one experiment can meet.

    :ivar facts: the names of the parts of what calls leave.
    :ivar endings: the endings of the orders, as they were found.
    :ivar calls: by task and number of the call (from 0), what that call leaves in some order,
        by name.
    :ivar contents: the contents of some spans of memory, by name.
    :ivar points: the addresses of the instructions that touch memory which one task writes and
        another one uses.
    :ivar written: the physical spans that calls store to.
    :ivar schedules: how many schedules it took to find all orders.
    :ivar on_stacks: a task touches the stack of a task of another vCPU.
    """

    facts: PatchFacts
    endings: dict[Ending, None] = field(default_factory=dict[Ending, None])
    calls: dict[tuple[int, int], dict[bytes, CallOutcome]] = field(
        default_factory=dict[tuple[int, int], dict[bytes, CallOutcome]]
    )
    contents: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    points: frozenset[int] = frozenset()
    written: tuple[range, ...] = ()
    schedules: int = 0
    on_stacks: bool = False

    # Found by exploring them ----------------------------------------------------------------------

    def note_call(self, task: int, number: int, outcome: CallOutcome) -> bytes:
        """Note that call ``number`` (from 0) of ``task`` leaves ``outcome``; return its name."""
        name = name_of(outcome)
        self.calls.setdefault((task, number), {})[name] = outcome
        return name

    def note_end(self, left: Left, memory: Memory, content: Content) -> None:
        """Note the ending of an order.

        :param left: what the calls have left.
        :param memory: the names of the contents of memory that differ from the start.
        :param content: returns the content of a span of memory.
        """
        self.endings[_ending(left, memory)] = None
        for phys, name in memory.items():
            if name not in self.contents and len(self.contents) < _CONTENTS_MOST:
                _, self.contents[name] = content(phys)

    # Asked about schedules with probes ------------------------------------------------------------

    def check_call(
        self, call: tuple[int, int], addr: int, name: bytes, outcome: CallOutcome
    ) -> Violation | None:
        """Return a violation if no order has a call that leaves ``outcome``, or else None.

        :param call: the task, and the number of its call (from 0).
        :param addr: the address of the function that was called.
        :param name: the name of ``outcome``.
        """
        known = self.calls.get(call, {})
        if name in known:
            return None
        nearest = min(known.values(), key=lambda one: _distance(outcome, one), default=None)
        told = (
            "ended, which it does in no order without probes"
            if nearest is None
            else f"left {_told(outcome, nearest, self.facts)}"
        )
        text = f"{_call_named(*call)} {told}; no order of unprobed calls leaves that"
        return Violation(ViolationKind.WRONG_RESULT, call[0] // 2, addr, text)

    def check_end(
        self, left: Left, memory: Memory, content: Content, where: Callable[[int], str]
    ) -> Violation | None:
        """Return a violation if no order ends like this schedule with probes, or else None.

        :param where: returns the name of the memory at a physical address.
        """
        ending = _ending(left, memory)
        if ending in self.endings:
            return None
        nearest = min(self.endings, key=lambda one: sum(1 for _ in _differences(ending, one)))
        told = (
            f"{self._told(ending, nearest, content, where)} in the order of unprobed calls that"
            " comes nearest"
        )
        return Violation(
            ViolationKind.WRONG_RESULT,
            None,
            None,
            f"no order of unprobed calls ends like this: {told}",
        )

    def _told(
        self, ending: Ending, nearest: Ending, content: Content, where: Callable[[int], str]
    ) -> str:
        """Return a text on the first thing in which two endings differ."""
        kind, which = next(_differences(ending, nearest))
        if kind == "call":
            task, number = which
            known = self.calls[which]
            got, want = (
                dict(one.calls).get(task, ())[number : number + 1] for one in (ending, nearest)
            )
            if not got or not want:
                return (
                    f"{_call_named(task, number)} {'has' if got else 'has not'} ended; it"
                    f" {'has' if want else 'has not'}"
                )
            return (
                f"{_call_named(task, number)} left"
                f" {_told(known[got[0]], known[want[0]], self.facts)}"
            )
        phys = which[0]
        (then, now), names = content(phys), dict(nearest.memory)
        if phys in names:
            then = self.contents.get(names[phys])
        if then is None:
            return f"the memory at {where(phys)} differs from what it holds"
        at = next(at for at, (new, old) in enumerate(zip(now, then, strict=True)) if new != old)
        return f"the byte at {where(phys + at)} holds {now[at]:#04x}, and {then[at]:#04x}"


def _ending(left: Left, memory: Memory) -> Ending:
    return Ending(tuple(sorted(left.items())), tuple(sorted(memory.items())))


def _differences(one: Ending, other: Ending) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the calls and spans of memory in which two endings differ.

    A call is a task and a number; a span is its physical address, and 0.
    """
    first, second = dict(one.calls), dict(other.calls)
    for task in sorted({*first, *second}):
        mine, theirs = first.get(task, ()), second.get(task, ())
        for number in range(max(len(mine), len(theirs))):
            if mine[number : number + 1] != theirs[number : number + 1]:
                yield "call", (task, number)
    for phys in sorted({phys for phys, _ in {*one.memory} ^ {*other.memory}}):
        yield "memory", (phys, 0)


def _distance(one: CallOutcome, other: CallOutcome) -> int:
    """Return in how many registers and other parts two outcomes differ."""
    mine, theirs = chain(one[0], one[1:]), chain(other[0], other[1:])
    return sum(a != b for a, b in zip(mine, theirs, strict=False))


def _told(got: CallOutcome, want: CallOutcome, facts: PatchFacts) -> str:
    if got[4] != want[4]:
        return (
            f"{'no fault' if got[4] is None else got[4]}, without probes"
            f" {'none' if want[4] is None else want[4]}"
        )
    return difference(got, want, facts)


def _call_named(task: int, number: int) -> str:
    second = "'s second task" if task % 2 else ""
    return f"call {number + 1} of CPU {task // 2}{second}"
