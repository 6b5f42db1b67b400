"""The options of a search: its strategy, its bounds, and where it keeps checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from engine import defaults
from engine.errors import InputError, printable
from engine.limits import JOBS_MAX, PREEMPTIONS_MAX
from engine.patching.option_kinds import flag
from engine.search.drawn import Drawn
from engine.search.exhaustive import Exhaustive
from engine.search.parts import PartedSearch
from engine.search.pct import Pct
from engine.search.random_walk import RandomWalk
from engine.search.strategy import Strategy
from engine.syntax.arguments import parse_number

__all__ = ("STRATEGIES", "Search", "read_search")

STRATEGIES: Final = ("exhaustive", "random", "pct")
_DRAWN: Final = 10_000
"""So many schedules are drawn where no limit is given.

A scenario that comes with optprobe takes some minutes for them.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """This record has the options of a search.

    :ivar strategy: the name of a strategy, one of :data:`STRATEGIES`, or an object that draws
        schedules.
    :ivar preemptions: the bound, or None for none; pct has its ``depth`` in its place.
    :ivar max_schedules: the most schedules; None sets no limit for an exhaustive search.
    :ivar seed: the seed from which schedules are drawn.
    :ivar depth: the depth of pct.
    :ivar hashing: the search does not go on again from a state that it has met before.
    :ivar recheck_every: one schedule in so many is run a second time; 0 stands for none.
    :ivar plain: each run of a vCPU is made on the machine, also one that was made before.
    :ivar violations_max: the search stops after so many violations.
    :ivar jobs: how many processes search; what is found does not depend on that.
    :ivar checkpoints: the directory of files from which a search that was ended can go on.
    """

    strategy: str | Strategy = defaults.STRATEGY
    preemptions: int | None = defaults.PREEMPTIONS
    max_schedules: int | None = None
    seed: int = defaults.SEED
    depth: int = defaults.PCT_DEPTH
    hashing: bool = True
    recheck_every: int = 100
    plain: bool = False
    violations_max: int = 1
    jobs: int = defaults.JOBS
    checkpoints: Path | None = None

    @property
    def bound(self) -> int | None:
        """Return the most preemptions in a schedule, as a result states it; None: no bound."""
        return None if self.strategy == "pct" else self.preemptions

    def build(self) -> PartedSearch:
        """Return the search.

        :raises InputError: there is no strategy of that name.
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
        """Return the strategy that draws schedules.

        :raises InputError: there is no strategy of that name.
        """
        if isinstance(self.strategy, Strategy):
            # Drawing changes the strategy, and each search begins with it as it was given.
            return deepcopy(self.strategy)
        if self.strategy == "random":
            return RandomWalk(seed=self.seed)
        if self.strategy == "pct":
            return Pct(seed=self.seed, depth=self.depth)
        raise InputError(
            f"--strategy {printable(self.strategy)}: unknown; give exhaustive, random or pct"
        )


def read_search(given: Mapping[str, Any]) -> Search:
    """Return the search that the command line or the Python interface asks for.

    :param given: numbers or their texts, switches, and a directory, by the names that
        :func:`optprobe.check` has for them; None stands for what is not given.
    :raises InputError: a strategy is unknown, a number is wrong, or an option is one of another
        strategy.
    """
    strategy = given["strategy"]
    for name, takers in (("seed", ("random", "pct")), ("depth", ("pct",))):
        if given[name] is not None and strategy in STRATEGIES and strategy not in takers:
            raise InputError(
                f"--{name}: only --strategy {' and '.join(takers)} has it; leave it out, or give"
                f" --strategy {takers[-1]}"
            )
    if given["preemptions"] is not None and strategy == "pct":
        raise InputError(
            "--preemptions: --strategy pct has no such bound, but --depth; give that instead"
        )
    unlimited = given["max_schedules"] is None
    search = Search(
        strategy=strategy,
        preemptions=None
        if given["preemptions"] == "none"
        else _number(given, "preemptions", defaults.PREEMPTIONS, 0, PREEMPTIONS_MAX),
        max_schedules=None if unlimited else _number(given, "max_schedules", 1, 1),
        seed=_number(given, "seed", defaults.SEED, 0),
        depth=_number(given, "depth", defaults.PCT_DEPTH, 1, PREEMPTIONS_MAX),
        hashing=given["hashing"],
        recheck_every=1 if given["recheck"] else 100,
        plain=given["plain"],
        jobs=_number(given, "jobs", defaults.JOBS, 1, JOBS_MAX),
        checkpoints=None if given["checkpoint"] is None else Path(given["checkpoint"]),
    )
    search.build()
    return search


def _number(
    given: Mapping[str, Any], name: str, default: int, least: int, most: int | None = None
) -> int:
    """Return the number that is given under ``name``, or the default.

    :raises InputError: it is no number, or out of bounds.
    """
    value = default if given[name] is None else given[name]
    return parse_number(str(value), flag(name), least=least, most=most)
