"""The command ``optprobe museum``: faults of code patching, each caught again, and mended.

docs/museum.md lists the exhibits.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Final

from engine.commands import wiring
from engine.commands.command import Command
from engine.commands.shared_options import add_json

__all__ = ("COMMAND",)

_SCHEDULES: Final = 2_000


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="NAME", nargs="?", help="the exhibit to run (none: list all of them)"
    )
    parser.add_argument(
        "--max-schedules",
        metavar="N",
        default=str(_SCHEDULES),
        help="stop the search of the mended variant after N schedules (%(default)s)",
    )
    add_json(parser)


def _run(args: Namespace) -> int:
    from engine.commands.museum_runs import run_museum

    return run_museum(args, wiring.X86Setup(), wiring.EXHIBITS)


COMMAND: Final = Command(
    name="museum",
    description=(
        "List faults of code patching. With NAME: say what went wrong, find it again, show it"
        " instruction by instruction, and search the mended variant, which has to be clean."
    ),
    example="optprobe museum 2aebf5ee43bf",
    add_options=_add_options,
    run=_run,
)
