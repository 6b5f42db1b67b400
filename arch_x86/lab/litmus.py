"""This module is ``optprobe litmus``: what this machine's processor fetches of code being stored.

It answers to the SDM, volume 3, "Handling Self- and Cross-Modifying Code", which leaves open what a
CPU executes while another CPU stores to its code. docs/litmus.md explains what is measured.
"""

from __future__ import annotations

import faulthandler
import os
import platform
import struct
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle, product
from time import monotonic
from typing import Final

from arch_x86.lab.litmus_code import LINE, WIDTHS
from arch_x86.lab.litmus_threads import Loops, Turns, TwoThreads, two_threads
from arch_x86.lab.litmus_verdict import MODELS, Cell, Model, strongest, sums
from engine.ctrl_c import blocked
from engine.errors import InputError

__all__ = ("LitmusResult", "Processor", "cpu_pair", "run_litmus")

_DELAYS: Final = (63, 16_383)
"""The longest delays between stores, in iterations of a loop of two instructions.

Short delays tear most. With long ones fewer than 256 stores come while a caller serializes, even if
CPUID leaves a virtual machine, so a byte tells the age of its store.
"""
_TURNS: Final = {False: Turns(calls=65_536, overlapped=256), True: Turns(calls=64, overlapped=16)}
"""How long the caller stays at a site, by whether it serializes: some tenths of a millisecond."""
_RUN_SECONDS: Final = 0.04
"""The time of one run of the loops. Where CPUs are busy, threads wait some milliseconds until they
begin and end. In a longer run Ctrl-C would wait.
"""
_64_BIT: Final = 8


@dataclass(slots=True)
class _Setting:
    """What is the same in a run of the loops at all sites.

    :ivar cells: the counts, by site.
    :ivar last: the number of the last site that the caller went to.
    """

    width: int
    serialized: bool
    delays: int
    cells: Sequence[Cell]
    last: int = LINE - 1


@dataclass(frozen=True, slots=True)
class Processor:
    """What CPUID says of the processor (SDM volume 2, CPUID; AMD's manual, volume 3, appendix E).

    :ivar vendor: 12 characters, such as ``GenuineIntel``.
    :ivar family: the family, the extended family included.
    :ivar model: the model, the extended model included.
    :ivar hypervisor: a hypervisor says that it is there.
    """

    vendor: str
    family: int
    model: int
    hypervisor: bool


@dataclass(frozen=True, slots=True)
class LitmusResult:
    """What was measured.

    :ivar processor: the processor.
    :ivar cpus: the numbers of the CPUs of the writer and of the caller; None: the system chose.
    :ivar mappings: 1: the code was stored to through the mapping that was executed; 2: through
        another one.
    :ivar seconds: how long the measurement took.
    :ivar cells: the counts, by width, offset and whether the caller serialized.
    :ivar interrupted: Ctrl-C has ended the measurement before it was done.
    """

    processor: Processor
    cpus: tuple[int, int] | None
    mappings: int
    seconds: float
    cells: tuple[Cell, ...]
    interrupted: bool

    def objections(self) -> list[tuple[Model, str | None]]:
        """Return each model, the strongest first, with what was seen that it does not allow."""
        return [(model, model.objection(self.cells)) for model in MODELS]

    @property
    def strongest(self) -> str | None:
        """The name of the strongest model that allows all that was seen; None: no model does."""
        model = strongest(self.cells)
        return None if model is None else model.name

    @property
    def not_overlapped(self) -> int:
        """The number of cells in which no call overlapped a store, so that nothing is shown."""
        return sum(not cell.overlapped for cell in self.cells)

    def to_json(self) -> dict[str, object]:
        """Return the document of ``optprobe litmus --json``; docs/json.md explains it."""
        return {
            "schema": 1,
            "interrupted": self.interrupted,
            "processor": {
                "vendor": self.processor.vendor,
                "family": self.processor.family,
                "model": self.processor.model,
                "hypervisor": self.processor.hypervisor,
            },
            "cpus": None if self.cpus is None else list(self.cpus),
            "mappings": self.mappings,
            "seconds": round(self.seconds, 3),
            "not_overlapped": self.not_overlapped,
            **sums(self.cells).to_json(),
            "models": [
                {"name": model.name, "allows": objection is None, "objection": objection}
                for model, objection in self.objections()
            ],
            "strongest": self.strongest,
            "cells": [cell.to_json() for cell in self.cells],
        }


