"""The work of ``replay``, which is loaded when it is needed, since it loads all that explores."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from engine.commands.exit_status import BAD, GOOD
from engine.commands.museum_runs import exhibit_named
from engine.commands.patching_runs import patch_request, patch_spec
from engine.commands.searching import check_request, options_given
from engine.commands.users_output import users_output_apart
from engine.errors import InputError, UnprobedFault, printable
from engine.patching.exhibit import Exhibit
from engine.patching.experiment import Experiment, fingerprint
from engine.patching.make_experiment import experiment_of_check, experiment_of_patch
from engine.patching.request_options import Way, read_options
from engine.patching.saved_violations import load_saved
from engine.patching.scenario_files import load_scenarios
from engine.patching.setup_port import SetupPort
from engine.patching.verdict import replay_experiment
from engine.search.schedule import Schedule, parse_schedule

__all__ = ("run_replay",)

Parse: TypeAlias = Callable[[Sequence[str]], Namespace]


def run_replay(
    args: Namespace, parse: Parse, port: SetupPort, exhibits: Callable[[], Sequence[Exhibit]]
) -> int:
    """Run ``optprobe replay`` on a machine of ``port``, and return the exit status.

    :param parse: reads the words of the ``check`` or ``explore`` that found the schedule.
    :param exhibits: returns those of ``museum``, whose schedules can be replayed by name.
    """
    try:
        with users_output_apart():
            experiment, schedule = _replayed(args, parse, port, exhibits)
            violation, lines = replay_experiment(experiment, schedule, port)
    except UnprobedFault as error:  # This is no violation, which exit status 1 would mean.
        raise InputError(f"there is nothing to replay: {error}") from None
    if args.json:
        found = (
            None
            if violation is None
            else {"kind": str(violation.kind), "cpu": violation.cpu, "rip": violation.rip}
        )
        if found is not None and violation is not None:
            found["explain"] = violation.explain
        print(
            json.dumps(
                {"schema": 1, "violation": found, "schedule": str(schedule), "timeline": lines},
                allow_nan=False,
            )
        )
    else:
        for line in lines:
            print(line)
    return GOOD if violation is None else BAD


def _of_exhibit(
    words: Sequence[str], schedule: Schedule, port: SetupPort, exhibits: Sequence[Exhibit]
) -> Experiment:
    """Return the variant of an exhibit that the schedule is of, or else the faulty one.

    :param words: what stands behind the word ``museum``.
    :raises InputError: it is not the name of one exhibit.
    """
    if len(words) != 1:
        raise InputError("replay SCHEDULE -- museum: give the name of one exhibit behind it")
    one = exhibit_named(words[0], exhibits)
    variants = [case.experiment(port) for case in (one.faulty, one.mended)]
    return next(
        (variant for variant in variants if fingerprint(variant) == schedule.fingerprint),
        variants[0],
    )


def _replayed(
    args: Namespace, parse: Parse, port: SetupPort, exhibits: Callable[[], Sequence[Exhibit]]
) -> tuple[Experiment, Schedule]:
    if not args.rest:
        if re.match(r"v\d+:[0-9a-f]{8}:", args.what) and not Path(args.what).exists():
            parse_schedule(args.what)
            raise InputError(
                "a schedule does not say what it is a schedule of; write -- behind it, and then the"
                " arguments of the check or explore that found it, or the word patch and those of"
                " the patch"
            )
        return load_saved(args.what, port)
    schedule = parse_schedule(args.what)
    words = args.rest[1:] if args.rest[0] in ("check", "explore") else args.rest
    if args.rest[0] == "museum":
        return _of_exhibit(args.rest[1:], schedule, port, exhibits()), schedule
    if args.rest[0] == "explore" or (words and words[0].partition("::")[0].endswith(".py")):
        given = parse(["explore", *words])
        scenarios = load_scenarios(given.file)
        if len(scenarios) != 1:
            raise InputError(
                f"{printable(given.file)}: {len(scenarios)} scenarios; name one, FILE.py::SCENARIO"
            )
        one = scenarios[0]
        asked = read_options(Way.EXPLORE, options_given(given))
        return one.experiment(one.asked(asked), port), schedule
    if args.rest[0] == "patch":
        given = parse(args.rest)
        return experiment_of_patch(patch_request(given), patch_spec(given), port), schedule
    if any(word.partition("=")[0] in ("--site", "--to") for word in words):
        raise InputError(
            "--site and --to are options of patch; write -- patch in front of them: optprobe replay"
            " SCHEDULE -- patch IMAGE --call ..."
        )
    given = parse(["check", *words])
    return experiment_of_check(check_request(given), port), schedule
