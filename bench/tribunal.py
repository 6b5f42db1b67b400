"""``make tribunal``: the table and the timelines of docs/tribunal.md, in Markdown.

They are from fresh searches: each design of a patch protocol in each fetch model. Where it breaks,
the shortest schedule that was found is shown, instruction by instruction; where it does not, the
table has how many schedules there were.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import process_time

from arch_x86.explore.exhibits.designs import COLUMNS, DESIGNS
from arch_x86.explore.x86_setup import X86Setup
from bench.program import run_guarded
from engine.brief import count
from engine.ctrl_c import Interrupted
from engine.patching.check_result import CheckResult
from engine.patching.design import Column, Design
from engine.patching.exhibit import PatchCase
from engine.patching.search_options import Search
from engine.patching.verdict import check, replay_experiment
from engine.report.terminal import Progress


@dataclass(frozen=True, slots=True)
class Trial:
    """What the search of a design in a column has shown.

    :ivar seconds: the processor time of finding a violation and making its schedule short, all of
        which one process does.
    """

    design: Design
    column: Column
    result: CheckResult
    seconds: float

    @property
    def cell(self) -> str:
        """The text of the table's cell."""
        if not self.result.violations:
            found = count(self.result.outcome.schedules, "schedule")
            return f"safe ({found})" if self.result.outcome.exhaustive else f"not found ({found})"
        (report,) = self.result.violations
        choices = count(report.schedule.choices, "choice")
        return f"**{report.violation.kind}** ({choices}, {self.seconds:.1f} s)"


class _Court:
    """Searches designs.

    :param hard: the search of a design that is expected to hold.
    """

    def __init__(self, hard: Search) -> None:
        self._hard = hard
        self._port = X86Setup()

    def case(self, design: Design, column: Column) -> PatchCase:
        """Return the experiment: where the design is to hold, with two vCPUs and preemption."""
        case = design.case(column)
        return case if column.name in design.refuted else replace(case, cpus=2, preempt=True)

    def trial(self, design: Design, column: Column) -> Trial:
        """Search ``design`` in ``column``."""
        refuted = column.name in design.refuted
        search = Search(preemptions=1) if refuted else self._hard
        began = process_time()
        experiment = self.case(design, column).experiment(self._port)
        result = check(experiment, search, self._port)
        if result.died is not None:
            raise result.died
        if result.interrupted:
            raise KeyboardInterrupt
        return Trial(design, column, result, process_time() - began)

    def timeline(self, trial: Trial) -> list[str]:
        """Return the lines that show the violation of ``trial``."""
        experiment = self.case(trial.design, trial.column).experiment(self._port)
        schedule = trial.result.violations[0].schedule
        return replay_experiment(experiment, schedule, self._port)[1]


def table(trials: Sequence[Trial]) -> list[str]:
    """Return the lines of the table with a row a design and a column a fetch model."""
    cells = {(one.design.name, one.column.name): one.cell for one in trials}
    lines = [
        f"| design | {' | '.join(one.name for one in COLUMNS)} |",
        f"|{' --- |' * (len(COLUMNS) + 1)}",
    ]
    for design in dict.fromkeys(one.design.name for one in trials):
        row = [cells.get((design, column.name), "") for column in COLUMNS]
        lines.append(f"| `{design}` | {' | '.join(row)} |")
    return lines


def refutation(trial: Trial, timeline: Sequence[str]) -> list[str]:
    """Return the lines that tell of one refuted design."""
    design, (report,) = trial.design, trial.result.violations
    assert design.told is not None
    found = (
        f"{trial.column.name}: {count(report.schedule.choices, 'choice')}, found in"
        f" {count(trial.result.outcome.schedules, 'schedule')} and {trial.seconds:.1f} s"
    )
    return [
        f"### {design.name}",
        "",
        f"{design.what[0].upper()}{design.what[1:]}. Used by {design.used}.",
        "",
        " ".join(design.told),
        "",
        f"`{report.schedule}` ({found})",
        "",
        *(f"    {line}".rstrip() for line in timeline),
        "",
    ]


def main() -> int:
    """Search all designs, and print the table and the timelines."""
    parser = argparse.ArgumentParser(prog="make tribunal")
    parser.add_argument("--preemptions", type=int, default=3)
    parser.add_argument("--max-schedules", type=int, default=400_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--design", action="append", help="only this design")
    parser.add_argument("--refuted", action="store_true", help="only where a design breaks")
    args = parser.parse_args()
    court = _Court(
        Search(preemptions=args.preemptions, max_schedules=args.max_schedules, jobs=args.jobs)
    )
    line = Progress("tribunal")
    trials: list[Trial] = []
    shown: list[str] = []
    try:
        for design in DESIGNS:
            if args.design and design.name not in args.design:
                continue
            told = False
            for column in COLUMNS:
                if args.refuted and column.name not in design.refuted:
                    continue
                line.note(f"{design.name}, {column.name}")
                trials.append(trial := court.trial(design, column))
                if trial.result.violations and not told:
                    shown += refutation(trial, court.timeline(trial))
                    told = True
    except KeyboardInterrupt:
        raise Interrupted(f"after {count(len(trials), 'search', 'searches')}") from None
    finally:
        line.clear()
    print(*table(trials), "", sep="\n")
    print(*shown, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded(lambda: main))
