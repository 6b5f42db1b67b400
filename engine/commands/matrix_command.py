"""The command ``optprobe matrix``, which finds which safety step is needed where, by fresh runs."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Final

from engine import defaults
from engine.commands import wiring
from engine.commands.command import Command
from engine.commands.exploring_options import add_fetch, add_search
from engine.commands.shared_options import EXPLORING_JOBS_HELP, add_jobs, add_json

__all__ = ("COMMAND",)


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--profile", metavar="P", help="linux-2010, linux-6.1 or next only (all)")
    parser.add_argument("--no-preempt", action="store_true", help="only without preemption")
    add_jobs(parser, EXPLORING_JOBS_HELP)
    add_json(parser)
    add_fetch(parser, default=defaults.FETCH, shown=defaults.FETCH)
    add_search(parser, preemptions=str(defaults.PREEMPTIONS))


def _run(args: Namespace) -> int:
    from engine.commands.tabulating import run_matrix

    return run_matrix(args, wiring.X86Setup(), wiring.SHOWN)


COMMAND: Final = Command(
    name="matrix",
    description=(
        "Leave each safety step out, in each configuration, and say what breaks, or why nothing"
        " does."
    ),
    example="optprobe matrix --profile linux-2010 --no-preempt --max-schedules 500",
    add_options=_add_options,
    run=_run,
)
