"""Ratios of times within one process.

Contenders run in turn, round by round, so that a slow minute of the machine slows all of them. Laps
are short and are taken in processor time, since on a busy machine neighbouring laps still see the
same machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import nan
from statistics import quantiles
from time import process_time
from typing import Any

__all__ = ("Contender", "pooled", "race", "seconds")


@dataclass(slots=True)
class Contender:
    """One of several pieces of code that are compared.

    :ivar prepare: called before each lap, and not timed.
    :ivar run: called and timed.
    :ivar laps: the seconds of processor time of each lap.
    """

    prepare: Callable[[], object]
    run: Callable[[], object]
    laps: list[float] = field(default_factory=list[float])

    def lap(self) -> None:
        """Run one lap, and note its time."""
        self.prepare()
        began = process_time()
        self.run()
        self.laps.append(process_time() - began)

    @property
    def seconds(self) -> float:
        """The lower quartile of the laps, in seconds of processor time.

        It is the median of their better half, since a disturbance only ever adds time. Under
        ``--benchmark-disable``, which runs everything once, it is NaN.
        """
        return quantiles(self.laps, n=4)[0] if len(self.laps) > 1 else nan

    def speed_over(self, other: Contender) -> float:
        """How many times as fast as ``other`` this contender is."""
        return other.seconds / self.seconds


def pooled(contenders: Sequence[Contender]) -> Contender:
    """A contender with the laps of several that do the same.

    One instance in a dozen is slower by a quarter for as long as it lives, because of where an
    emulator's structures happen to lie in memory.
    """
    return Contender(
        _nothing, _nothing, [lap for contender in contenders for lap in contender.laps]
    )


def _nothing() -> None:
    """Do nothing: a pooled contender is not run again."""


def race(benchmark: Any, *contenders: Contender, rounds: int = 25) -> None:
    """Run each contender once a round, the last one under ``benchmark``.

    A round before the first fills caches and does not count.
    """
    *others, last = contenders
    for contender in contenders:
        contender.lap()
        contender.laps.clear()

    def setup() -> None:
        for contender in others:
            contender.lap()

    benchmark.pedantic(last.lap, setup=setup, rounds=rounds, iterations=1)


def seconds(benchmark: Any) -> float:
    """The median of a finished benchmark, in seconds; NaN under ``--benchmark-disable``."""
    stats = benchmark.stats
    return nan if stats is None else float(stats.stats.median)
