"""The command ``optprobe replay``, which shows a violation again, step by step."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Final

from engine.commands import check_command, explore_command, patch_command, wiring
from engine.commands.command import Command
from engine.commands.command_line import parse
from engine.commands.shared_options import add_json

__all__ = ("COMMAND",)


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("what", metavar="FILE|SCHEDULE")
    add_json(parser)
    parser.set_defaults(rest=[])


def _run(args: Namespace) -> int:
    from engine.commands.replaying import run_replay

    return run_replay(args, _found_by, wiring.X86Setup(), lambda: wiring.EXHIBITS)


def _found_by(words: Sequence[str]) -> Namespace:
    """Parse the words behind ``--``: a ``check``, ``explore`` or ``patch`` with its options.

    It is the command that found the schedule.
    """
    return parse(words, (check_command.COMMAND, explore_command.COMMAND, patch_command.COMMAND))


COMMAND: Final = Command(
    name="replay",
    description=(
        "Replay a file of --save, or a SCHEDULE with -- and the arguments of the check (or"
        " explore) that found it, or with -- patch and those of the patch, or with -- museum NAME."
    ),
    epilog=(
        "Exit status: 1 the violation shows again, 0 it does not, 2 the schedule is of"
        " something else."
    ),
    example="optprobe replay found/violation-1f2e3d4c-0.json",
    add_options=_add_options,
    run=_run,
    takes_rest=True,
)
