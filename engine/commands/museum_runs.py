"""The work of ``museum``, which is loaded when it is needed, since it loads all that explores."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, Final

from engine.commands.exit_status import BAD, GOOD, INTERRUPTED
from engine.commands.output import print_json
from engine.commands.searching import searched
from engine.errors import InputError, printable
from engine.patching.check_result import CheckResult
from engine.patching.exhibit import Case, Exhibit
from engine.patching.search_options import Search
from engine.patching.setup_port import SetupPort
from engine.patching.verdict import replay_experiment
from engine.report.exhibit_report import show_exhibit, show_exhibits, show_mended
from engine.report.terminal import Style
from engine.syntax.arguments import parse_number

__all__ = ("exhibit_named", "run_museum")

_FAULTY_SCHEDULES: Final = 20_000
"""The search of a faulty variant stops after so many schedules; the slowest takes about 2,000."""


def run_museum(args: Namespace, port: SetupPort, exhibits: Sequence[Exhibit]) -> int:
    """Run ``optprobe museum`` on machines of ``port``, and return the exit status."""
    most = parse_number(args.max_schedules, "--max-schedules", least=1)
    if args.name is not None:
        return _Run(exhibit_named(args.name, exhibits), port, json=args.json).run(most)
    if args.json:
        print_json({"schema": 1, "exhibits": [_told(one) for one in exhibits]})
    else:
        show_exhibits(exhibits)
    return GOOD


def exhibit_named(name: str, exhibits: Sequence[Exhibit]) -> Exhibit:
    """Return the exhibit called ``name``.

    :raises InputError: there is none.
    """
    for one in exhibits:
        if one.name == name:
            return one
    names = [one.name for one in exhibits]
    close = get_close_matches(name, names, n=1) or names[:1]
    raise InputError(
        f"museum {printable(name)}: no such exhibit; optprobe museum lists the names, such as"
        f" {close[0]}"
    )


class _Run:
    """One exhibit, run.

    :param json: print a document, and nothing for people.
    """

    def __init__(self, exhibit: Exhibit, port: SetupPort, *, json: bool) -> None:
        self._exhibit = exhibit
        self._port = port
        self._json = json

    def run(self, most: int) -> int:
        """Find the fault, show it, and search the mended variant; return the exit status.

        :param most: the most schedules of the mended variant.
        """
        one, style = self._exhibit, Style.for_stream(sys.stdout)
        faulty = self._searched(one.faulty, _FAULTY_SCHEDULES)
        lines = self._timeline(faulty)
        caught = any(report.violation.kind is one.kind for report in faulty.violations)
        if not self._json:
            show_exhibit(one, faulty, lines, style)
        mended = None if faulty.interrupted else self._searched(one.mended, most)
        interrupted = mended is None or mended.interrupted
        clean = mended is not None and not mended.violations and mended.outcome.schedules > 0
        if self._json:
            document = {
                "schema": 1,
                **_told(one),
                "interrupted": interrupted,
                "as_told": caught and clean and not interrupted,
                "found": {**_result(faulty), "timeline": lines},
                "searched": None if mended is None else _result(mended),
            }
            print_json(document)
        elif mended is not None:
            show_mended(one, mended, style)
        for result in (faulty, mended):
            if result is not None and result.died is not None:
                raise result.died
        if interrupted:
            return INTERRUPTED
        return GOOD if caught and clean else BAD

    def _searched(self, case: Case, most: int) -> CheckResult:
        search = Search(preemptions=self._exhibit.preemptions, max_schedules=most)
        return searched(
            f"museum {self._exhibit.name}", case.experiment(self._port), search, self._port
        )

    def _timeline(self, result: CheckResult) -> list[str]:
        """Return the lines that show the violation, or none."""
        if not result.violations or result.interrupted:
            return []
        experiment = self._exhibit.faulty.experiment(self._port)
        return replay_experiment(experiment, result.violations[0].schedule, self._port)[1]


def _told(one: Exhibit) -> dict[str, Any]:
    """Return the entry of an exhibit in the document."""
    return {
        "name": one.name,
        "year": one.year,
        "title": one.title,
        "told": list(one.told),
        "source": one.source,
        "violation": str(one.kind),
        "faulty": one.faulty.how,
        "mended": one.mended.how,
    }


def _result(result: CheckResult) -> dict[str, Any]:
    """Return what a search has shown, for the document."""
    violations = [
        {
            "kind": str(report.violation.kind),
            "explain": report.violation.explain,
            "schedule": str(report.schedule),
            "choices": report.schedule.choices,
        }
        for report in result.violations
    ]
    return {
        "verdict": result.verdict,
        "preemptions": result.preemptions,
        "schedules": result.outcome.schedules,
        "exhaustive": result.outcome.exhaustive,
        "violations": violations,
    }
