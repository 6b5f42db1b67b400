"""``check`` and ``explore`` as functions."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from arch_x86.emu.machine import CPUS_MAX
from arch_x86.emu.sigint import interruptible
from arch_x86.explore.check import check as check_case
from arch_x86.explore.commands import check_options, search_options
from arch_x86.explore.saved_violations import ScenarioOptions, case_of, scenario_case
from arch_x86.explore.scenario import Scenario, load_scenarios
from arch_x86.text.poke import PokeFactory
from engine import defaults
from engine.errors import InputError, printable
from engine.image import Image
from engine.patching.check_result import CheckResult
from engine.patching.search_options import Search
from engine.search.conduct import Progress
from engine.search.strategy import Strategy
from engine.syntax.arguments import parse_number
from optprobe.inputs import (
    CallArgument,
    ImageLike,
    Number,
    ProbeLike,
    ProfileLike,
    Stubs,
    argument_text,
    as_arguments,
    as_image,
    as_profile,
    as_specs,
    as_stubs,
    refuse_text,
    warn_of,
)

__all__ = ("check", "explore")

Bound: TypeAlias = int | str | None
"""Most preemptions of a schedule: a number, ``"none"`` for no bound, or None for the usual one."""


def check(
    image: ImageLike,
    *,
    call: str,
    probes: Sequence[ProbeLike],
    arguments: Sequence[CallArgument] = (),
    calls: Number = defaults.CALLS,
    cpus: Number = defaults.CPUS,
    profile: ProfileLike = defaults.PROFILE,
    preempt: bool = False,
    fetch: str = defaults.FETCH,
    without: Sequence[str] = (),
    resched: Sequence[str] = (),
    points: str = defaults.POINTS,
    poke: PokeFactory | None = None,
    max_instructions: Number = defaults.MAX_INSTRUCTIONS,
    stubs: Stubs = (),
    libraries: Sequence[str | Path] = (),
    red_zone: str = defaults.RED_ZONE,
    check_alignment: bool = False,
    strategy: str | Strategy = defaults.STRATEGY,
    preemptions: Bound = None,
    max_schedules: Number | None = None,
    seed: Number | None = None,
    depth: Number | None = None,
    reduction: bool = True,
    hashing: bool = True,
    recheck: bool = False,
    jobs: Number = defaults.JOBS,
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
) -> CheckResult:
    """Explore every interleaving of calls, interrupts and the probes' life, up to a bound; as
    ``optprobe check``.

    :param call: the function that each vCPU calls, ``calls`` times, with ``arguments``.
    :param probes: where they go, as of ``--probe``; at least one.
    :param profile: the name of a profile, or a profile.
    :param preempt: a second task on each vCPU, which an interrupt may give the CPU to.
    :param without: names of safety steps to leave out.
    :param resched: ``"SYM+OFF"``: a task calls ``schedule()`` in front of that instruction.
    :param points: where control tasks stop: ``"locks"`` or ``"stores"``.
    :param poke: makes the protocol by which text is written, ``poke(text, plane, without)``; None:
        the profile's.
    :param strategy: ``"exhaustive"``, ``"random"`` or ``"pct"``; ``seed`` is of the last two,
        ``depth`` of the last. Or a strategy of your own, an object of a class of
        :class:`optprobe.Strategy`, which decides on each schedule.
    :param preemptions: bound on preemptions in one schedule; None: 2.
    :param max_schedules: stop after so many; None: no limit, but 10,000 where they are drawn.
    :param jobs: processes; the result does not depend on it.
    :param checkpoint: a directory to write down what is found, and to go on from after a kill.
    :param progress: called as ``progress(schedules, expected)`` now and then.
    :returns: the ``verdict``, and ``violations`` with their shrunk schedules. After Ctrl-C, or when
        a process of ``jobs`` has died (``died``), it has what was found by then, and is
        ``interrupted``.
    :raises InputError: something is wrong with one of them; :func:`run` has the others.
    :raises KprobeError: a probe is refused.
    :raises UnprobedFault: the call dies, or does not end, without any probe.
    """
    search = _search(
        strategy, preemptions, max_schedules, seed, depth, hashing, recheck, jobs, checkpoint
    )
    refuse_text(without, "without", "['free-wait']")
    refuse_text(resched, "resched", "['work+0x4']")
    known, numbers = as_profile(profile), as_stubs(stubs)
    given = Namespace(
        image=image.name if isinstance(image, Image) else str(image),
        call=call,
        arguments=[argument_text(one) for one in as_arguments(arguments)],
        probe=[spec.text for spec in as_specs(probes)],
        calls=str(calls),
        cpus=str(cpus),
        profile=known.name,
        preempt=preempt,
        fetch=fetch,
        without=without,
        resched=resched,
        libraries=map(str, libraries),
        stub=[f"{name}=ret:{number}" for name, number in numbers.items()],
        max_instructions=str(max_instructions),
        red_zone=red_zone,
        check_alignment=check_alignment,
        points=points,
        no_reduction=not reduction,
    )
    options = check_options(given)
    loaded = as_image(image, libraries=libraries, stubs=numbers)
    case = case_of(options, loaded, profile=known, poke=poke)
    warn_of(loaded, *(line for line in case.image.warnings if line not in loaded.warnings))
    with interruptible():
        return check_case(case, search, progress=progress, refuses=True)


def explore(
    source: Scenario | str | Path,
    *,
    profile: ProfileLike | None = None,
    preempt: bool = False,
    cpus: Number | None = None,
    without: Sequence[str] = (),
    points: str = defaults.POINTS,
    check_alignment: bool = False,
    strategy: str | Strategy = defaults.STRATEGY,
    preemptions: Bound = None,
    max_schedules: Number | None = None,
    seed: Number | None = None,
    depth: Number | None = None,
    reduction: bool = True,
    hashing: bool = True,
    recheck: bool = False,
    jobs: Number = defaults.JOBS,
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
) -> dict[str, CheckResult]:
    """Explore a scenario, or those of a file; as ``optprobe explore``.

    :param source: a scenario (what :func:`optprobe.scenario` makes of a function), or a file of
        them, ``FILE.py`` or ``FILE.py::SCENARIO``.
    :param profile: the name of a profile, or a profile that has the name of one of the scenario's;
        None: the scenario's first.
    :param cpus: vCPUs; None: as the scenario says. So does ``preemptions``, the bound.
    :returns: the results, by the scenarios' names. The last of them may be ``interrupted``, and
        those behind it are left out then.
    :raises InputError: something is wrong with one of them; :func:`check` has the others.
    :raises UnprobedFault: a call dies, or does not end, without any probe.
    """
    search = _search(
        strategy, preemptions, max_schedules, seed, depth, hashing, recheck, jobs, checkpoint
    )
    refuse_text(without, "without", "['free-wait']")
    known = None if profile is None else as_profile(profile)
    options = ScenarioOptions(
        file="",
        profile=None if known is None else known.name,
        preempt=preempt,
        cpus=None if cpus is None else parse_number(str(cpus), "--cpus", least=1, most=CPUS_MAX),
        without=tuple(without),
        points=points,
        check_alignment=check_alignment,
        reduce=reduction,
    )
    scenarios = [source] if isinstance(source, Scenario) else load_scenarios(str(source))
    # All are set up before the first is searched, so that what is wrong with the last one is said
    # at once.
    cases = [(one, scenario_case(one, options, profile=known)) for one in scenarios]
    results: dict[str, CheckResult] = {}
    with interruptible():
        for one, case in cases:
            bound = (
                search if preemptions is not None else replace(search, preemptions=one.preemptions)
            )
            results[one.name] = check_case(case, bound, progress=progress)
            if results[one.name].interrupted:
                break
    return results


def _search(
    strategy: str | Strategy,
    preemptions: Bound,
    max_schedules: Number | None,
    seed: Number | None,
    depth: Number | None,
    hashing: bool,
    recheck: bool,
    jobs: Number,
    checkpoint: str | Path | None,
) -> Search:
    """How to search, by the command line's own rules.

    :raises InputError: an unknown strategy, a wrong number, or an option of another strategy.
    """
    own = strategy if isinstance(strategy, Strategy) else None
    if own is None and not isinstance(strategy, str):
        raise InputError(
            f"strategy={printable(repr(strategy))}: neither a name nor an object of a class of"
            " optprobe.Strategy; give one of these"
        )
    for option, value in (("seed", seed), ("depth", depth)):
        if own is not None and value is not None:
            raise InputError(
                f"{option}={value}: only a strategy given by name takes it; leave it out"
            )
    if checkpoint is not None and not str(checkpoint):
        raise InputError("checkpoint='': give a directory, or None for none")

    def text(value: Number | Path | None) -> str | None:
        return None if value is None else str(value)

    # What is drawn by an object has the limits of what is drawn by chance.
    search = search_options(
        Namespace(
            strategy=strategy if own is None else "random",
            preemptions=str(defaults.PREEMPTIONS if preemptions is None else preemptions),
            preemptions_given=preemptions is not None,
            max_schedules=text(max_schedules),
            seed=text(seed),
            depth=text(depth),
            no_hashing=not hashing,
            recheck=recheck,
            jobs=str(jobs),
            checkpoint=text(checkpoint),
        )
    )
    return search if own is None else replace(search, strategy=own)
