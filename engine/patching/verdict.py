"""The search of an experiment for violations, and the replay of one schedule.

The schedules of the violations that a search finds are made short.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import replace
from hashlib import blake2b

from engine.ctrl_c import was_interrupted
from engine.errors import InputError, WorkerDied, printable
from engine.patching.automata.numbered import NumberedExploration
from engine.patching.check_result import CheckResult, Report
from engine.patching.experiment import Experiment, fingerprint, options_mark
from engine.patching.exploration import Exploration
from engine.patching.search_options import Search
from engine.patching.setup_port import SetupPort
from engine.patching.timeline import timeline
from engine.patching.user_code import identity_of
from engine.search.checkpoint import Checkpoint, code_mark
from engine.search.conduct import InProcess, Progress, Workers, drive
from engine.search.explorable import System, Violation
from engine.search.parts import BATCH, Outcome, PartedSearch
from engine.search.schedule import Schedule, replay
from engine.search.shrink import shrink

__all__ = ("check", "replay_experiment", "searchable")


def check(
    experiment: Experiment,
    search: Search,
    port: SetupPort,
    *,
    progress: Progress | None = None,
    refuses: bool = False,
) -> CheckResult:
    """Explore ``experiment``, and make the schedules of its violations as short as possible.

    :param progress: is called now and then with the number of schedules so far, and about how
        many there will be.
    :param refuses: a probe that the core refuses is bad input, and not a violation.
    :raises InputError: the experiment can't be set up, or a checkpoint is no such file.
    :raises KprobeError: the core refuses a probe, and ``refuses`` is set.
    """
    strategy = search.build()
    with closing(port.open(experiment)) as system:
        if experiment.poke is not None:
            _refuse_bad_poke(system)
        if refuses:
            system.refuse_bad_start()
        result = _searched(experiment, search, strategy, port, system, progress)
        _shrink(result, system, fingerprint(experiment))
    return result


def _searched(
    experiment: Experiment,
    search: Search,
    strategy: PartedSearch,
    port: SetupPort,
    system: Exploration,
    progress: Progress | None,
) -> CheckResult:
    """Search, and return the result, also where something ended the search early.

    The result has no violations yet; the outcome in it has them as they were found.
    """
    outcome, interrupted, died, checkpoint = Outcome(), False, None, None
    explored = searchable(system, search)
    several = Workers(
        strategy,
        explored,
        lambda: searchable(port.open_in_worker(experiment, system.orders), search),
        min(search.jobs, BATCH),
    )
    try:
        with (
            closing(several if search.jobs > 1 else InProcess(strategy, explored)) as runner,
            _checkpoint(experiment, search, port) as checkpoint,
        ):
            drive(strategy, runner, outcome, progress, checkpoint)
    except WorkerDied as error:  # The result has what the other processes have found so far.
        interrupted, died = True, error
    except MemoryError:  # The result has what was found so far.
        interrupted, died = (
            True,
            WorkerDied("not enough memory to search on; --max-schedules makes a search smaller"),
        )
    except BaseException as error:  # Ctrl-C may also come while the search ends its processes.
        if not was_interrupted(error):
            raise
        interrupted = True
    return CheckResult(
        outcome,
        experiment.cpus,
        search.bound,
        _missing(system, outcome),
        interrupted=interrupted,
        refused=system.refused,
        died=died,
        unwritten=_unwritten(checkpoint),
    )


def searchable(system: Exploration, search: Search) -> System:
    """Return the system that a search explores: ``system``, or numbers that stand for its states.

    Numbers stand for them unless the search is to be plain. A search without reductions is what
    others are held against, an oracle of the user's own may look at the machine at any time, and
    whether a vCPU waits at a jump to itself is asked of the machine. These are plain, too, and so
    are tasks that meet on a stack, since a vCPU's stacks are part of its own state.
    """
    experiment = system.experiment
    guarded = any(site.guards for site in experiment.patches)
    on_stacks = system.orders is not None and system.orders.on_stacks
    if search.plain or not experiment.reduce or experiment.oracles or guarded or on_stacks:
        return system
    return NumberedExploration(system, again_every=1 if search.recheck_every == 1 else 10)


def _shrink(result: CheckResult, system: Exploration, mark: str) -> None:
    """Put the violations that were found into ``result``, with schedules as short as possible.

    :param mark: the fingerprint of the experiment.
    """
    for found in result.outcome.found:
        segments, violation = found.segments, found.violation
        try:
            if not result.interrupted:
                segments, violation = shrink(system, segments, violation)
        except KeyboardInterrupt:  # The schedule stays as it was found.
            result.interrupted = True
        result.violations.append(Report(violation, Schedule(mark, segments)))


def _refuse_bad_poke(system: Exploration) -> None:
    """Refuse a user's protocol with which control tasks end in an error even alone.

    A bug in its code is no finding about the order of its steps.

    :raises InputError: a control task ends in an error.
    """
    error = system.error_alone()
    if error is not None:
        if system.experiment.patches and isinstance(error, InputError):
            raise error
        raise InputError(
            f"this protocol ends in an error even where no CPU comes in between: {error}"
        ) from None


@contextmanager
def _checkpoint(
    experiment: Experiment, search: Search, port: SetupPort
) -> Generator[Checkpoint | None]:
    """Open the checkpoint of this search, or yield None if there is to be none."""
    if search.checkpoints is None:
        yield None
        return
    told, drawn_by = replace(search, jobs=1, checkpoints=None), ""
    # The repr of a user's strategy may differ in each process; its source text does not.
    if not isinstance(search.strategy, str):
        told, drawn_by = replace(told, strategy=""), identity_of(search.strategy)
    how = (options_mark(experiment), drawn_by, told, code_mark(*port.sources))
    mark = f"{fingerprint(experiment)}-{blake2b(repr(how).encode(), digest_size=4).hexdigest()}"
    with closing(Checkpoint(search.checkpoints / f"{mark}.jsonl", mark)) as checkpoint:
        yield checkpoint


def _unwritten(checkpoint: Checkpoint | None) -> str | None:
    """Return a line about a checkpoint that lacks something that was found, or None."""
    if checkpoint is None or checkpoint.unwritten is None:
        return None
    file = printable(str(checkpoint.file))
    return (
        f"--checkpoint: cannot write {file}: {checkpoint.unwritten}; the search went on without it"
    )


def _missing(system: Exploration, outcome: Outcome) -> tuple[str, ...]:
    """Return what no schedule used though the sites have it: nothing is shown for that.

    It is the methods that the sites of probes allow, or code of the sites of a patch protocol.
    """
    if system.experiment.patches and not system.experiment.switched:
        return tuple(system.never_executed(outcome.coverage))
    return tuple(
        method for method in system.allowed_methods() if getattr(outcome.coverage, method) == 0
    )


def replay_experiment(
    experiment: Experiment, schedule: Schedule, port: SetupPort
) -> tuple[Violation | None, list[str]]:
    """Run one schedule again, and return the violation in it, or None, and its timeline.

    :raises InputError: the schedule is of another experiment, or a step of it is not possible.
    """
    mark = fingerprint(experiment)
    if schedule.fingerprint != mark:
        raise InputError(
            f"the schedule is of {schedule.fingerprint}, this is {mark}: code, call, probes or"
            " options are not those that it was found with"
        )
    # Without reduction every choice that a search may have made can be made again.
    with closing(port.open(replace(experiment, reduce=False))) as system:
        if not replay(system, schedule.segments, strict=True):
            raise InputError(
                "the schedule can't be followed here: a step of it is not possible; "
                "was it changed by hand?"
            )
        violation = system.violation
        return violation, list(timeline(system, schedule.segments))
