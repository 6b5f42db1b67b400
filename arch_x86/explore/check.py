"""``optprobe check``, ``explore`` and ``replay``: a case, a strategy, a verdict."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Final

from arch_x86.emu.uc import UcPool
from arch_x86.explore.open_experiment import open_experiment
from engine.ctrl_c import was_interrupted
from engine.errors import InputError, WorkerDied, printable
from engine.patching.experiment import Experiment, fingerprint
from engine.patching.exploration import Exploration
from engine.patching.operations import Control
from engine.patching.timeline import timeline
from engine.search.checkpoint import Checkpoint, code_mark
from engine.search.conduct import InProcess, Progress, drive
from engine.search.exhaustive import Exhaustive
from engine.search.explorable import Coverage, Violation
from engine.search.pct import Pct
from engine.search.process_pool import Workers
from engine.search.random_walk import RandomWalk
from engine.search.schedule import Schedule, replay
from engine.search.shrink import shrink
from engine.search.strategy import BATCH, Outcome, Strategy
from engine.syntax.kprobe_events import ProbeSpec

__all__ = ("STRATEGIES", "CheckResult", "Report", "Search", "check", "life_of_probes", "replay_case")

STRATEGIES: Final = ("exhaustive", "random", "pct")
_CODE: Final = tuple(Path(__file__).resolve().parents[2] / name for name in ("engine", "arch_x86"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """How to search. ``preemptions``: the bound, None for none; pct has another one, its ``depth``. ``violations_max``: stop after so many.

    :ivar jobs: processes; what is found does not depend on how many. ``checkpoints``: directory of files to go on from after a kill.
    """

    strategy: str = "exhaustive"
    preemptions: int | None = 2
    max_schedules: int | None = None
    seed: int = 0
    depth: int = 3
    hashing: bool = True
    recheck_every: int = 100
    violations_max: int = 1
    jobs: int = 1
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
            return RandomWalk(seed=self.seed, schedules=number, bound=self.preemptions, recheck_every=self.recheck_every)
        if self.strategy == "pct":
            return Pct(seed=self.seed, schedules=number, depth=self.depth, recheck_every=self.recheck_every)
        raise InputError(f"--strategy {printable(self.strategy)}: unknown; give exhaustive, random or pct")


@dataclass(frozen=True, slots=True)
class Report:
    """One violation. ``schedule`` is the shrunk one."""

    violation: Violation
    schedule: Schedule
    file: str | None = None

    def to_json(self) -> dict[str, object]:
        """An entry of ``violations``."""
        v = self.violation
        return {
            "kind": str(v.kind),
            "cpu": v.cpu,
            "rip": v.rip,
            "explain": v.explain,
            "schedule": str(self.schedule),
            "file": self.file,
        }


@dataclass(slots=True)
class CheckResult:
    """What a search has to say.

    :ivar missing: methods that the sites allow and no schedule used. ``interrupted``: Ctrl-C ended it, or
        that a process had died, which is ``died``.
    :ivar refused: a line for each probe that the core refused when the control tasks ran alone.
    :ivar unwritten: a line about the checkpoint, where that does not have all that was found.
    """

    outcome: Outcome
    cpus: int
    preemptions: int | None
    missing: tuple[str, ...]
    violations: list[Report] = field(default_factory=list[Report])
    interrupted: bool = False
    refused: tuple[str, ...] = ()
    died: WorkerDied | None = None
    unwritten: str | None = None

    @property
    def coverage(self) -> Coverage:
        """How sites were hit, and who was where while text was written."""
        return self.outcome.coverage

    @property
    def points(self) -> int:
        """Distinct pairs of a vCPU's position and a control state."""
        return len(self.outcome.points)

    @property
    def verdict(self) -> str:
        """One word for what the search showed.

        ``violation``: something broke. ``inconclusive``: a method that the sites allow was never used, so nothing is shown for it, however
        far the search came. ``safe``: every schedule within the bound was visited, and nothing broke. ``nothing-found``: nothing broke in
        the schedules that were visited, but there are others: they were drawn at random, or the search was cut off.
        """
        if self.violations:
            return "violation"
        if self.missing:
            return "inconclusive"
        return "safe" if self.outcome.exhaustive else "nothing-found"

    @property
    def good(self) -> bool:
        """The command's exit status is 0: nothing broke, and every method that the sites allow was used."""
        return self.verdict in ("safe", "nothing-found")

    def to_json(self) -> dict[str, object]:
        """The document of ``optprobe check --json``."""
        return {
            "schema": 1,
            "verdict": self.verdict,
            "interrupted": self.interrupted,
            "bound": {
                "exhaustive": self.outcome.exhaustive,
                "preemptions": self.preemptions,
                "schedules": self.outcome.schedules,
                "cpus": self.cpus,
            },
            "schedules": self.outcome.schedules,
            "points": self.points,
            "coverage": self.coverage.to_json(),
            "violations": [report.to_json() for report in self.violations],
        }


