"""The records of the commands of ``optprobe``, which cli.py has a table of."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ("Command",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command of ``optprobe``. Each ``*_command.py`` in this folder defines one.

    :ivar name: the word that calls the command, behind ``optprobe``.
    :ivar description: the text that the command's own ``--help`` begins with.
    :ivar epilog: the text behind the options in the command's own ``--help``.
    :ivar example: the command line that the command's own ``--help`` ends with. A test runs it on a
        small function.
    :ivar add_options: adds the command's arguments and options to its parser.
    :ivar run: takes the parsed options, calls and prints what they ask for, and returns the exit
        status.
    :ivar executes: the command runs guest code, so a handler of SIGINT has to be installed that
        knows the emulator.
    :ivar takes_rest: the words behind ``--`` are not parsed, and ``run`` gets them as
        ``args.rest``.
    """

    name: str
    description: str
    epilog: str | None = None
    example: str
    add_options: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int]
    executes: bool = True
    takes_rest: bool = False
