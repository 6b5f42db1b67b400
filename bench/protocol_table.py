"""The table of ``make necessity NECESSITY=--protocols``: which step of which protocol is needed.

A row is a protocol without one of its steps, with tasks that are preempted or without; a column is
a fetch model and where the site lies. Each cell is from fresh searches.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import process_time

from arch_x86.explore.exhibits.designs import COLUMNS
from arch_x86.explore.x86_setup import X86Setup
from bench.protocol_cases import SUBJECTS, Cell, Subject
from bench.protocol_reasons import NOTES, reason
from engine.patching.check_result import CheckResult
from engine.patching.experiment import Experiment
from engine.patching.search_options import Search
from engine.patching.verdict import check

__all__ = ("Cells", "Found", "cells", "searched", "table")


@dataclass(frozen=True, slots=True)
class Found:
    """What the searches of a cell have shown.

    :ivar subject: the name of the protocol, or of the kprobes that write by their profile's own.
    :ivar step: the step that is left out, or None.
    :ivar column: the name of the column.
    :ivar kind: the kind of violation that was found, or None.
    :ivar choices: how many choices the shortest schedule has that shows it.
    :ivar anyway: the case that broke breaks with all steps, too.
    :ivar schedules: how many schedules the searches have visited.
    :ivar exhaustive: they have visited every schedule within the bound.
    :ivar seconds: their processor time.
    """

    subject: str
    step: str | None
    preempt: bool
    column: str
    kind: str | None
    choices: int
    anyway: bool
    schedules: int
    exhaustive: bool
    seconds: float

    @property
    def text(self) -> str:
        """The text of the cell."""
        if self.kind is not None:
            return f"{self.kind}{' anyway' if self.anyway else ''}: {self.choices} choices"
        if not self.exhaustive:
            return f"not found in {self.schedules:,} schedules"
        shown = f"({self.schedules:,} schedules, exhaustive)"
        if self.step is None:
            return f"safe {shown}"
        note = reason(self.subject, self.step, self.column)
        told = "" if note is None else f" [{list(NOTES).index(note) + 1}]"
        return f"not needed {shown}{told}"


class Cells:
    """The cells that were searched, which a file keeps, if there is one.

    :param file: the file, or None.
    :param preemptions: the bound of the searches.
    :ivar found: the cells, by their place in the table.
    """

    def __init__(self, file: Path | None, preemptions: int) -> None:
        self._file = file
        self._preemptions = preemptions
        self.found: dict[tuple[str, str | None, bool, str], Found] = {}
        if file is not None and file.exists():
            for line in file.read_text(encoding="utf-8").splitlines():
                fields = json.loads(line)
                if fields.pop("preemptions") == preemptions:
                    self._keep(Found(**fields))

    def _keep(self, one: Found) -> None:
        self.found[one.subject, one.step, one.preempt, one.column] = one

    def add(self, one: Found) -> None:
        """Keep ``one``, in the file, too."""
        self._keep(one)
        if self._file is not None:
            line = json.dumps({**asdict(one), "preemptions": self._preemptions})
            with self._file.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")


def cells(names: Sequence[str]) -> Iterator[tuple[Subject, str, Cell]]:
    """Yield the subject, the column and the cell of each place in the table, row by row.

    :param names: the names of subjects; none stands for all.
    """
    for subject in SUBJECTS:
        if names and subject.name not in names:
            continue
        for step in (None, *subject.steps):
            for preempt in (False, True):
                for column in COLUMNS:
                    yield subject, column.name, Cell(column.fetch, column.at, preempt, step)


def searched(subject: Subject, column: str, cell: Cell, search: Search) -> Found:
    """Search the cases of ``subject`` in ``cell``, up to one that breaks.

    :raises KeyboardInterrupt: Ctrl-C came.
    """
    kind, choices, anyway, schedules, exhaustive = None, 0, False, 0, True
    began = process_time()
    for case in subject.of(cell):
        result = _run(case(subject.name, cell), search)
        schedules += result.outcome.schedules
        if result.violations:
            (report,) = result.violations
            exhaustive = False  # The search ended at the first violation.
            kind, choices = str(report.violation.kind), report.schedule.choices
            whole = case(subject.name, replace(cell, step=None))
            anyway = cell.step is not None and bool(_run(whole, search).violations)
            break
        exhaustive = exhaustive and result.outcome.exhaustive
    return Found(
        subject=subject.name,
        step=cell.step,
        preempt=cell.preempt,
        column=column,
        kind=kind,
        choices=choices,
        anyway=anyway,
        schedules=schedules,
        exhaustive=exhaustive,
        seconds=process_time() - began,
    )


def _run(experiment: Experiment, search: Search) -> CheckResult:
    result = check(experiment, search, X86Setup())
    if result.died is not None:
        raise result.died
    if result.interrupted:
        raise KeyboardInterrupt
    return result


def table(found: Mapping[tuple[str, str | None, bool, str], Found]) -> list[str]:
    """Return the lines of the table, and those of its notes."""
    columns = [one.name for one in COLUMNS]
    lines = [
        f"| protocol | left out | preemption | {' | '.join(columns)} |",
        f"|{' --- |' * (len(columns) + 3)}",
    ]
    for subject, first, cell in cells(()):
        if first != columns[0]:
            continue
        row = [found.get((subject.name, cell.step, cell.preempt, column)) for column in columns]
        if any(row):
            what = "nothing" if cell.step is None else f"`{cell.step}`"
            texts = [subject.name, what, "yes" if cell.preempt else "no"]
            texts += ["" if one is None else one.text for one in row]
            lines.append(f"| {' | '.join(texts)} |")
    notes = [f"{number}. {NOTES[note]}" for number, note in enumerate(NOTES, 1)]
    return [*lines, "", *notes]