def run_litmus(
    seconds: int, progress: Callable[[int, int], None] = lambda _done, _total: None
) -> LitmusResult:
    """Measure for about ``seconds`` seconds.

    :param progress: is called with the number of seconds that are over, and of all.
    :raises InputError: this machine can't be measured: another processor architecture, one CPU, no
        memory that can be executed, or two threads that did not run at the same time.
    :raises KeyboardInterrupt: Ctrl-C came before anything was measured.
    """
    began = monotonic()
    cpus = _cpus_to_use()
    cells = [
        Cell(width, offset, serialized)
        for width, serialized, offset in product(WIDTHS, (False, True), range(LINE))
    ]
    interrupted = False
    with _faults_are_printed(), two_threads(cpus) as threads:
        processor = _processor(threads.loops)
        try:
            for done, total in _measure(threads, _settings(cells), seconds):
                progress(done, total)
        except KeyboardInterrupt:
            interrupted = True
    counted = sums(cells)
    if interrupted and not counted.calls:
        raise KeyboardInterrupt
    if not interrupted and not counted.overlapped:
        raise InputError(
            "litmus: the two threads never ran at the same time; give the process two CPUs that are"
            " not busy with something else, or more --seconds"
        )
    return LitmusResult(
        processor,
        threads.cpus,
        threads.loops.mappings,
        monotonic() - began,
        tuple(cells),
        interrupted,
    )


def _settings(cells: Sequence[Cell]) -> list[_Setting]:
    """Return the settings in which to run the loops, each with its part of ``cells``."""
    return [
        _Setting(
            width,
            serialized,
            delays,
            [cell for cell in cells if (cell.width, cell.serialized) == (width, serialized)],
        )
        for delays, width, serialized in product(_DELAYS, WIDTHS, (False, True))
    ]


def _measure(
    threads: TwoThreads, settings: Sequence[_Setting], seconds: float
) -> Iterator[tuple[int, int]]:
    """Run the loops in each setting in turn, and count into the cells, until the time is over.

    :returns: behind each run, how many whole seconds are over, and of how many.
    """
    began = monotonic()
    each = min(_RUN_SECONDS, seconds / (2 * len(settings)))
    for setting in cycle(settings):
        over = monotonic() - began
        if over >= seconds:
            return
        run = threads.run(
            setting.width,
            _TURNS[setting.serialized],
            serialized=setting.serialized,
            delays=setting.delays,
            last=setting.last,
            seconds=each,
        )
        with blocked():  # Ctrl-C in the middle would leave counts that do not add up.
            setting.last = run.last
            for cell, counters, events in zip(setting.cells, run.counters, run.events, strict=True):
                cell.add(counters, events)
        yield min(int(over + each), int(seconds)), int(seconds)


def _cpus_to_use() -> tuple[int, int]:
    """Return the CPUs of the writer and the caller.

    :raises InputError: this is no x86-64 process, or it has one CPU only.
    """
    machine = platform.machine()
    if machine.lower() not in ("x86_64", "amd64") or struct.calcsize("P") != _64_BIT:
        raise InputError(
            f"litmus: this processor is {machine or 'unknown'}, or this Python is not a 64-bit one;"
            " run it by a 64-bit Python on an x86-64 processor"
        )
    if os.name != "posix":
        raise InputError(
            f"litmus: {platform.system()} has no mmap as Linux has it; run it on Linux"
        )
    return cpu_pair(_allowed_cpus())


def _allowed_cpus() -> set[int]:
    """Return the numbers of the CPUs that this process may use, as far as the system tells."""
    allowed: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return set(range(os.cpu_count() or 1)) if allowed is None else allowed(0)


def cpu_pair(allowed: set[int]) -> tuple[int, int]:
    """Return the two CPUs to use: the first and the last, which share no core if others are there.

    :param allowed: the numbers of the CPUs that the process may use.
    :raises InputError: there are fewer than two.
    """
    if len(allowed) < 2:
        raise InputError(
            "litmus: this process may use one CPU only, where a switch between two threads"
            " serializes each time; give it two (taskset, docker --cpuset-cpus)"
        )
    return min(allowed), max(allowed)


def _processor(loops: Loops) -> Processor:
    """Ask CPUID for the processor."""
    _, ebx, ecx, edx = loops.cpuid(0)
    vendor = struct.pack("<III", ebx, edx, ecx).decode("ascii", errors="backslashreplace")
    eax, _, features, _ = loops.cpuid(1)
    family, model = eax >> 8 & 0xF, eax >> 4 & 0xF
    if family in (0x6, 0xF):
        model |= eax >> 12 & 0xF0
    if family == 0xF:
        family += eax >> 20 & 0xFF
    return Processor(vendor, family, model, hypervisor=bool(features >> 31))


@contextmanager
def _faults_are_printed() -> Generator[None]:
    """Print a line and a stack on standard error if the processor faults in the loops.

    No fault is expected, since each mixture of old and new bytes is a valid instruction; if there
    is one it ends the process, but not without a word.
    """
    ours = False
    if not faulthandler.is_enabled() and sys.__stderr__ is not None:
        with suppress(OSError, ValueError):  # Standard error may be closed.
            faulthandler.enable(sys.__stderr__)
            ours = True
    try:
        yield
    finally:
        if ours:
            faulthandler.disable()