def life_of_probes(specs: Sequence[ProbeSpec]) -> Callable[[Control], None]:
    """The control task of ``check``: register, wait for the optimizer, disable, enable, wait, unregister, wait until all is freed."""

    def main(k: Control) -> None:
        returns = [k.kretprobe(spec.symbol, spec.maxactive or 8, addr=spec.address) for spec in specs if spec.is_return]
        plain = [k.kprobe(spec.symbol, spec.offset, addr=spec.address) for spec in specs if not spec.is_return]
        for p in plain:
            k.register(p, must=True)
        for rp in returns:
            k.register_return(rp)
        k.settle()
        probes = [*plain, *(rp.kp for rp in returns)]
        for p in probes:
            k.disable(p)
        for p in probes:
            k.enable(p)
        k.settle()
        if plain:
            k.unregister(*plain)
        for rp in returns:
            k.unregister_return(rp)
        k.settle()

    return main


def check(
    case: Experiment, search: Search, *, pool: UcPool | None = None, progress: Progress | None = None, refuses: bool = False
) -> CheckResult:  # fmt: skip
    """Explore ``case``, and make what is found as small as it goes.

    :param progress: called now and then with the number of schedules so far, and about how many there will be.
    :param refuses: a probe that the core refuses is bad input, not a violation.
    :raises InputError: the case can't be set up, or a checkpoint is no such file.
    :raises KprobeError: the core refuses a probe, with ``refuses``.
    """
    strategy = search.build()
    with closing(open_experiment(case, pool)) as system:
        if refuses:
            system.refuse_bad_start()
        outcome, interrupted, died, checkpoint = Outcome(), False, None, None
        several = Workers(strategy, system, lambda: open_experiment(case, orders=system.orders), min(search.jobs, BATCH))
        try:
            with closing(several if search.jobs > 1 else InProcess(strategy, system)) as runner, _checkpoint(case, search) as checkpoint:
                drive(strategy, runner, outcome, progress, checkpoint)
        except WorkerDied as error:  # what the others have found by now is told
            interrupted, died = True, error
        except MemoryError:  # what was found by now is told
            interrupted, died = True, WorkerDied("not enough memory to search on; --max-schedules makes a search smaller")
        except BaseException as error:  # Ctrl-C, also as the search ends, and its processes are sent home
            if not was_interrupted(error):
                raise
            interrupted = True
        bound = None if search.strategy == "pct" else search.preemptions
        result = CheckResult(
            outcome, case.cpus, bound, _missing(system, outcome), interrupted=interrupted, refused=system.refused, died=died
        )
        if checkpoint is not None and checkpoint.unwritten is not None:
            file = printable(str(checkpoint.file))
            result.unwritten = f"--checkpoint: cannot write {file}: {checkpoint.unwritten}; the search went on without it"
        for found in outcome.found:
            segments, violation = found.segments, found.violation
            try:
                if not result.interrupted:
                    segments, violation = shrink(system, segments, violation)
            except KeyboardInterrupt:  # it is shown as it was found
                result.interrupted = True
            result.violations.append(Report(violation, Schedule(fingerprint(case), segments)))
    return result


@contextmanager
def _checkpoint(case: Experiment, search: Search) -> Generator[Checkpoint | None]:
    """The file of this search, if there is to be one."""
    if search.checkpoints is None:
        yield None
        return
    options = (case.reduce, case.apart, case.interrupts, case.restores, case.limit, *map(repr, case.oracles))
    how = (*options, replace(search, jobs=1, checkpoints=None), code_mark(*_CODE))
    mark = f"{fingerprint(case)}-{blake2b(repr(how).encode(), digest_size=4).hexdigest()}"
    with closing(Checkpoint(search.checkpoints / f"{mark}.jsonl", mark)) as checkpoint:
        yield checkpoint


def _missing(system: Exploration, outcome: Outcome) -> tuple[str, ...]:
    """A check that never executed the jump proves nothing."""
    return tuple(method for method in system.allowed_methods() if getattr(outcome.coverage, method) == 0)


def replay_case(case: Experiment, schedule: Schedule, *, pool: UcPool | None = None) -> tuple[Violation | None, list[str]]:
    """Run one schedule again: what it breaks, and its timeline.

    :raises InputError: the schedule is of another case.
    """
    mark = fingerprint(case)
    if schedule.fingerprint != mark:
        raise InputError(
            f"the schedule is of {schedule.fingerprint}, this is {mark}: code, call, probes or options are not those that it was found with"
        )
    with closing(open_experiment(replace(case, reduce=False), pool)) as system:  # whatever was chosen can be chosen
        if not replay(system, schedule.segments, strict=True):
            raise InputError("the schedule can't be followed here: a step of it is not possible; was it changed by hand?")
        violation = system.violation
        return violation, list(timeline(system, schedule.segments))
