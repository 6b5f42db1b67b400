"""Exploration as a finder, in the tree that it is run in: ``python -m tests.faults.explore``.

Prints the first thing found as one line and ends with status 1; with 0 when nothing is. ``--lines
FILE`` instead writes down which of the lines that the faults are in each case runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from arch_x86.emu.machine import new_pool
from tests.explore.experiments import check
from tests.faults.cases import MOST_SCHEDULES, Explored, explored
from tests.faults.fault import Kind
from tests.faults.lines import ROOT, LineLog, changed_lines
from tests.faults.suite import FAULTS

__all__ = ("first_found", "main")

_SWEEPS: Final = (40, 400)


def first_found(cases: Sequence[Explored], most: int = MOST_SCHEDULES) -> str | None:
    """What the first of ``cases`` shows that shows anything: the case and what happened.

    Most faults show in a few schedules of some case, so all cases are searched a little way before
    one is searched up to ``most`` schedules.
    """
    pool, left = new_pool(), list(cases)
    for cap in (*(cap for cap in _SWEEPS if cap < most), most):
        further: list[Explored] = []
        for one in left:
            try:
                result = check(one.build(), replace(one.search, max_schedules=cap), pool=pool)
            except Exception as error:  # whatever a faulty tree raises, it is noticed
                return f"{one.name}: {type(error).__name__}: {error}"
            if result.violations:
                violation = result.violations[0].violation
                return f"{one.name}: {violation.kind}: {violation.explain}"
            if not result.outcome.exhaustive:
                further.append(one)
            elif result.missing:
                return f"{one.name}: inconclusive: no schedule hits by {', '.join(result.missing)}"
        left = further
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="tests.faults.explore")
    parser.add_argument("--cases", help="a JSON list of names of cases; all of them without it")
    parser.add_argument("--quick", action="store_true", help="no case that takes a second or more")
    parser.add_argument(
        "--most", type=int, default=MOST_SCHEDULES, help="at most so many schedules of each case"
    )
    parser.add_argument(
        "--lines", type=Path, help="write down which lines of faults each case runs"
    )
    given = parser.parse_args(arguments)
    wanted = None if given.cases is None else set(json.loads(given.cases))
    cases = [
        one
        for one in explored()
        if (wanted is None or one.name in wanted) and not (given.quick and one.tier)
    ]
    if given.lines is not None:
        return _write_lines(cases, given.lines)
    found = first_found(cases, given.most)
    if found is not None:
        print(" ".join(found.split()))
    return int(found is not None)


def _write_lines(cases: Sequence[Explored], file: Path) -> int:
    # of a run that was killed
    known: dict[str, dict[str, list[int]]] = json.loads(file.read_text()) if file.exists() else {}
    wanted: dict[str, set[int]] = {}
    for fault in FAULTS:
        if fault.kind is Kind.EXPLORER:
            continue
        source = (ROOT / fault.file).read_text(encoding="utf-8")
        lines = changed_lines(fault, source) if fault.old in source else None
        wanted.setdefault(fault.file, set()).update(lines or ())
    for one in cases:
        if one.name in known:
            continue
        with LineLog(wanted) as log:
            found = first_found([one])
        if found is not None:
            print(f"without any fault: {found}", file=sys.stderr)
            return 1
        known[one.name] = log.lines()
        whole = file.with_suffix(".part")
        whole.write_text(json.dumps(known))
        whole.rename(file)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
