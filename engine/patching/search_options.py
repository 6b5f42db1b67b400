"""How to search: the strategy, its bounds, and what a search keeps for another one to go on
from.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engine import defaults
from engine.errors import InputError, printable
from engine.search.drawn import Drawn
from engine.search.exhaustive import Exhaustive
from engine.search.parts import PartedSearch
from engine.search.pct import Pct
from engine.search.random_walk import RandomWalk
from engine.search.strategy import Strategy

__all__ = ("STRATEGIES", "Search")

STRATEGIES: Final = ("exhaustive", "random", "pct")
_DRAWN: Final = 10_000
"""Schedules that are drawn where no limit is given: some minutes' worth of a shipped scenario."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """How to search. ``preemptions``: the bound, None for none; pct has another one, its ``depth``.
    ``violations_max``: stop after so many.

    :ivar strategy: the name of one, of :data:`STRATEGIES`, or an object that draws schedules.
    :ivar jobs: processes; what is found does not depend on how many. ``checkpoints``: directory of
        files to go on from after a kill.
    """

    strategy: str | Strategy = defaults.STRATEGY
    preemptions: int | None = defaults.PREEMPTIONS
    max_schedules: int | None = None
    seed: int = defaults.SEED
    depth: int = defaults.PCT_DEPTH
    hashing: bool = True
    recheck_every: int = 100
    violations_max: int = 1
    jobs: int = defaults.JOBS
    checkpoints: Path | None = None

    @property
    def bound(self) -> int | None:
        """The most preemptions in a schedule, as a result states it; None: there is no bound."""
        return None if self.strategy == "pct" else self.preemptions

    def build(self) -> PartedSearch:
        """The search.

        :raises InputError: there is none of that name.
        """
        if self.strategy == "exhaustive":
            return Exhaustive(
                bound=self.preemptions,
                hashing=self.hashing,
                max_schedules=self.max_schedules,
                violations_max=self.violations_max,
                recheck_every=self.recheck_every,
            )
        return Drawn(
            self._drawing(),
            schedules=_DRAWN if self.max_schedules is None else self.max_schedules,
            bound=self.bound,
            recheck_every=self.recheck_every,
        )

    def _drawing(self) -> Strategy:
        """The strategy that draws schedules.

        :raises InputError: there is none of that name.
        """
        if isinstance(self.strategy, Strategy):
            return deepcopy(self.strategy)  # each search begins with it as it was given
        if self.strategy == "random":
            return RandomWalk(seed=self.seed)
        if self.strategy == "pct":
            return Pct(seed=self.seed, depth=self.depth)
        raise InputError(
            f"--strategy {printable(self.strategy)}: unknown; give exhaustive, random or pct"
        )
