"""The commands ``check``, ``explore``, ``replay`` and ``matrix``: options in, reports out."""

from __future__ import annotations

import json
import re
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from arch_x86.emu.machine import CPUS_MAX
from arch_x86.explore.check import check, replay_case
from arch_x86.explore.matrix import CONFIGURATIONS, Cell, matrix
from arch_x86.explore.saved_violations import (
    INSTRUCTIONS_MAX,
    CheckOptions,
    SavedCase,
    SaveDirectory,
    ScenarioOptions,
    case_of,
    load_saved,
    scenario_case,
)
from arch_x86.explore.scenario import CALLS_MAX, Scenario, load_scenarios
from arch_x86.images import parse_stub
from engine import defaults
from engine.core.profiles import profile_named
from engine.errors import InputError, UnprobedFault, WorkerDied, error_text, printable
from engine.patching.check_result import CheckResult
from engine.patching.experiment import Experiment
from engine.patching.search_options import STRATEGIES, Search
from engine.report.terminal import Progress, Style, complain, count
from engine.search.schedule import Schedule, parse_schedule
from engine.syntax.arguments import parse_number

__all__ = (
    "check_options",
    "run_check",
    "run_explore",
    "run_matrix",
    "run_replay",
    "search_options",
)

_GOOD, _BAD, _INTERRUPTED = 0, 1, 130
_MATRIX_SCHEDULES = 40_000


def check_options(args: Namespace) -> CheckOptions:
    """What describes the case.

    :raises InputError: a number or a stub is wrong.
    """
    return CheckOptions(
        image=args.image,
        call=args.call,
        arguments=tuple(args.arguments),
        probes=tuple(args.probe),
        calls=parse_number(args.calls, "--calls", least=1, most=CALLS_MAX),
        cpus=parse_number(args.cpus, "--cpus", least=1, most=CPUS_MAX),
        profile=args.profile,
        preempt=args.preempt,
        fetch=args.fetch,
        without=tuple(sorted(set(args.without))),
        resched=tuple(args.resched),
        libraries=tuple(args.libraries),
        stubs=tuple(sorted(dict(parse_stub(stub) for stub in args.stub).items())),
        max_instructions=parse_number(
            args.max_instructions, "--max-instructions", least=1, most=INSTRUCTIONS_MAX
        ),
        red_zone=args.red_zone,
        check_alignment=args.check_alignment,
        points=args.points,
        reduce=not args.no_reduction,
    )


def search_options(args: Namespace) -> Search:
    """How to search.

    :raises InputError: an unknown strategy, a wrong number, or an option of another strategy.
    """
    for option, value, takers in (
        ("--seed", args.seed, ("random", "pct")),
        ("--depth", args.depth, ("pct",)),
    ):
        if value is not None and args.strategy in STRATEGIES and args.strategy not in takers:
            raise InputError(
                f"{option}: only --strategy {' and '.join(takers)} has it; leave it out, or give"
                f" --strategy {takers[-1]}"
            )
    if args.preemptions_given and args.strategy == "pct":
        raise InputError(
            "--preemptions: --strategy pct has no such bound, but --depth; give that instead"
        )
    bound = (
        None
        if args.preemptions == "none"
        else parse_number(args.preemptions, "--preemptions", least=0, most=1_000)
    )
    most = (
        None
        if args.max_schedules is None
        else parse_number(args.max_schedules, "--max-schedules", least=1)
    )
    search = Search(
        strategy=args.strategy,
        preemptions=bound,
        max_schedules=most,
        seed=parse_number(
            str(defaults.SEED) if args.seed is None else args.seed, "--seed", least=0
        ),
        depth=parse_number(
            str(defaults.PCT_DEPTH) if args.depth is None else args.depth,
            "--depth",
            least=1,
            most=1_000,
        ),
        hashing=not args.no_hashing,
        recheck_every=1 if args.recheck else 100,
        jobs=parse_number(args.jobs, "--jobs", least=1, most=256),
        checkpoints=None if args.checkpoint is None else Path(args.checkpoint),
    )
    search.build()
    return search


def run_check(args: Namespace) -> int:
    """``optprobe check``."""
    options, search = check_options(args), search_options(args)
    directory = None if args.save is None else SaveDirectory(Path(args.save))
    case = case_of(options)
    saved = None if directory is None else directory.prepare(options)
    for warning in case.image.warnings:
        complain(f"{case.image.name}: {warning}")
    result = _search(f"check {args.call}", case, search, refuses=True)
    _name_files(saved, result)
    if args.json:
        print(json.dumps(result.to_json(), allow_nan=False), flush=True)
    else:
        _show(args.call, case, result, Style.for_stream(sys.stdout))
    _save(saved, result)
    if result.died is not None:
        raise result.died
    if result.interrupted:
        return _INTERRUPTED
    return _GOOD if result.good and result.unwritten is None else _BAD


def _name_files(saved: SavedCase | None, result: CheckResult) -> None:
    """The reports say to which files they go, if there is a directory for them."""
    if saved is not None:
        for number, report in enumerate(result.violations):
            result.violations[number] = replace(
                report, file=str(saved.file(number, report.schedule))
            )


def _save(saved: SavedCase | None, result: CheckResult) -> None:
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


def _search(label: str, case: Experiment, search: Search, *, refuses: bool = False) -> CheckResult:
    line = Progress(label)

    def progress(schedules: int, expected: int | None) -> None:
        line.schedules(schedules, expected)

    try:
        return check(case, search, progress=progress, refuses=refuses)
    finally:
        line.clear()


