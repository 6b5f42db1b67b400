"""This module runs ``verify`` over several processes; no kernel file answers to it.

The failures come back in the order of the sites, whatever ``jobs`` is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TypeAlias

from arch_x86.emu.fault import GuestFault
from arch_x86.emu.uc import UcPool
from arch_x86.lab.run import ExecOptions
from arch_x86.lab.verify import Failure, Sweep, Verifier
from engine import defaults
from engine.brief import described, shortened
from engine.errors import WorkerDied
from engine.image import Image
from engine.process_pool import ProcessPool
from engine.report.terminal import count
from engine.syntax.arguments import Argument

__all__ = ("VerifyResult", "verify_image")

Report: TypeAlias = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """This record is what ``verify`` answers.

    :ivar sites: how many sites were checked, of ``total``.
    :ivar runs: how many runs of the call were compared.
    :ivar failures: the runs that went wrong, by site.
    :ivar instructions: how many instructions the unprobed call retires.
    :ivar fault: the fault in which the unprobed call ended; no site is checked then.
    :ivar interrupted: True when Ctrl-C, or the death of a process, ended it before all sites were
        checked. The record has what was found by then.
    :ivar died: the death of a process, or None.
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
        died = (
            ""
            if self.fault is None
            else f"{self.fault.kind} at {shortened(self.fault.place)} without a probe"
        )
        counts = (
            count(self.sites, "site"),
            count(self.runs, "run"),
            count(len(self.failures), "failure"),
        )
        return described(self, "good" if self.good else "bad", *counts, died)

    @property
    def good(self) -> bool:
        """Return True when all sites were checked without a failure, and there is at least one.

        The unprobed call must have ended well, too.
        """
        return self.verdict == "good"

    @property
    def verdict(self) -> str:
        """Return ``good``, ``bad``, or ``nothing-found``.

        The last one is for a search that was cut off before any failure was found.
        """
        if self.failures or self.fault is not None:
            return "bad"
        if self.interrupted:
            return "nothing-found"
        return "good" if self.sites > 0 else "bad"

    def to_json(self) -> dict[str, object]:
        """Return the document of ``optprobe verify --json``."""
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
    """This record has what a worker process needs to know."""

    image: Image
    symbol: str
    arguments: tuple[Argument, ...]
    options: ExecOptions
    sweep: Sweep
    one_by_one: bool

    def verifier(self) -> Verifier:
        """Return the verifier of a worker process."""
        return Verifier(
            self.image,
            self.symbol,
            self.arguments,
            options=self.options,
            one_by_one=self.one_by_one,
        )

    def check_site(self, verifier: Verifier, addr: int) -> tuple[int, list[Failure]]:
        """Return how many runs a site took, and its failures."""
        before = verifier.runs
        failures = list(verifier.check_site(addr, self.sweep))
        return verifier.runs - before, failures


def _silent(_done: int, _total: int, _note: str) -> None:
    """Report no progress."""


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
    one_by_one: bool = False,
) -> VerifyResult:
    """Check every site of a call, and return what was found.

    Ctrl-C, or the death of a process, while sites are checked leaves what was found so far.

    :param symbol: the function to call, by name or address.
    :param arguments: what it is called with.
    :param sweep: where interrupts come.
    :param jobs: the number of processes; with 1 the work is done in this process.
    :param pool: emulator instances to reuse in this process.
    :param progress: is called as ``progress(done, total, note)``, with counts of instructions first
        and then of sites, as the note says.
    :param one_by_one: make one run for each interrupt, which is slow and finds the same.
    :raises InputError: there is no such function, or the arguments do not fit.
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
            one_by_one=one_by_one,
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
    call = _Call(image, symbol, tuple(arguments), options, sweep, one_by_one)
    return sweeping.result(lambda: _check_elsewhere(call, sites, min(jobs, len(sites)), sweeping))


class _Sweeping:
    """This class keeps what has been found so far.

    :ivar failures: the failures by the number of their site, also of sites that are not done yet.
    :ivar done: how many sites are done.
    :ivar runs: how many runs of the call were compared.
    """

    def __init__(self, total: int, instructions: int, report: Report) -> None:
        self._total = total
        self._instructions = instructions
        self._report = report
        self.failures: dict[int, list[Failure]] = {}
        self.done = 0
        self.runs = 0

    def report(self, note: str = "") -> None:
        """Report how many sites are done, and how many failures there are."""
        self._report(
            self.done,
            self._total,
            f"sites, {count(sum(map(len, self.failures.values())), 'failure')}{note}",
        )

    def result(self, check: Callable[[], None]) -> VerifyResult:
        """Run ``check``, and return what was found when it ends, in whatever way."""
        interrupted, died = False, None
        try:
            check()
        except KeyboardInterrupt:
            interrupted = self.done < self._total
        except WorkerDied as error:  # What the other processes have found by now is kept.
            interrupted, died = True, error
        found = tuple(
            failure for number in sorted(self.failures) for failure in self.failures[number]
        )
        return VerifyResult(
            self.done,
            self.runs,
            found,
            self._instructions,
            total=self._total,
            interrupted=interrupted,
            died=died,
        )


def _check_here(
    verifier: Verifier, sites: Sequence[int], sweep: Sweep, sweeping: _Sweeping
) -> None:
    for number, addr in enumerate(sites):
        found = sweeping.failures[number] = []
        sweeping.report()
        for failure in verifier.check_site(
            addr, sweep, lambda done, total: sweeping.report(f", interrupt {done} of {total}")
        ):
            found.append(failure)
            sweeping.runs = verifier.runs
        sweeping.runs = verifier.runs
        sweeping.done += 1
    sweeping.report()


def _check_elsewhere(call: _Call, sites: Sequence[int], jobs: int, sweeping: _Sweeping) -> None:
    sweeping.report()
    with ProcessPool(call.verifier, call.check_site, jobs) as workers:
        for number, (runs, failures) in workers.as_they_come(sites):
            sweeping.failures[number] = failures
            sweeping.runs += runs
            sweeping.done += 1
            sweeping.report()
