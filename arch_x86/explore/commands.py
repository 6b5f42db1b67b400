"""The commands ``check``, ``explore``, ``replay`` and ``matrix``: options in, reports out."""

from __future__ import annotations

import json
import re
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from arch_x86.explore.scenarios.steps import SHOWN
from arch_x86.explore.x86_setup import X86Setup
from engine.core.profiles import profile_named
from engine.errors import InputError, UnprobedFault, WorkerDied, error_text, printable
from engine.patching.check_result import CheckResult
from engine.patching.experiment import Experiment
from engine.patching.make_experiment import experiment_of_check
from engine.patching.matrix import CONFIGURATIONS, Cell, matrix
from engine.patching.request import Request
from engine.patching.request_options import Way, read_options
from engine.patching.saved_violations import SavedExperiment, SaveDirectory, load_saved
from engine.patching.scenario_files import load_scenarios
from engine.patching.search_options import Search, read_search
from engine.patching.setup_port import SetupPort
from engine.patching.verdict import check, replay_experiment
from engine.report.search_report import cell_line, show_result
from engine.report.terminal import Progress, Style, complain
from engine.search.schedule import Schedule, parse_schedule

__all__ = ("check_request", "run_check", "run_explore", "run_matrix", "run_replay")

_GOOD, _BAD, _INTERRUPTED = 0, 1, 130
_MATRIX_SCHEDULES: Final = 40_000
"""The matrix stops a search after so many schedules, where no other number is given."""


def _given(args: Namespace) -> dict[str, Any]:
    """What the command line gives, by the names that Python has for it; None: not said."""
    given = vars(args) | {
        "reduce": not args.no_reduction,
        "hashing": not args.no_hashing,
        "preemptions": args.preemptions if args.preemptions_given else None,
    }
    others = {"probes": "probe", "stubs": "stub"}
    return given | {name: given.get(other) for name, other in others.items()}


def check_request(args: Namespace) -> Request:
    """What ``check`` is asked.

    :raises InputError: one of the options is wrong.
    """
    given = _given(args)
    given["without"] = sorted(set(args.without))
    return Request(**read_options(Way.CHECK, given))


def run_check(args: Namespace) -> int:
    """``optprobe check``."""
    port = X86Setup()
    request, search = check_request(args), read_search(_given(args))
    directory = None if args.save is None else SaveDirectory(Path(args.save))
    experiment = experiment_of_check(request, port)
    saved = None if directory is None else directory.of_check(request)
    for warning in experiment.image.warnings:
        complain(f"{experiment.image.name}: {warning}")
    result = _search(f"check {args.call}", experiment, search, port, refuses=True)
    _name_files(saved, result)
    if args.json:
        print(json.dumps(result.to_json(), allow_nan=False), flush=True)
    else:
        show_result(args.call, experiment, result, Style.for_stream(sys.stdout))
    _save(saved, result)
    if result.died is not None:
        raise result.died
    if result.interrupted:
        return _INTERRUPTED
    return _GOOD if result.good and result.unwritten is None else _BAD


def _name_files(saved: SavedExperiment | None, result: CheckResult) -> None:
    """The reports say to which files they go, if there is a directory for them."""
    if saved is not None:
        for number, report in enumerate(result.violations):
            result.violations[number] = replace(
                report, file=str(saved.file(number, report.schedule))
            )


