"""The parsing of a command line: how its words become options."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from engine.commands.parser import Parser, Version
from engine.errors import InputError

if TYPE_CHECKING:
    from engine.commands.command import Command

__all__ = ("parse",)

_NEGATIVE: Final = re.compile(r"-[0-9]")


def parse(
    argv: Sequence[str], commands: Sequence[Command], listed: Mapping[str, str] | None = None
) -> argparse.Namespace:
    """Parse the words of a command line.

    :param argv: the words, without the name of the program.
    :param commands: the commands that may be called.
    :param listed: the commands that the help lists, and the line about each; None lists none.
    :returns: the options by their names. ``command`` is the name of the command.
    :raises InputError: a word is empty, unknown or missing.
    :raises SystemExit: the words asked for the help or the version, which has been printed.
    """
    words = list(argv)
    rest: list[str] | None = None
    if words and any(one.takes_rest and one.name == words[0] for one in commands):
        end = words.index("--") if "--" in words else len(words)
        words, rest = words[:end], words[end + 1 :]
    _refuse_empty(words)
    parser, parsers = _parser(commands, listed or {})
    args, left = parser.parse_known_args(_join_negative(words))
    if len(left) == 1 and not left[0].startswith("-") and vars(args).get("symbol", "") is None:
        # argparse takes an optional argument, such as inspect's SYMBOL, only in front of options.
        args.symbol, left = left[0], []
    if left:
        parsers[args.command].refuse(left)
    if rest is not None:
        args.rest = rest
    return args


def _parser(
    commands: Sequence[Command], listed: Mapping[str, str]
) -> tuple[Parser, dict[str, Parser]]:
    """Return the parser of a command line, and those of ``commands`` by name."""
    parser = Parser(
        prog="optprobe",
        description=(
            "A laboratory for patching live x86-64 code: kprobes on an emulated SMP machine."
        ),
        epilog=(
            "Exit status: 0 good; 1 a failed check, a guest fault or output that can't be written;"
            " 2 bad usage or input; 130 after Ctrl-C."
        ),
    )
    parser.add_argument(
        "--version",
        action=Version,
        nargs=0,
        dest=argparse.SUPPRESS,
        help="print the version and exit",
    )
    table = parser.add_subparsers(
        metavar="COMMAND", required=True, dest="command", parser_class=Parser
    )
    named = {one.name for one in commands}
    for name, text in listed.items():
        if name not in named:
            table.add_parser(name, help=text)
    parsers: dict[str, Parser] = {}
    for one in commands:
        parsers[one.name] = table.add_parser(
            one.name,
            help=listed.get(one.name),
            description=one.description,
            epilog=one.epilog,
            example=one.example,
        )
        one.add_options(parsers[one.name])
    return parser, parsers


def _refuse_empty(words: Sequence[str]) -> None:
    """Refuse a command line with an empty word.

    As a directory, an empty word would be the present one, and a message that quotes an empty word
    shows nothing.

    :raises InputError: a word is empty.
    """
    for number, word in enumerate(words):
        before = words[number - 1] if number else ""
        if re.fullmatch(r"--[a-z-]+=", word) or (word == "" and before.startswith("--")):
            raise InputError(
                f"{(word or before).rstrip('=')}: an empty word; give a value, or leave the"
                " option out"
            )
        if word == "":
            raise InputError(
                f"word {number + 1} of the command is empty; give a name there, or leave it out (is"
                " a shell variable not set?)"
            )


def _join_negative(words: Sequence[str]) -> list[str]:
    """Join ``--arg -0x10`` to ``--arg=-0x10``, as argparse takes ``-0x10`` for an option."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] == "--arg" and _NEGATIVE.match(word):
            joined[-1] = f"--arg={word}"
        else:
            joined.append(word)
    return joined
