"""``make sound``: check every shipped scenario on 1 to 3 vCPUs, in each profile.

Each runs with and without preemption. The bound is 3 with one vCPU, else 2. The answers go to a
file, one JSON line a case; a case that is in the file is not run again.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from arch_x86.explore.scenarios.batches import BATCHES
from arch_x86.explore.scenarios.history import HISTORY
from arch_x86.explore.scenarios.life import SCENARIOS
from arch_x86.explore.x86_setup import X86Setup
from bench.lines import answers
from bench.program import run_guarded
from engine.patching.search_options import Search
from engine.patching.verdict import check
from engine.report.terminal import Progress, table

_KINDS = (
    ("linux-2010", False),
    ("linux-6.1", False),
    ("linux-6.1", True),
    ("next", False),
    ("next", True),
)
_BY_NAME = {one.name: one for one in (*SCENARIOS, *HISTORY, *BATCHES)}


@dataclass(frozen=True, slots=True)
class Run:
    """One scenario, and how it is run."""

    scenario: str
    profile: str
    preempt: bool
    cpus: int
    preemptions: int
    max_schedules: int

    @property
    def key(self) -> str:
        """What names the case and its search in the file."""
        kind = "preemptible" if self.preempt else "not preemptible"
        return (
            f"{self.scenario} {self.profile} {kind} {self.cpus} {self.preemptions}"
            f" {self.max_schedules}"
        )


def run_one(run: Run) -> dict[str, Any]:
    """The answer for one run, as a JSON line has it."""
    one, port = _BY_NAME[run.scenario], X86Setup()
    request = replace(one.request, profile=run.profile, cpus=run.cpus, preempt=run.preempt)
    search = Search(preemptions=run.preemptions, max_schedules=run.max_schedules)
    document = check(one.experiment(request, port), search, port).to_json()
    return {
        "key": run.key,
        **{
            name: document[name]
            for name in ("verdict", "bound", "points", "coverage", "violations")
        },
    }


def _cell(answer: dict[str, Any]) -> str:
    """The text of one cell: the schedules that were made, or the violation that was found."""
    if answer["violations"]:
        return f"{answer['violations'][0]['kind']} in {answer['bound']['schedules']:,}"
    return f"{'' if answer['bound']['exhaustive'] else '> '}{answer['bound']['schedules']:,}"


def main() -> int:
    """Run all cases, or go on with a run."""
    parser = argparse.ArgumentParser(prog="make sound")
    parser.add_argument("--file", default="soundness.jsonl")
    parser.add_argument("--max-schedules", type=int, default=3_000_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--cpus", type=int, default=3, help="up to so many")
    parser.add_argument("--profiles", default="linux-2010,linux-6.1,next")
    args = parser.parse_args()
    kinds = [one for one in _KINDS if one[0] in args.profiles.split(",")]
    wanted = [
        Run(name, profile, preempt, cpus, 3 if cpus == 1 else 2, args.max_schedules)
        for cpus in range(1, args.cpus + 1)
        for profile, preempt in kinds
        for name, one in _BY_NAME.items()
        if profile in one.profiles
    ]
    done = answers(
        Path(args.file), wanted, run_one, jobs=args.jobs, line=Progress("sound"), noun="cases"
    )
    columns = [(cpus, *kind) for cpus in range(1, args.cpus + 1) for kind in kinds]
    cells = {
        (run.scenario, run.cpus, run.profile, run.preempt): _cell(answer)
        for run, answer in zip(wanted, done, strict=True)
    }
    header = [
        "scenario",
        *(
            f"{profile}{', preemptible' * preempt}, {cpus} CPU"
            for cpus, profile, preempt in columns
        ),
    ]
    print(
        table(
            header,
            [[name, *(cells.get((name, *column), "") for column in columns)] for name in _BY_NAME],
        )
    )
    verdicts = Counter(answer["verdict"] for answer in done)
    whole = sum(answer["bound"]["exhaustive"] for answer in done)
    schedules = sum(answer["bound"]["schedules"] for answer in done)
    told = ", ".join(f"{number:,} {verdict}" for verdict, number in sorted(verdicts.items()))
    print(f"{len(done):,} cases, {schedules:,} schedules, {whole:,} exhaustive: {told}")
    for run, answer in zip(wanted, done, strict=True):
        for found in answer["violations"]:
            print(f"  {run.key}: {found['kind']}: {found['explain']}\n    {found['schedule']}")
    return 0 if set(verdicts) <= {"safe", "nothing-found"} else 1


if __name__ == "__main__":
    sys.exit(run_guarded(lambda: main))
