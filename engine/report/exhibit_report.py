"""What the terminal shows of the exhibits of ``optprobe museum``."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from typing import Final

from engine.patching.check_result import CheckResult
from engine.patching.exhibit import Exhibit
from engine.report.terminal import Style, count, table

__all__ = ("extent", "show_exhibit", "show_exhibits", "show_mended")

_WIDTH: Final = 96
_HEADS: Final = ("NAME", "YEAR", "VIOLATION", "WHAT")


def show_exhibits(exhibits: Sequence[Exhibit]) -> None:
    """Print the list of all exhibits."""
    rows = [(one.name, str(one.year), str(one.kind), one.title) for one in exhibits]
    print(table(_HEADS, rows))
    print()
    print("optprobe museum NAME runs one of them; docs/museum.md tells more.")
    sys.stdout.flush()


def show_exhibit(one: Exhibit, found: CheckResult, timeline: Sequence[str], style: Style) -> None:
    """Print what went wrong, and the timeline of the faulty variant.

    :param found: the result of the search of the faulty variant.
    """
    print(style.paint(f"{one.name} ({one.year}): {one.title}", "bold"))
    print(textwrap.fill(" ".join(one.told), _WIDTH, initial_indent="  ", subsequent_indent="  "))
    print(f"  {one.source}")
    print()
    print(f"faulty: {one.faulty.how}")
    for report in found.violations:
        choices = count(report.schedule.choices, "choice")
        print(
            f"  {style.paint(str(report.violation.kind), 'red', 'bold')}, {choices}, found in"
            f" {count(found.outcome.schedules, 'schedule')}"
        )
        print(f"  {report.schedule}")
    if not found.violations:
        print(f"  {style.paint(found.verdict, 'yellow', 'bold')}: {extent(found)}")
    for line in timeline:
        print(f"  {line}".rstrip())
    print()
    sys.stdout.flush()


def show_mended(one: Exhibit, result: CheckResult, style: Style) -> None:
    """Print what the search of the mended variant has shown."""
    print(f"mended: {one.mended.how}")
    if result.violations:
        for report in result.violations:
            print(
                f"  {style.paint(str(report.violation.kind), 'red', 'bold')}:"
                f" {report.violation.explain}"
            )
    else:
        print(f"  {style.paint('clean', 'green', 'bold')}: {extent(result)}")
    sys.stdout.flush()


def extent(result: CheckResult) -> str:
    """Return how far a search came, in a few words."""
    whole = "all of them" if result.outcome.exhaustive else "there are more"
    return (
        f"{count(result.outcome.schedules, 'schedule')} with at most"
        f" {count(result.preemptions or 0, 'preemption')}, {whole}"
    )
