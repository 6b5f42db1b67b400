"""``verify`` over several processes. Results come back in the order of the sites, whatever ``jobs`` is."""

from __future__ import annotations

import multiprocessing
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
from engine import defaults
from engine.brief import described, shortened
from engine.ctrl_c import blocked
from engine.errors import OptprobeError, WorkerDied, error_text
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
    """What ``verify`` answers.

    :ivar sites: those that were checked, of ``total``. ``fault``: the unprobed call itself died.
    :ivar interrupted: Ctrl-C ended it before all sites were checked, or that a process had died, which is ``died``. What was found by
        then is here.
    """

    sites: int
    runs: int
    failures: tuple[Failure, ...]
    instructions: int
    fault: GuestFault | None = None
    total: int = 0
    interrupted: bool = False
    died: WorkerDied | None = None

    def __repr__(self) -> str:
        died = "" if self.fault is None else f"{self.fault.kind} at {shortened(self.fault.place)} without a probe"
        counts = (count(self.sites, "site"), count(self.runs, "run"), count(len(self.failures), "failure"))
        return described(self, "good" if self.good else "bad", *counts, died)

    @property
    def good(self) -> bool:
        """No failure, the unprobed call ended well, and all sites were checked, of which there is at least one."""
        return self.verdict == "good"

    @property
    def verdict(self) -> str:
        """``good`` or ``bad``; ``nothing-found`` where it was cut off, and no site that was checked is bad."""
        if self.failures or self.fault is not None:
            return "bad"
        if self.interrupted:
            return "nothing-found"
        return "good" if self.sites > 0 else "bad"

    def to_json(self) -> dict[str, object]:
        """The document of ``optprobe verify --json``."""
        document: dict[str, object] = {
            "schema": 1,
            "verdict": self.verdict,
            "sites": self.sites,
            "runs": self.runs,
            "failures": [failure.to_json() for failure in self.failures],
            "fault": self.fault.to_json() if self.fault else None,
        }
        return document | {"interrupted": True} if self.interrupted else document


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
    jobs: int = defaults.JOBS,
    pool: UcPool | None = None,
    progress: Report | None = None,
) -> VerifyResult:
    """Check every site of a call. Ctrl-C, or the death of a process, while sites are checked leaves what was found so far.

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
        sweeping = _Sweeping(len(sites), golden.instructions, report)
        if jobs == 1 or len(sites) < 2:
            return sweeping.result(lambda: _check_here(verifier, sites, sweep, sweeping))
    call = _Call(image, symbol, tuple(arguments), options, sweep)
    return sweeping.result(lambda: _check_elsewhere(call, sites, min(jobs, len(sites)), sweeping))


class _Sweeping:
    """What the sites have come to so far.

    :ivar failures: of each site by its number, those of sites that are not done yet, too. ``done``: the sites that are.
    """

    def __init__(self, total: int, instructions: int, report: Report) -> None:
        self._total = total
        self._instructions = instructions
        self._report = report
        self.failures: dict[int, list[Failure]] = {}
        self.done = 0
        self.runs = 0

    def report(self, note: str = "") -> None:
        """Sites done, and failures found."""
        self._report(self.done, self._total, f"sites, {count(sum(map(len, self.failures.values())), 'failure')}{note}")

    def result(self, check: Callable[[], None]) -> VerifyResult:
        """What there is when ``check`` ends, however it does."""
        interrupted, died = False, None
        try:
            check()
        except KeyboardInterrupt:
            interrupted = self.done < self._total
        except WorkerDied as error:  # what the others have found by now is told
            interrupted, died = True, error
        found = tuple(failure for number in sorted(self.failures) for failure in self.failures[number])
        return VerifyResult(
            self.done, self.runs, found, self._instructions, total=self._total, interrupted=interrupted, died=died
        )  # fmt: skip


def _check_here(verifier: Verifier, sites: Sequence[int], sweep: Sweep, sweeping: _Sweeping) -> None:
    for number, addr in enumerate(sites):
        found = sweeping.failures[number] = []
        sweeping.report()
        for failure in verifier.check_site(addr, sweep, lambda done, total: sweeping.report(f", interrupt {done} of {total}")):
            found.append(failure)
            sweeping.runs = verifier.runs
        sweeping.runs = verifier.runs
        sweeping.done += 1
    sweeping.report()


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


def _check_elsewhere(call: _Call, sites: Sequence[int], jobs: int, sweeping: _Sweeping) -> None:
    """Whatever ends this early, Ctrl-C for one, ends the workers at once.

    :raises WorkerDied: a process ended without a result.
    """
    waiting = deque(range(len(sites)))
    busy: dict[Pipe, int] = {}
    workers = _Workers(call)
    sweeping.report()
    try:
        for _ in range(jobs):
            pipe = workers.start()
            busy[pipe] = waiting.popleft()
            pipe.send(sites[busy[pipe]])
        while busy:
            for pipe in wait(list(busy)):
                assert isinstance(pipe, Connection)
                runs, sweeping.failures[busy.pop(pipe)] = _receive(pipe)
                sweeping.runs += runs
                sweeping.done += 1
                sweeping.report()
                if waiting:
                    busy[pipe] = waiting.popleft()
                    pipe.send(sites[busy[pipe]])
    except (EOFError, OSError):
        raise WorkerDied("a worker process died, perhaps for lack of memory; use fewer --jobs") from None
    finally:
        workers.end()


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
        try:
            with blocked():
                process.start()
                self._running.append((ours, process))
        except OSError as error:
            raise WorkerDied(f"cannot start a process: {error_text(error)}; use fewer --jobs") from None
        theirs.close()
        return ours

    def end(self) -> None:
        """End all of them."""
        for _, process in self._running:
            process.terminate()
        for pipe, process in self._running:
            process.join()
            pipe.close()
