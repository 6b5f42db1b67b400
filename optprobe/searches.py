"""The commands ``check``, ``explore`` and ``patch`` as functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from arch_x86.emu.sigint import interruptible
from arch_x86.explore.x86_setup import X86Setup
from arch_x86.protocols.protocol import PatchProtocol
from arch_x86.text.poke import PokeFactory
from engine import defaults
from engine.errors import InputError, printable
from engine.patching.check_result import CheckResult
from engine.patching.make_experiment import experiment_of_check, experiment_of_patch
from engine.patching.patch_result import PatchResult, patch_result
from engine.patching.patch_spec import PatchSpec
from engine.patching.request import Request
from engine.patching.request_options import Way, read_options
from engine.patching.scenario_files import load_scenarios
from engine.patching.scenario_record import Scenario
from engine.patching.search_options import Search, read_search
from engine.patching.verdict import check as check_experiment
from engine.search.conduct import Progress
from engine.search.strategy import Strategy
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

__all__ = ("check", "explore", "patch")

ProtocolLike: TypeAlias = PatchProtocol | str
"""A patch protocol, or a word as of ``--protocol``: its name, or ``FILE.py[:NAME]``."""
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
    strict: bool = False,
    without: Sequence[str] = (),
    resched: Sequence[str] = (),
    points: str = defaults.POINTS,
    poke: PokeFactory | None = None,
    protocol: ProtocolLike | None = None,
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
    plain: bool = False,
    jobs: Number = defaults.JOBS,
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
) -> CheckResult:
    """Explore every interleaving of calls, interrupts and probe operations up to a bound.

    It does what ``optprobe check`` does.

    :param call: the function that each vCPU calls, ``calls`` times, with ``arguments``.
    :param probes: the probes, each as ``--probe`` takes it; at least one.
    :param profile: the name of a profile, or a profile.
    :param preempt: give each vCPU a second task, to which an interrupt may switch.
    :param fetch: the fetch model, such as ``"torn"``: which stores to text a vCPU may not have
        seen.
    :param strict: no vCPU may execute an instruction with a store that it has not seen.
    :param without: the names of safety steps to leave out.
    :param resched: ``"SYM+OFF"``: a task calls ``schedule()`` in front of that instruction.
    :param points: where control tasks stop: ``"locks"`` or ``"stores"``.
    :param poke: makes the protocol by which text is written, ``poke(text, plane, without)``; None:
        the profile's protocol.
    :param protocol: a patch protocol by which text is written instead; ``without`` may have steps
        of it, too.
    :param strategy: ``"exhaustive"``, ``"random"`` or ``"pct"``; or a strategy of your own, an
        object of a class of :class:`optprobe.Strategy`, which decides on each schedule.
    :param preemptions: the bound on preemptions in one schedule; None: 2.
    :param max_schedules: the search ends after so many schedules; None: there is no limit, but
        10,000 where schedules are drawn.
    :param seed: the seed of ``"random"`` or ``"pct"``.
    :param depth: the depth of ``"pct"``.
    :param plain: make each run of a vCPU on the machine, also one that was made before; slower.
    :param jobs: the number of processes; the result does not depend on it.
    :param checkpoint: a directory to write down what is found, and to go on from after a kill.
    :param progress: called as ``progress(schedules, expected)`` now and then.
    :returns: the ``verdict``, and ``violations`` with their shrunk schedules. After Ctrl-C, or when
        a process of ``jobs`` has died (``died``), the result has what was found by then, and is
        ``interrupted``.
    :raises InputError: one of the parameters is wrong; :func:`run` explains those that are not
        here.
    :raises KprobeError: a probe is refused.
    :raises UnprobedFault: the call dies, or does not end, without any probe.
    """
    given = _by_option(locals())  # Here locals() has all parameters, by their names.
    search = _search(given)
    refuse_text(without, "without", "['free-wait']")
    refuse_text(resched, "resched", "['work+0x4']")
    _refuse_no_protocol(protocol)
    given["profile"], given["stubs"] = as_profile(profile), as_stubs(stubs)
    given["arguments"] = [argument_text(one) for one in as_arguments(arguments)]
    given["probes"] = [spec.text for spec in as_specs(probes)]
    options = read_options(Way.CHECK, given)
    loaded = options["image"] = as_image(image, libraries=libraries, stubs=given["stubs"])
    port = X86Setup()
    experiment = experiment_of_check(Request(**options), port)
    warn_of(loaded, *(line for line in experiment.image.warnings if line not in loaded.warnings))
    with interruptible():
        return check_experiment(experiment, search, port, progress=progress, refuses=True)


def explore(
    source: Scenario | str | Path,
    *,
    profile: ProfileLike | None = None,
    preempt: bool = False,
    cpus: Number | None = None,
    fetch: str | None = None,
    strict: bool = False,
    without: Sequence[str] = (),
    points: str = defaults.POINTS,
    protocol: ProtocolLike | None = None,
    check_alignment: bool = False,
    strategy: str | Strategy = defaults.STRATEGY,
    preemptions: Bound = None,
    max_schedules: Number | None = None,
    seed: Number | None = None,
    depth: Number | None = None,
    reduction: bool = True,
    hashing: bool = True,
    recheck: bool = False,
    plain: bool = False,
    jobs: Number = defaults.JOBS,
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
) -> dict[str, CheckResult]:
    """Explore a scenario, or all scenarios of a file, as ``optprobe explore`` does.

    :param source: a scenario (what :func:`optprobe.scenario` makes of a function), or a file of
        them, ``FILE.py`` or ``FILE.py::SCENARIO``.
    :param profile: the name of a profile, or a profile that has the name of one of the scenario's;
        None: the scenario's first.
    :param cpus: the number of vCPUs; None: as the scenario says.
    :param fetch: the fetch model; None: as the scenario says.
    :param preemptions: the bound on preemptions; None: as the scenario says.
    :returns: the results, by the scenarios' names. The last of them may be ``interrupted``; the
        scenarios behind it have no result then.
    :raises InputError: one of the parameters is wrong; :func:`check` explains those that are not
        here.
    :raises UnprobedFault: a call dies, or does not end, without any probe.
    """
    given = _by_option(locals())  # Here locals() has all parameters, by their names.
    search = _search(given)
    refuse_text(without, "without", "['free-wait']")
    _refuse_no_protocol(protocol)
    given["profile"] = None if profile is None else as_profile(profile)
    asked, port = read_options(Way.EXPLORE, given), X86Setup()
    scenarios = [source] if isinstance(source, Scenario) else load_scenarios(str(source))
    # All scenarios are set up before the first is searched, so that a mistake in the last one is
    # reported at once.
    experiments = [(one, one.experiment(one.asked(asked), port)) for one in scenarios]
    results: dict[str, CheckResult] = {}
    with interruptible():
        for one, experiment in experiments:
            bound = (
                search if preemptions is not None else replace(search, preemptions=one.preemptions)
            )
            result = check_experiment(experiment, bound, port, progress=progress)
            results[one.name] = result
            if result.interrupted:
                break
    return results


def patch(
    image: ImageLike,
    *,
    call: str,
    sites: Sequence[str],
    to: Sequence[str],
    moves: Sequence[str] = (),
    lock: str | None = None,
    user: str | None = None,
    arguments: Sequence[CallArgument] = (),
    back: bool = False,
    protocol: ProtocolLike = defaults.PROTOCOL,
    without: Sequence[str] = (),
    calls: Number = defaults.PATCH_CALLS,
    cpus: Number = defaults.CPUS,
    preempt: bool = False,
    fetch: str = defaults.FETCH,
    strict: bool = False,
    resched: Sequence[str] = (),
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
    plain: bool = False,
    jobs: Number = defaults.JOBS,
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
) -> PatchResult:
    """Replace code by a patch protocol, and explore every interleaving of that with calls.

    It does what ``optprobe patch`` does; docs/protocols.md says what is checked.

    :param call: the function that each vCPU calls, ``calls`` times, with ``arguments``.
    :param sites: the places whose code is replaced, each ``"SYM+OFF"`` or ``"0xADDR"``.
    :param to: the new code of each site, or one for all: hexadecimal digits, ``"jmp:SYM"``,
        ``"call:SYM"``, ``"jcc:SYM"``, ``"nop"``, ``"ret"`` or ``"return0"``.
    :param moves: for a protocol that suspends tasks, ``"FROM:TO"``: where a task goes on that
        stands at ``FROM``.
    :param lock: ``"FROM..TO"``, between which the code holds the allocator's lock.
    :param user: for a protocol that leaves CPUs in user mode out of its core syncs,
        ``"FROM..TO"``: where a CPU in a call still counts as in user mode.
    :param back: put the old code back afterwards.
    :param protocol: a patch protocol (what :func:`optprobe.protocol` makes of a function), its
        name, or a file that has one, ``"FILE.py:NAME"``.
    :param without: the names of steps of the protocol to leave out.
    :returns: the ``verdict``, ``violations`` with their shrunk schedules, the ``sites``, and the
        ``timeline`` of the first violation. After Ctrl-C it is ``interrupted``.
    :raises InputError: one of the parameters is wrong; :func:`check` explains those that are not
        here.
    :raises UnprobedFault: the call dies, or does not end, with the old code, before anything is
        patched.
    """
    given = _by_option(locals())  # Here locals() has all parameters, by their names.
    search = _search(given)
    refuse_text(without, "without", "['sync-1']")
    refuse_text(resched, "resched", "['work+0x4']")
    refuse_text(sites, "sites", "['work+0x4']")
    refuse_text(to, "to", "['nop']")
    refuse_text(moves, "moves", "['work+0x4:copy+0x4']")
    _refuse_no_protocol(protocol)
    given["stubs"] = as_stubs(stubs)
    given["arguments"] = [argument_text(one) for one in as_arguments(arguments)]
    options = read_options(Way.PATCH, given)
    loaded = options["image"] = as_image(image, libraries=libraries, stubs=given["stubs"])
    left_out = tuple(sorted(set(without)))
    spec = PatchSpec(
        sites=tuple(sites),
        codes=tuple(to),
        moves=tuple(moves),
        lock=lock,
        user=user,
        back=back,
        protocol=protocol,
        without=left_out,
    )
    port = X86Setup()
    experiment = experiment_of_patch(Request(**options), spec, port)
    warn_of(loaded, *(line for line in experiment.image.warnings if line not in loaded.warnings))
    with interruptible():
        result = check_experiment(experiment, search, port, progress=progress)
        name = protocol if isinstance(protocol, str) else protocol.name
        return patch_result(experiment, result, port, protocol=name, without=left_out)


def _refuse_no_protocol(protocol: object) -> None:
    """Refuse what is neither a patch protocol nor a word.

    :raises InputError: it is a function without the decorator, for instance.
    """
    if protocol is not None and not isinstance(protocol, PatchProtocol | str):
        raise InputError(
            f"protocol={printable(repr(protocol))}: neither a name nor a patch protocol; give one,"
            " such as what the decorator optprobe.protocol() makes of a function"
        )


def _by_option(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a function of this module by the names of options.

    The options of experiments have these names; only ``reduction`` is called otherwise there.
    """
    return {**parameters, "reduce": parameters["reduction"]}


def _search(given: Mapping[str, Any]) -> Search:
    """Return how to search, by the command line's own rules.

    :raises InputError: an unknown strategy, a wrong number, or an option of another strategy.
    """
    strategy, checkpoint = given["strategy"], given["checkpoint"]
    own = strategy if isinstance(strategy, Strategy) else None
    if own is None and not isinstance(strategy, str):
        raise InputError(
            f"strategy={printable(repr(strategy))}: neither a name nor an object of a class of"
            " optprobe.Strategy; give one of these"
        )
    for name in ("seed", "depth"):
        if own is not None and given[name] is not None:
            raise InputError(
                f"{name}={given[name]}: only a strategy given by name takes it; leave it out"
            )
    if checkpoint is not None and not str(checkpoint):
        raise InputError("checkpoint='': give a directory, or None for none")
    if own is None:
        return read_search(given)
    # A search by a strategy of the caller's own has the limits of a random search.
    return replace(read_search({**given, "strategy": "random"}), strategy=own)
