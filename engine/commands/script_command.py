"""The command ``optprobe script``, which runs operations and shows the state after each.

A script has one operation on each line; docs/script.md lists the operations.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from contextlib import nullcontext
from typing import Any, Final

from engine import defaults
from engine.commands import wiring
from engine.commands.command import Command
from engine.commands.execution import exec_options, jobs, load_for
from engine.commands.exit_status import BAD, GOOD
from engine.commands.output import print_json
from engine.commands.shared_options import NO_JOBS_HELP, add_executing, add_image, add_list
from engine.errors import InputError, error_text, printable
from engine.syntax.arguments import IntegerArgument

__all__ = ("COMMAND",)

_CHARACTERS_MAX: Final = 1 << 22


def _add_options(parser: ArgumentParser) -> None:
    add_image(parser)
    parser.add_argument("script", metavar="FILE", help="the operations; - for standard input")
    add_list(
        parser,
        "--without",
        metavar="STEP",
        shown="leave a safety step or a mend of the profile out",
    )
    add_executing(parser, cpus=defaults.SCRIPT_CPUS, jobs=NO_JOBS_HELP)


def _run(args: Namespace) -> int:
    # The import is here since each dataclass of a module would delay the start of all commands.
    from engine.syntax.script import parse_script

    options = exec_options(args)
    jobs(args)  # The option has no effect here, but is refused where it is no number.
    operations = parse_script(
        _read(args.script), "standard input" if args.script == "-" else args.script
    )
    called = dict.fromkeys(op.symbol for op in operations if op.symbol)
    image = load_for(args, [(symbol, [IntegerArgument(1)]) for symbol in called], options)
    status = GOOD
    for line in wiring.run_script(image, operations, options, shows_text=not args.json):
        if args.json:
            print_json(line)
        else:
            print(_shown(line))
        if "fault" in line:
            status = BAD
    return status


def _read(name: str) -> str:
    """Read the text of the script.

    :param name: the name of its file, or ``-`` for standard input.
    :raises InputError: the file can't be read, is no text, or is longer than
        :data:`_CHARACTERS_MAX`.
    """
    wanted = "give a text file of operations, one a line, or - for standard input"
    if name != "-" and not os.path.isfile(name):
        raise InputError(
            f"{printable(name)}:"
            f" {'not a regular file' if os.path.exists(name) else 'no such file'}; {wanted}"
        )
    # Standard input is None where the process was started with it closed (`<&-`).
    if name == "-" and sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison]
        raise InputError(f"standard input is closed; {wanted}")
    try:
        with nullcontext(sys.stdin) if name == "-" else open(name, encoding="utf-8") as file:
            text = file.read(_CHARACTERS_MAX + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{printable(name)}: {error_text(error)}; {wanted}") from None
    if len(text) > _CHARACTERS_MAX:
        raise InputError(
            f"{printable(name)}: over {_CHARACTERS_MAX:,} characters; cut it into several scripts"
        )
    return text


def _shown(line: dict[str, Any]) -> str:
    """Return the line, or two lines, that show the state after an operation to people."""
    keys = (f"{key}={value}" for key, value in line.items() if key not in ("op", "list", "fault"))
    probes = "  ".join(f"{place}{flags}" for place, flags in line["list"])
    fault = (
        f"  guest fault at {line['fault']['symbol']}+{line['fault']['offset']:#x}:"
        f" {line['fault']['explain']}"
        if "fault" in line
        else ""
    )
    return f"{line['op']:<28} {' '.join(keys)}{fault}" + (
        f"\n{'':<28} list: {probes}" if probes else ""
    )


COMMAND: Final = Command(
    name="script",
    description=(
        "Run operations (reg, unreg, dis, en, call, wait, ...), one a line, and show the state"
        " after each."
    ),
    epilog="docs/script.md has the operations.",
    example="printf 'reg 0 work+0\\nwait\\nunreg 0\\nwait\\n' | optprobe script work.o -",
    add_options=_add_options,
    run=_run,
)
