"""This module runs the writer and the caller of ``optprobe litmus`` on two CPUs of this machine.

It answers to kernel/sched: each of two Python threads is bound to a CPU, and calls one native loop
(litmus_code.py), during which it does not hold the interpreter.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from time import sleep
from typing import Any, Final

from arch_x86.isa.constants import INT3, PAGE_SIZE
from arch_x86.lab.litmus_code import (
    COUNTERS_SIZE,
    EVENT_SIZE,
    FIELDS,
    LINE,
    NO_TURN,
    OPCODE_SIZE,
    SITES_SIZE,
    WIDTHS,
    Counters,
    Event,
    caller_code,
    cpuid_code,
    read_counters,
    read_events,
    repeated,
    site_at,
    site_code,
    writer_code,
)
from arch_x86.lab.litmus_memory import CodeMemory, code_memory
from engine.errors import EngineBug

__all__ = ("Loops", "Run", "Turns", "TwoThreads", "two_threads")

_EVENTS_MAX: Final = 16_384
_STEPS_MAX: Final = 1 << 26
"""A loop ends by itself after so many calls or stores, which takes a second or so."""

_SITES: Final = PAGE_SIZE
_SHARED: Final = _SITES + SITES_SIZE
_COUNTERS: Final = _SHARED + PAGE_SIZE // 2
_EVENTS: Final = _SHARED + PAGE_SIZE
_SIZE: Final = _EVENTS + _EVENTS_MAX * EVENT_SIZE
_CODE_ALIGNMENT: Final = 32


@dataclass(frozen=True, slots=True)
class Turns:
    """How long the caller stays at a site.

    :ivar calls: a turn ends after so many calls,
    :ivar overlapped: or after so many calls during which a store was published.
    """

    calls: int
    overlapped: int


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of the two loops has brought.

    :ivar counters: what the caller counted, by site.
    :ivar events: the calls that were not plain, by site.
    :ivar last: the number of the last site that the caller went to.
    """

    counters: list[Counters]
    events: list[list[Event]]
    last: int


