"""The command ``optprobe inspect``, which shows where probes and jumps can go."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from typing import Final

from engine.commands import wiring
from engine.commands.command import Command
from engine.commands.execution import jobs, load
from engine.commands.exit_status import GOOD
from engine.commands.shared_options import add_image, add_jobs, add_json, add_libraries

__all__ = ("COMMAND",)


def _add_options(parser: ArgumentParser) -> None:
    add_image(parser)
    parser.add_argument("symbol", metavar="SYMBOL", nargs="?", help="the function to show (all)")
    add_libraries(parser, "a shared library to show, too")
    parser.add_argument(
        "--buffers",
        action="store_true",
        help="show the slot and the detour buffer of each site, too",
    )
    add_jobs(parser, "processes to use (1)")
    add_json(parser)


def _run(args: Namespace) -> int:
    processes = jobs(args)
    image = load(args, executes=False)
    wiring.inspect_image(
        sys.stdout,
        image,
        args.symbol,
        as_json=args.json,
        buffers=args.buffers,
        jobs=processes,
    )
    return GOOD


COMMAND: Final = Command(
    name="inspect",
    description=(
        "Show of each instruction whether it can be probed, boosted and optimized, and why not."
    ),
    example="optprobe inspect work.o work --buffers",
    add_options=_add_options,
    run=_run,
    executes=False,
)
