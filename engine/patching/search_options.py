"""How to search: the strategy, its bounds, and what a search keeps for another one to go on
from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engine import defaults
from engine.errors import InputError, printable
from engine.search.exhaustive import Exhaustive
from engine.search.pct import Pct
from engine.search.random_walk import RandomWalk
from engine.search.strategy import Strategy

__all__ = ("STRATEGIES", "Search")

STRATEGIES: Final = ("exhaustive", "random", "pct")


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """How to search. ``preemptions``: the bound, None for none; pct has another one, its ``depth``.
    ``violations_max``: stop after so many.

    :ivar jobs: processes; what is found does not depend on how many. ``checkpoints``: directory of
        files to go on from after a kill.
    """

    strategy: str = defaults.STRATEGY
    preemptions: int | None = defaults.PREEMPTIONS
    max_schedules: int | None = None
    seed: int = defaults.SEED
    depth: int = defaults.PCT_DEPTH
    hashing: bool = True
    recheck_every: int = 100
    violations_max: int = 1
    jobs: int = defaults.JOBS
    checkpoints: Path | None = None

    def build(self) -> Strategy:
        """The strategy.

        :raises InputError: there is none of that name.
        """
        number = 10_000 if self.max_schedules is None else self.max_schedules
        if self.strategy == "exhaustive":
            return Exhaustive(
                bound=self.preemptions,
                hashing=self.hashing,
                max_schedules=self.max_schedules,
                violations_max=self.violations_max,
                recheck_every=self.recheck_every,
            )
        if self.strategy == "random":
            return RandomWalk(
                seed=self.seed,
                schedules=number,
                bound=self.preemptions,
                recheck_every=self.recheck_every,
            )
        if self.strategy == "pct":
            return Pct(
                seed=self.seed, schedules=number, depth=self.depth, recheck_every=self.recheck_every
            )
        raise InputError(
            f"--strategy {printable(self.strategy)}: unknown; give exhaustive, random or pct"
        )
