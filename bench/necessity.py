"""``make necessity``: the tables of docs/necessity.md and docs/findings.md.

They are printed in Markdown, from a fresh run of the matrix. With ``--protocols`` it is the table
of the patch protocols: each without each of its steps, in each fetch model, with and without
preemption.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from arch_x86.explore.scenarios.steps import SHOWN
from arch_x86.explore.x86_setup import X86Setup
from bench.program import run_guarded
from bench.protocol_cases import SUBJECTS
from bench.protocol_table import Cells, cells, searched
from bench.protocol_table import table as protocols_table
from engine import defaults
from engine.core.profiles import NEXT
from engine.ctrl_c import Interrupted
from engine.patching.fetch_model import FETCH_MODELS
from engine.patching.matrix import CONFIGURATIONS, Cell, Configuration, matrix
from engine.patching.search_options import Search
from engine.report.terminal import Progress, complain, count

_KERNELS: Final = tuple(one for one in CONFIGURATIONS if one.profile is not NEXT)
_NEXT: Final = tuple(one for one in CONFIGURATIONS if one.profile is NEXT)


def _notes(cells: Iterable[Cell]) -> list[str]:
    """The reasons why steps are not needed, each once, in the order of the table."""
    return list(
        dict.fromkeys(
            cell.argument for cell in cells if cell.report is None and cell.argument is not None
        )
    )


def _cell(cell: Cell | None, notes: Sequence[str]) -> str:
    """The text of one cell of the table."""
    if cell is None:
        return ""
    if cell.report is not None:
        told = f"{cell.report.violation.kind}{' anyway' if cell.breaks_anyway else ''}"
        return f"{told}: {cell.report.schedule.choices} choices, {cell.seconds:.1f} s"
    note = f" [{notes.index(cell.argument) + 1}]" if cell.argument is not None else ""
    if not cell.exhaustive:
        return f"not found in {cell.schedules:,} schedules{note}"
    return (
        f"safe ({cell.schedules:,} schedules, exhaustive)"
        if cell.step is None
        else f"not needed ({cell.schedules:,} schedules){note}"
    )


def table(
    cells: Sequence[Cell], columns: Sequence[Configuration], notes: Sequence[str]
) -> list[str]:
    """The lines of the table with a row a step and a column a configuration."""
    steps = list(dict.fromkeys(cell.step for cell in cells))
    known = {(cell.step, cell.configuration.name): cell for cell in cells}
    lines = [
        f"| left out | {' | '.join(one.name for one in columns)} |",
        f"|{' --- |' * (len(columns) + 1)}",
    ]
    for step in steps:
        row = [known.get((step, one.name)) for one in columns]
        if any(row):
            lines.append(
                f"| {'nothing' if step is None else f'`{step}`'} |"
                f" {' | '.join(_cell(cell, notes) for cell in row)} |"
            )
    return lines


def schedules(cells: Iterable[Cell]) -> list[str]:
    """The lines of the table with a row a violation."""
    lines = ["| left out | in | scenario | schedule |", "| --- | --- | --- | --- |"]
    for cell in cells:
        if cell.report is not None:
            step = (
                "nothing"
                if cell.step is None
                else f"`{cell.step}`{', anyway' if cell.breaks_anyway else ''}"
            )
            lines.append(
                f"| {step} | {cell.configuration.name} | {cell.scenario} |"
                f" `{cell.report.schedule}` |"
            )
    return lines


def _cells(search: Search, fetch: str, line: Progress) -> Iterable[Cell]:
    """The cells of the matrix in the fetch model ``fetch``, each from fresh searches."""
    return matrix(search, X86Setup(), SHOWN, fetch=fetch, say=line.note, warn=complain)


def _protocols(args: argparse.Namespace) -> int:
    """Search the cells of the patch protocols that the file lacks, and print their table."""
    preemptions = 1 if args.preemptions is None else args.preemptions
    search = Search(preemptions=preemptions, max_schedules=args.max_schedules)
    kept = Cells(args.file, preemptions)
    places = list(cells(args.protocol or ()))
    line = Progress("necessity")
    try:
        for number, (subject, column, cell) in enumerate(places):
            if (subject.name, cell.step, cell.preempt, column) not in kept.found:
                line.update(number, len(places), f"cells; {subject.name}, {cell.step}, {column}")
                kept.add(searched(subject, column, cell, search))
    except KeyboardInterrupt:
        raise Interrupted(f"after {count(len(kept.found), 'cell')}") from None
    finally:
        line.clear()
    print(*protocols_table(kept.found), sep="\n")
    return 0


def main() -> int:
    """Run the matrix, and print the tables."""
    args = _parser().parse_args()
    return _protocols(args) if args.protocols else _matrix(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make necessity")
    parser.add_argument("--max-schedules", type=int, default=400_000)
    parser.add_argument("--preemptions", type=int, help="the bound (2; with --protocols 1)")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--fetch", default=defaults.FETCH, choices=[m.name for m in FETCH_MODELS])
    parser.add_argument("--protocols", action="store_true", help="the table of patch protocols")
    names = [one.name for one in SUBJECTS]
    parser.add_argument(
        "--protocol", action="append", choices=names, metavar="P", help="of those only this one"
    )
    parser.add_argument("--file", type=Path, help="keeps its cells, and goes on where it was")
    return parser


def _matrix(args: argparse.Namespace) -> int:
    """Run the matrix, and print the tables."""
    line = Progress("necessity")
    preemptions = 2 if args.preemptions is None else args.preemptions
    search = Search(preemptions=preemptions, max_schedules=args.max_schedules, jobs=args.jobs)
    found: list[Cell] = []
    try:
        # extend() leaves in the list what came before an interrupt
        found.extend(_cells(search, args.fetch, line))
    except KeyboardInterrupt:
        raise Interrupted(f"after {count(len(found), 'cell')}") from None
    finally:
        line.clear()
    notes = _notes(found)
    print(*table(found, _KERNELS, notes), "", sep="\n")
    print(
        *(f"{number}. {note[0].upper()}{note[1:]}." for number, note in enumerate(notes, 1)),
        "",
        sep="\n",
    )
    print(*table(found, _NEXT, notes), "", sep="\n")
    print(*schedules(found), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded(lambda: main))
