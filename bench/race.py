"""Ratios within one process: contenders run in turn, round by round, so that a slow minute of the
machine hits all of them alike.

Laps are short and in processor time: on a busy machine neighbouring laps still see the same one.
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
    """``prepare`` is not timed, ``run`` is; ``laps`` are the seconds of processor time of each
    round.
    """

    prepare: Callable[[], object]
    run: Callable[[], object]
    laps: list[float] = field(default_factory=list[float])

    def lap(self) -> None:
        """One round."""
        self.prepare()
        began = process_time()
        self.run()
        self.laps.append(process_time() - began)

    @property
    def seconds(self) -> float:
        """The lower quartile of the laps: the median of their better half, since a disturbance only
        ever adds time.

        NaN under ``--benchmark-disable``, which runs everything once.
        """
        return quantiles(self.laps, n=4)[0] if len(self.laps) > 1 else nan

    def speed_over(self, other: Contender) -> float:
        """How many times as fast as ``other``."""
        return other.seconds / self.seconds


def pooled(contenders: Sequence[Contender]) -> Contender:
    """The laps of several that do the same, taken together.

    Where an emulator's structures happen to lie in memory makes one instance in a dozen slower by a
    quarter, for as long as it lives.
    """
    return Contender(
        _nothing, _nothing, [lap for contender in contenders for lap in contender.laps]
    )


def _nothing() -> None:
    """Not to be run again."""


def race(benchmark: Any, *contenders: Contender, rounds: int = 25) -> None:
    """Run each contender once a round, the last one under ``benchmark``. A round before the first
    fills caches and does not count.
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
    """The median of a finished benchmark; NaN under ``--benchmark-disable``."""
    stats = benchmark.stats
    return nan if stats is None else float(stats.stats.median)