class Loops:
    """The machine code of the writers and callers, and the memory that a run of them shares.

    The loops, the sites and the shared fields have pages of their own, so a processor that watches
    for stores to code by the page sees none but those to the sites.
    """

    def __init__(self, memory: CodeMemory) -> None:
        self._memory = memory
        self._end = 0
        self._cpuid = self._place(cpuid_code())
        self._writers = {width: self._place(writer_code(width)) for width in WIDTHS}
        self._callers = {
            (width, serialized): self._place(caller_code(width, serialized=serialized))
            for width in WIDTHS
            for serialized in (False, True)
        }

    def _place(self, code: bytes) -> int:
        """Put ``code`` behind the code that is there already, and return its offset."""
        at = self._end
        self._end = -(-(at + len(code)) // _CODE_ALIGNMENT) * _CODE_ALIGNMENT
        if self._end > PAGE_SIZE:
            raise EngineBug("the loops of litmus have outgrown their page")
        self._memory.write(at, code)
        return at

    @property
    def mappings(self) -> int:
        """The number of mappings of the memory; :class:`CodeMemory` has what they are."""
        return self._memory.mappings

    def cpuid(self, leaf: int) -> tuple[int, int, int, int]:
        """Return EAX, EBX, ECX and EDX behind CPUID with ``leaf`` in EAX, and 0 in ECX."""
        self._memory.call(self._cpuid, leaf, self._memory.written_at + _EVENTS)
        low, high = self._memory.word(_EVENTS), self._memory.word(_EVENTS + 8)
        return low & 0xFFFF_FFFF, low >> 32, high & 0xFFFF_FFFF, high >> 32

    def prepare(
        self,
        width: int,
        turns: Turns,
        *,
        last: int = LINE - 1,
        delays: int = 0,
        published: int = 0,
        calls: int = _STEPS_MAX,
        stores: int = _STEPS_MAX,
        code: bytes | None = None,
    ) -> None:
        """Write the sites and the fields for a run. No loop may be running.

        :param width: the width of the stores, in bytes.
        :param turns: how long the caller stays at a site.
        :param last: the number of the site in front of the one that the caller begins with.
        :param delays: the longest delay between stores; a power of two less one.
        :param published: the number of the store that stands as published when the run begins.
        :param calls: the caller ends at the end of a turn when it has made so many.
        :param stores: the writer ends when it has made so many.
        :param code: the code of each site, whose immediate is behind the first two bytes; None: an
            instruction with the immediate that the published store writes.
        """
        memory = self._memory
        memory.write(_SITES, bytes(INT3) * SITES_SIZE)
        for site in range(LINE):
            memory.write(
                _SITES + site_at(site) - OPCODE_SIZE,
                site_code(repeated(published, width)) if code is None else code,
            )
        memory.write(_SHARED, bytes(PAGE_SIZE))
        events = memory.written_at + _EVENTS
        for field, word in (
            (FIELDS.published, published),
            (FIELDS.turn, last),
            (FIELDS.acknowledged, NO_TURN),
            (FIELDS.targets, memory.written_at + _SITES + site_at(0)),
            (FIELDS.delays, delays),
            (FIELDS.stores_max, published + stores),
            (FIELDS.sites, memory.run_at + _SITES + site_at(0) - OPCODE_SIZE),
            (FIELDS.events, events),
            (FIELDS.events_end, events + _EVENTS_MAX * EVENT_SIZE),
            (FIELDS.calls_left, calls),
            (FIELDS.turn_calls, turns.calls),
            (FIELDS.turn_overlapped, turns.overlapped),
            (FIELDS.counters, memory.written_at + _COUNTERS),
        ):
            memory.write_word(_SHARED + field, word)

    def immediate(self, site: int) -> bytes:
        """Return the 8 bytes of the immediate of ``site``, as they stand in memory."""
        at = _SITES + site_at(site)
        return bytes(self._memory.bytes[at : at + 8])

    def acknowledge(self, site: int) -> None:
        """Acknowledge the caller's turn at ``site``, as the writer does."""
        self._memory.write_word(_SHARED + FIELDS.acknowledged, site)

    def run_writer(self, width: int) -> None:
        """Run the writer's loop until it is stopped, or has made its last store."""
        self._memory.call(self._writers[width], self._memory.written_at + _SHARED)

    def run_caller(self, width: int, *, serialized: bool) -> None:
        """Run the caller's loop until it is stopped, or has made its last call."""
        loop = self._callers[width, serialized]
        self._memory.call(loop, self._memory.written_at + _SHARED)

    def stop(self) -> None:
        """Stop both loops."""
        self._memory.write_word(_SHARED + FIELDS.stop, 1)

    def outcome(self) -> Run:
        """Return what the last run has brought. No loop may be running.

        :raises EngineBug: the counts of the caller's loop do not add up.
        """
        memory = self._memory
        end = memory.word(_SHARED + FIELDS.events) - memory.written_at
        events: list[list[Event]] = [[] for _ in range(LINE)]
        for event in read_events(bytes(memory.bytes[_EVENTS:end])):
            events[event.site].append(event)
        counters = read_counters(bytes(memory.bytes[_COUNTERS : _COUNTERS + COUNTERS_SIZE]))
        for site, (one, made) in enumerate(zip(counters, events, strict=True)):
            if one.plain + len(made) != one.calls:
                raise EngineBug(
                    f"at site {site} {one.plain} plain calls and {len(made)} events are not"
                    f" {one.calls} calls"
                )
        return Run(counters, events, memory.word(_SHARED + FIELDS.turn))


class TwoThreads:
    """Two threads, each bound to a CPU where the system allows that, that run the loops.

    :ivar loops: the loops.
    :ivar cpus: the numbers of the CPUs of the writer and of the caller; None: the system chooses.
    """

    def __init__(
        self,
        loops: Loops,
        cpus: tuple[int, int],
        writer: ThreadPoolExecutor,
        caller: ThreadPoolExecutor,
    ) -> None:
        self.loops = loops
        self._writer, self._caller = writer, caller
        bound = [
            pool.submit(_bind, cpu).result()
            for pool, cpu in zip((writer, caller), cpus, strict=True)
        ]
        self.cpus = cpus if all(bound) else None

    def run(
        self,
        width: int,
        turns: Turns,
        *,
        serialized: bool,
        delays: int,
        last: int,
        seconds: float,
    ) -> Run:
        """Run both loops for about ``seconds`` seconds, and return what came of it.

        :param width: the width of the stores, in bytes.
        :param turns: how long the caller stays at a site.
        :param serialized: the caller executes CPUID in front of each call.
        :param delays: the longest delay between stores; a power of two less one.
        :param last: the number of the site in front of the one that the caller begins with.
        :raises KeyboardInterrupt: Ctrl-C; both loops have been stopped.
        """
        loops = self.loops
        loops.prepare(width, turns, delays=delays, last=last)
        running: list[Future[None]] = []
        try:
            running.append(self._caller.submit(loops.run_caller, width, serialized=serialized))
            running.append(self._writer.submit(loops.run_writer, width))
            sleep(seconds)
        finally:
            loops.stop()
            wait(running)
        for one in running:
            one.result()
        return loops.outcome()


@contextmanager
def two_threads(cpus: tuple[int, int]) -> Generator[TwoThreads]:
    """Map the memory, start the threads, and end both in the end.

    :param cpus: the CPUs of the writer and of the caller.
    :raises InputError: there is no memory that can be written and executed.
    """
    with (
        code_memory(_SIZE) as memory,
        ThreadPoolExecutor(1, "litmus-writer") as writer,
        ThreadPoolExecutor(1, "litmus-caller") as caller,
    ):
        loops = Loops(memory)
        try:
            yield TwoThreads(loops, cpus, writer, caller)
        finally:
            loops.stop()


def _bind(cpu: int) -> bool:
    """Bind this thread to ``cpu``, and return whether the system allows that."""
    bind: Callable[[int, set[int]], Any] | None = getattr(os, "sched_setaffinity", None)
    if bind is None:
        return False
    try:
        bind(0, {cpu})
    except OSError:
        return False
    return True
