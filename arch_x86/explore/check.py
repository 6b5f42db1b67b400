"""``optprobe check``, ``explore`` and ``replay``: a case, a strategy, a verdict."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Final

from arch_x86.emu.uc import UcPool
from arch_x86.explore.open_experiment import open_experiment
from engine.ctrl_c import was_interrupted
from engine.errors import InputError, WorkerDied, printable
from engine.patching.check_result import CheckResult, Report
from engine.patching.experiment import Experiment, fingerprint
from engine.patching.exploration import Exploration
from engine.patching.search_options import Search
from engine.patching.timeline import timeline
from engine.patching.user_code import identity_of
from engine.search.checkpoint import Checkpoint, code_mark
from engine.search.conduct import InProcess, Progress, Workers, drive
from engine.search.explorable import Violation
from engine.search.parts import BATCH, Outcome
from engine.search.schedule import Schedule, replay
from engine.search.shrink import shrink

__all__ = ("check", "replay_case")

_CODE: Final = tuple(Path(__file__).resolve().parents[2] / name for name in ("engine", "arch_x86"))


def check(
    case: Experiment,
    search: Search,
    *,
    pool: UcPool | None = None,
    progress: Progress | None = None,
    refuses: bool = False,
) -> CheckResult:
    """Explore ``case``, and make what is found as small as it goes.

    :param progress: called now and then with the number of schedules so far, and about how many
        there will be.
    :param refuses: a probe that the core refuses is bad input, not a violation.
    :raises InputError: the case can't be set up, or a checkpoint is no such file.
    :raises KprobeError: the core refuses a probe, with ``refuses``.
    """
    strategy = search.build()
    with closing(open_experiment(case, pool)) as system:
        if case.poke is not None:
            _refuse_bad_poke(system)
        if refuses:
            system.refuse_bad_start()
        outcome, interrupted, died, checkpoint = Outcome(), False, None, None
        several = Workers(
            strategy,
            system,
            lambda: open_experiment(case, orders=system.orders),
            min(search.jobs, BATCH),
        )
        try:
            with (
                closing(several if search.jobs > 1 else InProcess(strategy, system)) as runner,
                _checkpoint(case, search) as checkpoint,
            ):
                drive(strategy, runner, outcome, progress, checkpoint)
        except WorkerDied as error:  # what the others have found by now is told
            interrupted, died = True, error
        except MemoryError:  # what was found by now is told
            interrupted, died = (
                True,
                WorkerDied(
                    "not enough memory to search on; --max-schedules makes a search smaller"
                ),
            )
        except (
            BaseException
        ) as error:  # Ctrl-C, also as the search ends, and its processes are sent home
            if not was_interrupted(error):
                raise
            interrupted = True
        result = CheckResult(
            outcome,
            case.cpus,
            search.bound,
            _missing(system, outcome),
            interrupted=interrupted,
            refused=system.refused,
            died=died,
        )
        if checkpoint is not None and checkpoint.unwritten is not None:
            file = printable(str(checkpoint.file))
            result.unwritten = (
                f"--checkpoint: cannot write {file}: {checkpoint.unwritten}; the search went on"
                " without it"
            )
        for found in outcome.found:
            segments, violation = found.segments, found.violation
            try:
                if not result.interrupted:
                    segments, violation = shrink(system, segments, violation)
            except KeyboardInterrupt:  # it is shown as it was found
                result.interrupted = True
            result.violations.append(Report(violation, Schedule(fingerprint(case), segments)))
    return result


def _refuse_bad_poke(system: Exploration) -> None:
    """With the user's poke protocol the control tasks end in no error when they run alone: a bug in
    its code is no finding about the order of its steps.

    :raises InputError: one of them does.
    """
    error = system.error_alone()
    if error is not None:
        raise InputError(
            f"with this poke=, the control tasks end in an error when nobody else runs: {error}"
        ) from None


@contextmanager
def _checkpoint(case: Experiment, search: Search) -> Generator[Checkpoint | None]:
    """The file of this search, if there is to be one."""
    if search.checkpoints is None:
        yield None
        return
    options = (
        case.reduce,
        case.apart,
        case.interrupts,
        case.restores,
        case.limit,
        *map(identity_of, case.oracles),
        *(() if isinstance(search.strategy, str) else (identity_of(search.strategy),)),
    )
    told = replace(search, jobs=1, checkpoints=None)
    if not isinstance(search.strategy, str):  # among the options its own text says which one it is
        told = replace(told, strategy="")
    how = (*options, told, code_mark(*_CODE))
    mark = f"{fingerprint(case)}-{blake2b(repr(how).encode(), digest_size=4).hexdigest()}"
    with closing(Checkpoint(search.checkpoints / f"{mark}.jsonl", mark)) as checkpoint:
        yield checkpoint


def _missing(system: Exploration, outcome: Outcome) -> tuple[str, ...]:
    """A check that never executed the jump proves nothing."""
    return tuple(
        method for method in system.allowed_methods() if getattr(outcome.coverage, method) == 0
    )


def replay_case(
    case: Experiment, schedule: Schedule, *, pool: UcPool | None = None
) -> tuple[Violation | None, list[str]]:
    """Run one schedule again: what it breaks, and its timeline.

    :raises InputError: the schedule is of another case.
    """
    mark = fingerprint(case)
    if schedule.fingerprint != mark:
        raise InputError(
            f"the schedule is of {schedule.fingerprint}, this is {mark}: code, call, probes or"
            " options are not those that it was found with"
        )
    with closing(
        open_experiment(replace(case, reduce=False), pool)
    ) as system:  # whatever was chosen can be chosen
        if not replay(system, schedule.segments, strict=True):
            raise InputError(
                "the schedule can't be followed here: a step of it is not possible; "
                "was it changed by hand?"
            )
        violation = system.violation
        return violation, list(timeline(system, schedule.segments))
