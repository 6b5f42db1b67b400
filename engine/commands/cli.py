"""The ``optprobe`` command: the table of its commands, and ``main``.

exit_status.py says what the exit statuses mean, and wiring.py what the commands call in arch_x86.
"""

from __future__ import annotations

import io
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from typing import TYPE_CHECKING, Final

from engine.commands import command_line, wiring
from engine.commands.exit_status import BAD, exit_status
from engine.report.terminal import complain

if TYPE_CHECKING:
    from engine.commands.command import Command

__all__ = ("HELPS", "load_command", "main", "parse")

HELPS: Final[dict[str, str]] = {
    "run": "probe a function, call it, and report",
    "verify": "probe every instruction a call executes, one at a time, and compare",
    "script": "run operations one a line, and show the state after each",
    "inspect": "where probes can go, and where jumps, instruction by instruction",
    "check": "every interleaving of calls, interrupts and a probe's life, up to a bound",
    "explore": "the same for scenarios in Python",
    "matrix": "which safety step is needed where, from fresh runs",
    "patch": "is this way of replacing code safe, whatever comes in between?",
    "replay": "show a violation again, step by step",
    "museum": "faults of code patching from the kernel's history, each caught again",
    "demo": "watch a probe being armed, optimized and undone",
    "steps": "the safety steps that --without leaves out, and what each is for",
    "litmus": "what this machine's own processor fetches of code that is being stored to",
}
"""The commands, in the order in which ``--help`` lists them, and the line about each that it has.

Each is defined in a file of its own, which is loaded when the command is called.
"""


def load_command(name: str) -> Command:
    """Return the command that is called ``name``, one of :data:`HELPS`."""
    return import_module(f"engine.commands.{name}_command").COMMAND


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
    if argv and argv[0] in HELPS:
        return command_line.parse(argv, [load_command(argv[0])])
    # Here the words ask for the list of commands, or are wrong, or an option stands in front of the
    # command.
    return command_line.parse(argv, [load_command(word) for word in argv if word in HELPS], HELPS)


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
    command = load_command(args.command)
    with wiring.interruptible() if command.executes else nullcontext():
        status = command.run(args)
    sys.stdout.flush()
    return status
