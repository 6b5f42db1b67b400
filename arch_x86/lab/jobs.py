"""``verify`` over several processes. Results come back in the order of the sites, whatever ``jobs`` is."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeAlias

from arch_x86.emu.fault import GuestFault
from arch_x86.emu.uc import UcPool
from arch_x86.lab.run import ExecOptions
from arch_x86.lab.verify import Failure, Sweep, Verifier
from engine.errors import OptprobeError, WorkerDied
from engine.image import Image
from engine.report.terminal import count
from engine.syntax.arguments import Argument

__all__ = ("VerifyResult", "verify_image")

Report: TypeAlias = Callable[[int, int, str], None]
Pipe: TypeAlias = "Connection[Any, Any]"
_Checked: TypeAlias = tuple[int, list[Failure]]
"""Runs and failures of one site."""


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What ``verify`` answers. ``fault``: the unprobed call itself died."""

    sites: int
    runs: int
    failures: tuple[Failure, ...]
    instructions: int
    fault: GuestFault | None = None

    @property
    def good(self) -> bool:
        """No failure, the unprobed call ended well, and at least one site was checked."""
        return not self.failures and self.fault is None and self.sites > 0

    def to_json(self) -> dict[str, object]:
        """The document of ``optprobe verify --json``."""
        return {
            "schema": 1,
            "verdict": "good" if self.good else "bad",
            "sites": self.sites,
            "runs": self.runs,
            "failures": [failure.to_json() for failure in self.failures],
            "fault": self.fault.to_json() if self.fault else None,
        }


@dataclass(frozen=True, slots=True)
class _Call:
    """What a worker process has to know."""

    image: Image
    symbol: str
    arguments: tuple[Argument, ...]
    options: ExecOptions
    sweep: Sweep


def _silent(_done: int, _total: int, _note: str) -> None:
    """No progress report."""


def verify_image(
    image: Image,
    symbol: str,
    arguments: Sequence[Argument] = (),
    *,
    sweep: Sweep,
    options: ExecOptions | None = None,
    jobs: int = 1,
    pool: UcPool | None = None,
    progress: Report | None = None,
) -> VerifyResult:
    """Check every site of a call.

    :param jobs: processes; 1 works in this one.
    :param pool: emulator instances to reuse in this process.
    :param progress: called as ``progress(done, total, note)``, of instructions first and then of sites, as the note says.
    :raises InputError: no such function, or arguments that do not fit.
    """
    options = options or ExecOptions()
    report = progress or _silent
    with closing(
        Verifier(
            image,
            symbol,
            arguments,
            options=options,
            pool=pool,
            progress=lambda done, total: report(done, total, "instructions of the unprobed call"),
        )
    ) as verifier:
        golden = verifier.golden
        if golden.fault is not None:
            return VerifyResult(0, 0, (), golden.instructions, golden.fault)
        sites = verifier.sites()
        if jobs == 1 or len(sites) < 2:
            failures = _check_here(verifier, sites, sweep, report)
            return VerifyResult(len(sites), verifier.runs, tuple(failures), golden.instructions)
    call = _Call(image, symbol, tuple(arguments), options, sweep)
    results = _check_elsewhere(call, sites, min(jobs, len(sites)), report)
    runs = sum(number for number, _ in results)
    ordered = tuple(failure for _, found in results for failure in found)
    return VerifyResult(len(sites), runs, ordered, golden.instructions)


def _check_here(verifier: Verifier, sites: Sequence[int], sweep: Sweep, report: Report) -> list[Failure]:
    failures: list[Failure] = []
    for number, addr in enumerate(sites):
        found = count(len(failures), "failure")
        report(number, len(sites), f"sites, {found}")

        def within(done: int, total: int, *, site: int = number, found: str = found) -> None:
            report(site, len(sites), f"sites, {found}, interrupt {done} of {total}")

        failures.extend(verifier.check_site(addr, sweep, within))
    report(len(sites), len(sites), f"sites, {count(len(failures), 'failure')}")
    return failures


# Worker processes -----------------------------------------------------------------------------------------------------


def _work(pipe: Pipe, call: _Call) -> None:
    """A worker: addresses of sites in, runs and failures out, until nobody asks any more."""
    with suppress(EOFError, OSError, MemoryError):  # whoever asked has gone, or learns by the end of this process
        try:
            with closing(Verifier(call.image, call.symbol, call.arguments, options=call.options)) as verifier:
                while True:
                    addr: int = pipe.recv()
                    before = verifier.runs
                    failures = list(verifier.check_site(addr, call.sweep))
                    pipe.send((verifier.runs - before, failures))
        except OptprobeError as error:
            pipe.send(error)


def _check_elsewhere(call: _Call, sites: Sequence[int], jobs: int, report: Report) -> list[_Checked]:
    """What each site came to, in their order. Whatever ends this early, Ctrl-C for one, ends the workers at once."""
    results: dict[int, _Checked] = {}
    waiting = deque(range(len(sites)))
    busy: dict[Pipe, int] = {}
    workers = _Workers(call)
    failures = 0
    report(0, len(sites), "sites")
    try:
        for _ in range(jobs):
            pipe = workers.start()
            busy[pipe] = waiting.popleft()
            pipe.send(sites[busy[pipe]])
        while busy:
            for pipe in wait(list(busy)):
                assert isinstance(pipe, Connection)
                answer = _receive(pipe)
                results[busy.pop(pipe)] = answer
                failures += len(answer[1])
                report(len(results), len(sites), f"sites, {count(failures, 'failure')}")
                if waiting:
                    busy[pipe] = waiting.popleft()
                    pipe.send(sites[busy[pipe]])
    except (EOFError, OSError):
        raise WorkerDied("a worker process died, perhaps for lack of memory; use fewer --jobs") from None
    finally:
        workers.end()
    return [results[index] for index in range(len(sites))]


def _receive(pipe: Pipe) -> _Checked:
    answer: _Checked | OptprobeError = pipe.recv()
    if isinstance(answer, OptprobeError):
        raise answer
    return answer


class _Workers:
    """Processes that :func:`_work`. Not an executor of the standard library: those can't be ended in the middle of a task."""

    def __init__(self, call: _Call) -> None:
        self._call = call
        self._context = multiprocessing.get_context("spawn")
        resource_tracker.ensure_running()  # starting it clears SIGINT from the signal mask, which start() relies on
        self._running: list[tuple[Pipe, SpawnProcess]] = []

    def start(self) -> Pipe:
        """One more; returns our end of its pipe."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, self._call), daemon=True)
        # A terminal sends Ctrl-C to all of its processes, but who started a worker ends it: it inherits the mask.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
            self._running.append((ours, process))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        return ours

    def end(self) -> None:
        """End all of them."""
        for _, process in self._running:
            process.terminate()
        for pipe, process in self._running:
            process.join()
            pipe.close()
