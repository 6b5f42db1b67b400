"""The command ``optprobe explore``, which does what ``check`` does for scenarios in Python."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Final

from engine.commands import wiring
from engine.commands.command import Command
from engine.commands.exploring_options import add_experiment, add_fetch, add_search
from engine.commands.shared_options import (
    ALIGNMENT_HELP,
    EXPLORING_JOBS_HELP,
    PREEMPT_HELP,
    add_jobs,
    add_json,
)

__all__ = ("COMMAND",)


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.py[::SCENARIO]")
    parser.add_argument(
        "--profile",
        metavar="P",
        help="whose behaviour: linux-2010, linux-6.1 or next (the scenario's first)",
    )
    parser.add_argument("--preempt", action="store_true", help=PREEMPT_HELP)
    parser.add_argument("--check-alignment", action="store_true", help=ALIGNMENT_HELP)
    parser.add_argument("--cpus", metavar="N", help="vCPUs, 1 to 8 (the scenario's)")
    add_jobs(parser, EXPLORING_JOBS_HELP)
    add_json(parser)
    add_fetch(parser, default=None, shown="the scenario's")
    add_experiment(parser)
    add_search(parser, preemptions="the scenario's")


def _run(args: Namespace) -> int:
    from engine.commands.searching import run_explore

    return run_explore(args, wiring.X86Setup())


COMMAND: Final = Command(
    name="explore",
    description="Explore scenarios: FILE.py, or one of them, FILE.py::SCENARIO.",
    example="optprobe explore scenarios.py::register --profile linux-6.1 --save found",
    add_options=_add_options,
    run=_run,
)
