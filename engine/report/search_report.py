"""What the terminal shows of searches: a verdict, and a cell of the matrix."""

from __future__ import annotations

import sys

from engine import defaults
from engine.patching.check_result import CheckResult
from engine.patching.experiment import Experiment
from engine.patching.matrix import Cell
from engine.report.terminal import Style, count

__all__ = ("cell_line", "show_result")


def show_result(name: str, experiment: Experiment, result: CheckResult, style: Style) -> None:
    """Print what a search has to say."""
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
    where = "" if experiment.points == "locks" else f", --points {experiment.points}"
    where += "" if experiment.fetch == defaults.FETCH else f", --fetch {experiment.fetch}"
    where += ", --strict" if experiment.strict else ""
    print(
        f"  {count(result.outcome.schedules, 'schedule')}, {bound}, {kind};"
        f" {count(experiment.cpus, 'CPU')}, {experiment.profile.name}{where}"
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


def cell_line(cell: Cell) -> str:
    """A cell of the matrix, with its schedule, if one broke something."""
    late = "" if cell.fetch == defaults.FETCH else f"--fetch {cell.fetch:<8} "
    what = f"{cell.step or '(all steps)':<21} {cell.configuration.name:<24} {late}".rstrip()
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
        f" {cell.seconds:.1f} s, {cell.scenario})\n{'':<{46 + len(late)}} {found.schedule}"
    )