def _show(name: str, case: Experiment, result: CheckResult, style: Style) -> None:
    colour = {
        "safe": "green",
        "nothing-found": "yellow",
        "violation": "red",
        "inconclusive": "yellow",
    }[result.verdict]
    print(f"{name}: {style.paint(result.verdict, colour, 'bold')}")
    bound = "no bound" if result.preemptions is None else f"preemption bound {result.preemptions}"
    kind = (
        "exhaustive"
        if result.outcome.exhaustive
        else "interrupted"
        if result.interrupted
        else "not exhaustive"
    )
    where = "" if case.points == "locks" else f", --points {case.points}"
    print(
        f"  {count(result.outcome.schedules, 'schedule')}, {bound}, {kind};"
        f" {count(case.cpus, 'CPU')}, {case.profile.name}{where}"
    )
    c = result.coverage
    by_ftrace = f", {c.ftrace:,} by ftrace" if c.ftrace else ""
    print(
        f"  hits: {c.int3:,} by breakpoint ({c.boosted:,} boosted, {c.stepped:,} stepped),"
        f" {c.jump:,} by jump{by_ftrace}"
    )
    print(
        f"  {c.in_flight_at_write:,} CPUs in flight while text was written, {c.parked_in_range:,}"
        " of them inside the bytes; ",
        end="",
    )
    print(f"{result.points:,} points")
    for method in result.missing:
        print(f"  never hit by {method}, though the site allows it: nothing is shown for that")
    for line in result.refused:
        print(f"  {line}")
    for report in result.violations:
        print(
            f"  {style.paint(str(report.violation.kind), 'red', 'bold')}:"
            f" {report.violation.explain}"
        )
        print(f"  {report.schedule}")
        if report.file is not None:
            print(f"  {report.file}")
    sys.stdout.flush()


def run_explore(args: Namespace) -> int:
    """``optprobe explore``."""
    search = search_options(args)
    directory = None if args.save is None else SaveDirectory(Path(args.save))
    # All are set up before the first is searched, so that what is wrong with the last one is said
    # at once.
    cases = [
        (one, options, scenario_case(one, options))
        for one in load_scenarios(args.file)
        for options in (_scenario_options(one, args),)
    ]
    documents: list[dict[str, object]] = []
    worst = _GOOD
    try:
        for one, options, case in cases:
            saved = None if directory is None else directory.prepare(options)
            bound = (
                search if args.preemptions_given else replace(search, preemptions=one.preemptions)
            )
            try:
                result = _search(f"explore {one.name}", case, bound)
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
                _show(one.name, case, result, Style.for_stream(sys.stdout))
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


def _scenario_options(one: Scenario, args: Namespace) -> ScenarioOptions:
    return ScenarioOptions(
        file=args.file.partition("::")[0],
        name=one.name,
        profile=args.profile,
        preempt=args.preempt,
        cpus=(
            None if args.cpus is None else parse_number(args.cpus, "--cpus", least=1, most=CPUS_MAX)
        ),
        without=tuple(args.without),
        points=args.points,
        check_alignment=args.check_alignment,
        reduce=not args.no_reduction,
    )


def run_replay(args: Namespace, parse: Callable[[list[str]], Namespace]) -> int:
    """``optprobe replay``. ``parse``: the parser of check's arguments."""
    case, schedule = _replayed(args, parse)
    try:
        violation, lines = replay_case(case, schedule)
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
    args: Namespace, parse: Callable[[list[str]], Namespace]
) -> tuple[Experiment, Schedule]:
    if not args.rest:
        if re.match(r"v\d+:[0-9a-f]{8}:", args.what) and not Path(args.what).exists():
            parse_schedule(args.what)
            raise InputError(
                "a schedule alone says not of what; "
                "write -- behind it, and the arguments of the check or explore that found it"
            )
        return load_saved(args.what)
    schedule = parse_schedule(args.what)
    if args.rest[0].partition("::")[0].endswith(".py"):
        given = parse(["explore", *args.rest])
        scenarios = load_scenarios(given.file)
        if len(scenarios) != 1:
            raise InputError(
                f"{printable(given.file)}: {len(scenarios)} scenarios; name one, FILE.py::SCENARIO"
            )
        return scenario_case(scenarios[0], _scenario_options(scenarios[0], given)), schedule
    given = parse(["check", *args.rest])
    return case_of(check_options(given)), schedule


def run_matrix(args: Namespace) -> int:
    """``optprobe matrix``."""
    search = search_options(args)
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
        for cell in matrix(search, configurations=columns, say=line.note, warn=unwritten.append):
            cells.append(cell)
            if not args.json:
                line.clear()
                print(_cell_line(cell), flush=True)
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


def _cell_line(cell: Cell) -> str:
    what = f"{cell.step or '(all steps)':<21} {cell.configuration.name:<24}"
    if cell.report is None:
        kind = "exhaustive" if cell.exhaustive else "not exhaustive"
        why = f": {cell.argument}" if cell.argument else ""
        verdict = (
            "nothing found"
            if not cell.exhaustive
            else "safe"
            if cell.step is None
            else "not needed here"
        )
        return (
            f"{what} {verdict}{why} ({cell.schedules:,} schedules of {cell.scenario}, {kind},"
            f" {cell.seconds:.1f} s)"
        )
    anyway = ", as it does with all steps" if cell.breaks_anyway else ""
    found = cell.report
    return (
        f"{what} {found.violation.kind}{anyway} ({found.schedule.choices} choices,"
        f" {cell.seconds:.1f} s, {cell.scenario})\n{'':<46} {found.schedule}"
    )
