"""What the terminal shows of searches: a verdict, and a cell of the matrix."""

from __future__ import annotations

import sys
from typing import Final

from engine import defaults
from engine.errors import printable
from engine.patching.check_result import CheckResult
from engine.patching.experiment import Experiment
from engine.patching.matrix import Cell
from engine.patching.patch_result import PatchResult
from engine.report.terminal import Style, count

__all__ = ("cell_line", "show_patch", "show_result")

_COLOURS: Final = {
    "safe": "green",
    "nothing-found": "yellow",
    "violation": "red",
    "inconclusive": "yellow",
}
"""The colour of each verdict."""
_NEVER: Final = {
    "int3": "never hit by breakpoint",
    "boosted": "no hit was boosted",
    "stepped": "no hit was stepped",
    "jump": "never hit by jump",
    "ftrace": "never hit by ftrace",
}
"""What is said of each count of hits that is 0."""
_REPLAY: Final = (
    "optprobe replay SCHEDULE -- and the arguments of this command show it step by step"
)
"""A line behind violations, which are shown here without a timeline."""


def show_result(
    name: str,
    experiment: Experiment,
    result: CheckResult,
    style: Style,
    *,
    protocol: str | None = None,
) -> None:
    """Print what a search has to say.

    :param protocol: the patch protocol by which text was written; None: the profile's own.
    """
    print(f"{name}: {style.paint(result.verdict, _COLOURS[result.verdict], 'bold')}")
    where = "" if experiment.points == "locks" else f", --points {experiment.points}"
    where += "" if experiment.fetch == defaults.FETCH else f", --fetch {experiment.fetch}"
    where += ", --strict" if experiment.strict else ""
    where += "" if protocol is None else f", text written by {printable(protocol)}"
    print(f"  {_extent(result)}; {count(experiment.cpus, 'CPU')}, {experiment.profile.name}{where}")
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
    for method in () if result.violations else result.missing:
        print(f"  {_NEVER[method]}, though the site allows it: nothing is shown for that")
    for line in result.refused:
        print(f"  {line}")
    _show_violations(result, style)
    if result.violations:
        print(f"  {_REPLAY}")
    sys.stdout.flush()


def show_patch(experiment: Experiment, result: PatchResult, style: Style) -> None:
    """Print what a search has to say of a patch, and the timeline of the first violation."""
    print(f"{experiment.call}: {style.paint(result.verdict, _COLOURS[result.verdict], 'bold')}")
    for site in result.sites:
        again = ", and back" if result.back else ""
        print(f"  {site.addr:#x}: {site.old.hex(' ')} -> {site.new.hex(' ')}{again}")
    left_out = f" without {', '.join(result.without)}" if result.without else ""
    strict = ", --strict" if experiment.strict else ""
    print(
        f"  by {printable(result.protocol)}{left_out}; {count(experiment.cpus, 'CPU')}"
        f"{', preemption' if experiment.preempt else ''}, fetch model {experiment.fetch}{strict}"
    )
    print(f"  {_extent(result)}")
    c = result.coverage
    print(
        f"  executed at the sites: the old code {count(c.old_code, 'time')}, the new code"
        f" {c.new_code:,}, a breakpoint {c.trapped:,}"
    )
    print(
        f"  {c.in_flight_at_write:,} CPUs in flight while text was written, {c.parked_in_range:,}"
        f" of them inside the bytes; {result.points:,} points"
    )
    for code in () if result.violations else result.missing:
        print(f"  {code} was never executed: nothing is shown for it")
    _show_violations(result, style)
    for line in result.timeline:
        print(f"  {line}".rstrip())
    sys.stdout.flush()


def _extent(result: CheckResult) -> str:
    """Return how far the search came."""
    bound = "no bound" if result.preemptions is None else f"preemption bound {result.preemptions}"
    kind = (
        "exhaustive"
        if result.outcome.exhaustive
        else "interrupted"
        if result.interrupted
        else "not exhaustive"
    )
    return f"{count(result.outcome.schedules, 'schedule')}, {bound}, {kind}"


def _show_violations(result: CheckResult, style: Style) -> None:
    for report in result.violations:
        print(
            f"  {style.paint(str(report.violation.kind), 'red', 'bold')}:"
            f" {report.violation.explain}"
        )
        print(f"  {report.schedule}")
        if report.file is not None:
            print(f"  {report.file}")


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
