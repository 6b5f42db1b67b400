"""One command of ``optprobe``, as the table in cli.py has it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ("Command",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What a file of this room says of its command.

    :ivar name: the word behind ``optprobe``.
    :ivar help: the line that ``optprobe --help`` has of it.
    :ivar description: what its own ``--help`` begins with.
    :ivar epilog: a line that its ``--help`` has behind the options.
    :ivar example: what its ``--help`` ends with; a test runs it on a small function of its own.
    :ivar add_options: declares its words and options.
    :ivar run: does what the options ask, prints, and returns the exit status.
    :ivar executes: it runs guest code, so Ctrl-C needs the emulator's handler.
    :ivar takes_rest: the words behind ``--`` are not its options, but are left to it in
        ``args.rest``.
    """

    name: str
    help: str
    description: str
    epilog: str | None = None
    example: str
    add_options: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int]
    executes: bool = True
    takes_rest: bool = False
