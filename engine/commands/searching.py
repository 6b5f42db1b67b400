"""The work of ``check`` and ``explore``.

It is loaded when one of them is called, since it loads all that explores.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.commands.exit_status import BAD, GOOD, INTERRUPTED
from engine.commands.users_output import users_output_apart
from engine.errors import UnprobedFault, error_text, printable
from engine.patching.check_result import CheckResult
from engine.patching.experiment import Experiment
from engine.patching.make_experiment import experiment_of_check
from engine.patching.request import Request
from engine.patching.request_options import Way, read_options
from engine.patching.saved_violations import SavedExperiment, SaveDirectory
from engine.patching.scenario_files import load_scenarios
from engine.patching.search_options import Search, read_search
from engine.patching.setup_port import SetupPort
from engine.patching.verdict import check
from engine.report.search_report import show_result
from engine.report.terminal import Progress, Style, complain

__all__ = (
    "check_request",
    "name_files",
    "options_given",
    "run_check",
    "run_explore",
    "save",
    "searched",
)


def options_given(args: Namespace) -> dict[str, Any]:
    """Return what the command line gives, by the names of Python's parameters; None: not given."""
    given = vars(args) | {
        "reduce": not args.no_reduction,
        "hashing": not args.no_hashing,
        "preemptions": args.preemptions if args.preemptions_given else None,
    }
    others = {"probes": "probe", "stubs": "stub"}
    return given | {name: given.get(other) for name, other in others.items()}


def check_request(args: Namespace) -> Request:
    """Return the request that the options of ``check`` make.

    :raises InputError: one of the options is wrong.
    """
    given = options_given(args)
    given["without"] = sorted(set(args.without))
    return Request(**read_options(Way.CHECK, given))


def run_check(args: Namespace, port: SetupPort) -> int:
    """Run ``optprobe check`` on machines of ``port``, and return the exit status."""
    request, search = check_request(args), read_search(options_given(args))
    directory = None if args.save is None else SaveDirectory(Path(args.save))
    with users_output_apart():
        experiment = experiment_of_check(request, port)
    saved = None if directory is None else directory.of_check(request)
    for warning in experiment.image.warnings:
        complain(f"{experiment.image.name}: {warning}")
    result = searched(f"check {args.call}", experiment, search, port, refuses=True)
    name_files(saved, result)
    if args.json:
        print(json.dumps(result.to_json(), allow_nan=False), flush=True)
    else:
        style = Style.for_stream(sys.stdout)
        show_result(args.call, experiment, result, style, protocol=args.protocol)
    save(saved, result)
    if result.died is not None:
        raise result.died
    if result.interrupted:
        return INTERRUPTED
    return GOOD if result.good and result.unwritten is None else BAD


def run_explore(args: Namespace, port: SetupPort) -> int:
    """Run ``optprobe explore`` on machines of ``port``, and return the exit status."""
    search = read_search(options_given(args))
    directory = None if args.save is None else SaveDirectory(Path(args.save))
    # All scenarios are set up before the first is searched, so that a mistake in the last one is
    # reported at once.
    with users_output_apart():
        scenarios = load_scenarios(args.file)
        asked = read_options(Way.EXPLORE, options_given(args))
        experiments = [(one, one.experiment(one.asked(asked), port)) for one in scenarios]
    documents: list[dict[str, object]] = []
    worst = GOOD
    try:
        for one, experiment in experiments:
            saved = (
                None
                if directory is None
                else directory.of_scenario(args.file.partition("::")[0], one.name, asked)
            )
            bound = (
                search if args.preemptions_given else replace(search, preemptions=one.preemptions)
            )
            try:
                result = searched(f"explore {one.name}", experiment, bound, port)
            except KeyboardInterrupt:  # Ctrl-C came while the machine was set up.
                complain(f"interrupted while {one.name} was set up")
                worst = INTERRUPTED
                break
            except UnprobedFault as error:
                complain(f"{one.name}: {error}")
                worst = BAD
                continue
            name_files(saved, result)
            if args.json:
                documents.append({"scenario": one.name, **result.to_json()})
            else:
                style = Style.for_stream(sys.stdout)
                show_result(one.name, experiment, result, style, protocol=args.protocol)
            save(saved, result)
            if result.died is not None:
                raise result.died
            if not result.good or result.unwritten is not None:
                worst = BAD
            if result.interrupted:
                worst = INTERRUPTED
                break
    except (
        Exception,
        KeyboardInterrupt,
    ):
        # The error becomes one line; the results of the scenarios before it are printed as well.
        if documents:
            _print_scenarios(documents)
        raise
    if args.json:
        _print_scenarios(documents)
    return worst


def _print_scenarios(documents: list[dict[str, object]]) -> None:
    print(json.dumps({"schema": 1, "scenarios": documents}, allow_nan=False), flush=True)


def name_files(saved: SavedExperiment | None, result: CheckResult) -> None:
    """Note in each report to which file it will go, if there is a directory for them."""
    if saved is not None:
        for number, report in enumerate(result.violations):
            result.violations[number] = replace(
                report, file=str(saved.file(number, report.schedule))
            )


def save(saved: SavedExperiment | None, result: CheckResult) -> None:
    """Write the violations, which have been printed, to their files.

    What can't be written, here or in a checkpoint, is reported on standard error.
    """
    if result.unwritten is not None:
        complain(result.unwritten)
    for report in result.violations:
        if saved is not None and report.file is not None:
            try:
                saved.write(Path(report.file), report.schedule, report.violation.explain)
            except OSError as error:
                complain(
                    f"--save: cannot write {printable(report.file)}: {error_text(error)}; the"
                    " schedule is in the output"
                )


def searched(
    label: str, experiment: Experiment, search: Search, port: SetupPort, *, refuses: bool = False
) -> CheckResult:
    """Search, and show meanwhile under ``label`` how far the search has come."""
    line = Progress(label)

    def progress(schedules: int, expected: int | None) -> None:
        line.schedules(schedules, expected)

    try:
        with users_output_apart():
            return check(experiment, search, port, progress=progress, refuses=refuses)
    finally:
        line.clear()
