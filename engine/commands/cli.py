"""The ``optprobe`` command: the table of its commands, and ``main``.

exit_status.py says what the exit statuses mean, and wiring.py what the commands call in arch_x86.
"""

from __future__ import annotations

import io
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Final

from engine.commands import (
    check_command,
    command_line,
    demo_command,
    explore_command,
    inspect_command,
    litmus_command,
    matrix_command,
    museum_command,
    patch_command,
    replay_command,
    run_command,
    script_command,
    steps_command,
    verify_command,
    wiring,
)
from engine.commands.command import Command
from engine.commands.exit_status import BAD, exit_status
from engine.report.terminal import complain

__all__ = ("COMMANDS", "main", "parse")

COMMANDS: Final[tuple[Command, ...]] = (
    run_command.COMMAND,
    verify_command.COMMAND,
    script_command.COMMAND,
    inspect_command.COMMAND,
    check_command.COMMAND,
    explore_command.COMMAND,
    matrix_command.COMMAND,
    patch_command.COMMAND,
    replay_command.COMMAND,
    museum_command.COMMAND,
    demo_command.COMMAND,
    steps_command.COMMAND,
    litmus_command.COMMAND,
)
"""The commands, in the order in which ``--help`` lists them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status.

    :param argv: the words of the command line, without the name of the program; None: those of this
        process.
    """
    for stream in (sys.stdout, sys.stderr):
        # A name of the user's may have characters that the locale lacks; they are shown escaped.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    return exit_status(lambda: _main(sys.argv[1:] if argv is None else argv))


def parse(argv: Sequence[str]) -> Namespace:
    """Parse the words of a command line; :func:`engine.commands.command_line.parse` says how."""
    return command_line.parse(argv, COMMANDS)


def _main(argv: Sequence[str]) -> int:
    # Standard output is None where the process was started with it closed (`>&-`).
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]
        complain("cannot write the output: standard output is closed")
        return BAD
    try:
        args = parse(argv)
    except SystemExit as done:  # argparse ends so when it has printed --help.
        sys.stdout.flush()
        return int(done.code or 0)
    (command,) = (one for one in COMMANDS if one.name == args.command)
    with wiring.interruptible() if command.executes else nullcontext():
        status = command.run(args)
    sys.stdout.flush()
    return status