def _save(saved: SavedExperiment | None, result: CheckResult) -> None:
    """What was found, and has been printed, goes to its files. What can't be written, here or in a
    checkpoint, is said.
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


def _search(
    label: str, experiment: Experiment, search: Search, port: SetupPort, *, refuses: bool = False
) -> CheckResult:
    line = Progress(label)

    def progress(schedules: int, expected: int | None) -> None:
        line.schedules(schedules, expected)

    try:
        return check(experiment, search, port, progress=progress, refuses=refuses)
    finally:
        line.clear()


def run_explore(args: Namespace) -> int:
    """``optprobe explore``."""
    port, search = X86Setup(), read_search(_given(args))
    directory = None if args.save is None else SaveDirectory(Path(args.save))
    # All are set up before the first is searched, so that what is wrong with the last one is said
    # at once.
    scenarios = load_scenarios(args.file)
    asked = read_options(Way.EXPLORE, _given(args))
    experiments = [(one, one.experiment(one.asked(asked), port)) for one in scenarios]
    documents: list[dict[str, object]] = []
    worst = _GOOD
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
                result = _search(f"explore {one.name}", experiment, bound, port)
            except KeyboardInterrupt:  # while it was set up
                complain(f"interrupted while {one.name} was set up")
                worst = _INTERRUPTED
                break
            except UnprobedFault as error:
                complain(f"{one.name}: {error}")
                worst = _BAD
                continue
            _name_files(saved, result)
            if args.json:
                documents.append({"scenario": one.name, **result.to_json()})
            else:
                show_result(one.name, experiment, result, Style.for_stream(sys.stdout))
            _save(saved, result)
            if result.died is not None:
                raise result.died
            if not result.good or result.unwritten is not None:
                worst = _BAD
            if result.interrupted:
                worst = _INTERRUPTED
                break
    except (
        Exception,
        KeyboardInterrupt,
    ):  # one line about a scenario: what came out of those in front of it is told all the same
        if documents:
            _print_scenarios(documents)
        raise
    if args.json:
        _print_scenarios(documents)
    return worst


def _print_scenarios(documents: list[dict[str, object]]) -> None:
    print(json.dumps({"schema": 1, "scenarios": documents}, allow_nan=False), flush=True)


def run_replay(args: Namespace, parse: Callable[[list[str]], Namespace]) -> int:
    """``optprobe replay``.

    :param parse: the parser of the arguments of ``check`` and ``explore``.
    """
    port = X86Setup()
    experiment, schedule = _replayed(args, parse, port)
    try:
        violation, lines = replay_experiment(experiment, schedule, port)
    except UnprobedFault as error:  # no violation, which exit status 1 would say
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
    return _GOOD if violation is None else _BAD


def _replayed(
    args: Namespace, parse: Callable[[list[str]], Namespace], port: SetupPort
) -> tuple[Experiment, Schedule]:
    if not args.rest:
        if re.match(r"v\d+:[0-9a-f]{8}:", args.what) and not Path(args.what).exists():
            parse_schedule(args.what)
            raise InputError(
                "a schedule alone says not of what; "
                "write -- behind it, and the arguments of the check or explore that found it"
            )
        return load_saved(args.what, port)
    schedule = parse_schedule(args.what)
    if args.rest[0].partition("::")[0].endswith(".py"):
        given = parse(["explore", *args.rest])
        scenarios = load_scenarios(given.file)
        if len(scenarios) != 1:
            raise InputError(
                f"{printable(given.file)}: {len(scenarios)} scenarios; name one, FILE.py::SCENARIO"
            )
        one = scenarios[0]
        asked = read_options(Way.EXPLORE, _given(given))
        return one.experiment(one.asked(asked), port), schedule
    given = parse(["check", *args.rest])
    return experiment_of_check(check_request(given), port), schedule


def run_matrix(args: Namespace) -> int:
    """``optprobe matrix``."""
    search = read_search(_given(args))
    if search.max_schedules is None:
        search = replace(search, max_schedules=_MATRIX_SCHEDULES)
    columns = [
        one
        for one in CONFIGURATIONS
        if args.profile in (None, one.profile.name) and not (one.preempt and args.no_preempt)
    ]
    if args.profile is not None:
        profile_named(args.profile)
    line = Progress("matrix")
    cells: list[Cell] = []
    interrupted, died = False, None
    unwritten: list[str] = []
    try:
        for cell in matrix(
            search, X86Setup(), SHOWN, columns, say=line.note, warn=unwritten.append
        ):
            cells.append(cell)
            if not args.json:
                line.clear()
                print(cell_line(cell), flush=True)
    except KeyboardInterrupt:
        interrupted = True
    except WorkerDied as error:
        interrupted, died = True, error
    finally:
        line.clear()
    if args.json:
        print(
            json.dumps(
                {
                    "schema": 1,
                    "interrupted": interrupted,
                    "cells": [cell.to_json() for cell in cells],
                },
                allow_nan=False,
            )
        )
    if unwritten:
        complain(unwritten[0])
    if died is not None:
        raise died
    if interrupted:
        return _INTERRUPTED
    baseline_breaks = any(
        cell.step is None and cell.report is not None and not cell.configuration.preempt
        for cell in cells
    )
    return _BAD if baseline_breaks or unwritten else _GOOD
