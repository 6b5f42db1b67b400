"""``verify`` over several processes. The sites are cut into pieces; results come back in the order of the sites, whatever ``jobs`` is."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass

from arch_x86.emu.uc import UcPool
from arch_x86.lab.run import ExecOptions
from arch_x86.lab.verify import Failure, Sweep, Verifier
from engine.arguments import Argument
from engine.image import Image

__all__ = ("VerifyResult", "verify_image")

_PIECES_PER_JOB = 8


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What ``verify`` answers. ``golden_fault``: the unprobed call itself died."""

    sites: int
    runs: int
    failures: tuple[Failure, ...]
    instructions: int
    golden_fault: str | None = None

    @property
    def good(self) -> bool:
        """No failure, the unprobed call ended well, and at least one site was checked."""
        return not self.failures and self.golden_fault is None and self.sites > 0

    def to_json(self) -> dict[str, object]:
        """The document of ``optprobe verify --json``."""
        return {
            "schema": 1,
            "verdict": "good" if self.good else "bad",
            "sites": self.sites,
            "runs": self.runs,
            "failures": [failure.to_json() for failure in self.failures],
        }


@dataclass(frozen=True, slots=True)
class _Piece:
    image: Image
    symbol: str
    arguments: tuple[Argument, ...]
    options: ExecOptions
    sweep: Sweep
    sites: tuple[int, ...]


def _check_piece(piece: _Piece) -> tuple[int, list[Failure]]:
    with closing(Verifier(piece.image, piece.symbol, piece.arguments, options=piece.options)) as verifier:
        failures = [failure for addr in piece.sites for failure in verifier.check_site(addr, piece.sweep)]
        return verifier.runs, failures


def _silent(_done: int, _total: int, _failures: int) -> None:
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
    progress: Callable[[int, int, int], None] | None = None,
) -> VerifyResult:
    """Check every site of a call.

    :param jobs: processes; 1 works in this one.
    :param pool: emulator instances to reuse in this process.
    :param progress: called as ``progress(sites done, sites in all, failures)``.
    :raises InputError: no such function, or arguments that do not fit.
    """
    options = options or ExecOptions()
    report = progress or _silent
    with closing(Verifier(image, symbol, arguments, options=options, pool=pool)) as verifier:
        golden = verifier.golden
        if golden.fault is not None:
            return VerifyResult(0, 0, (), golden.instructions, golden.fault)
        sites = verifier.sites()
        if jobs == 1 or len(sites) < 2:
            failures: list[Failure] = []
            for done, addr in enumerate(sites):
                report(done, len(sites), len(failures))
                failures.extend(verifier.check_site(addr, sweep))
            report(len(sites), len(sites), len(failures))
            return VerifyResult(len(sites), verifier.runs, tuple(failures), golden.instructions)
    size = max(1, -(-len(sites) // (jobs * _PIECES_PER_JOB)))
    pieces = [_Piece(image, symbol, tuple(arguments), options, sweep, tuple(sites[at : at + size])) for at in range(0, len(sites), size)]
    results: dict[int, tuple[int, list[Failure]]] = {}
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as workers:
        futures = {workers.submit(_check_piece, piece): index for index, piece in enumerate(pieces)}
        for future in as_completed(futures):
            results[futures[future]] = future.result()
            done = sum(len(pieces[index].sites) for index in results)
            report(done, len(sites), sum(len(found) for _, found in results.values()))
    runs = sum(count for count, _ in results.values())
    ordered = tuple(failure for index in range(len(pieces)) for failure in results[index][1])
    return VerifyResult(len(sites), runs, ordered, golden.instructions)
