"""Runs a second of ``verify`` with an interrupt at every boundary, in one process.

One run stands for all runs with one interrupt each where it can (:mod:`arch_x86.lab.convergence`);
it is measured against making each of them, in turn, on a short, a middling and a long call. The
time includes the registration and removal of a probe by each method, but not the unprobed run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from arch_x86.lab.run import ExecOptions
from arch_x86.lab.verify import Sweep, Verifier
from bench.images import shipped
from bench.race import Contender, race
from engine.syntax.arguments import parse_argument

if TYPE_CHECKING:
    from arch_x86.emu.uc import UcPool
    from bench.figures import Figures

_CALLS: Final = {
    "sse2.o": ("sse2_find", ("buf:68656c6c6f20776f726c64", "11", "buf:776f", "2")),
    "qsort.o": ("sort_i32", ("buf:0500000001000000040000000200000003000000", "5")),
    "sha256.o": ("sha256", ("buf:616263", "3", "buf:+32")),
}
_RUNS_A_SECOND: Final = 15_000


class Sweeper:
    """A verifier that sweeps over the first site of a call."""

    def __init__(self, pool: UcPool, name: str, *, one_by_one: bool) -> None:
        symbol, arguments = _CALLS[name]
        self.verifier = Verifier(
            shipped(name),
            symbol,
            [parse_argument(text) for text in arguments],
            options=ExecOptions(),
            pool=pool,
            one_by_one=one_by_one,
        )
        self._addr = self.verifier.sites()[0]
        self.runs = 0
        self.contender = Contender(lambda: None, self.sweep)

    def sweep(self) -> None:
        """Check the site, by each method."""
        before = self.verifier.runs
        assert not list(self.verifier.check_site(self._addr, Sweep("boundaries")))
        self.runs = self.verifier.runs - before


@pytest.mark.parametrize("name", _CALLS)
def test_runs_a_second(benchmark: Any, figures: Figures, pool: UcPool, name: str) -> None:
    """One site and every boundary of the call, at once and one by one."""
    slow, fast = (Sweeper(pool, name, one_by_one=one_by_one) for one_by_one in (True, False))
    race(benchmark, slow.contender, fast.contender, rounds=5)
    assert slow.runs == fast.runs
    what = f"{name}, {fast.verifier.golden.instructions:,} instructions, {fast.runs:,} runs"
    target = (">=", _RUNS_A_SECOND)
    figures.add(
        benchmark, f"{what}: runs a second", fast.runs / fast.contender.seconds, "/s", target
    )
    figures.add(benchmark, f"{what}: one by one", slow.runs / slow.contender.seconds, "/s")
    for one in (slow, fast):
        one.verifier.close()
