"""The options that several commands have. docs/cli.md says what they mean.

Each function adds one option, or a group of them, to the parser of a command.
"""

from __future__ import annotations

import argparse
from typing import Final

from engine import defaults

__all__ = (
    "ALIGNMENT_HELP",
    "EXPLORING_JOBS_HELP",
    "NO_JOBS_HELP",
    "PREEMPT_HELP",
    "add_call",
    "add_executing",
    "add_image",
    "add_jobs",
    "add_json",
    "add_libraries",
    "add_list",
    "add_probe",
)

PREEMPT_HELP: Final = "a second task on each vCPU, and preemption"
ALIGNMENT_HELP: Final = "an SSE operand that has to be aligned and is not is a fault (slow)"
NO_JOBS_HELP: Final = "no effect: this command uses one process"
EXPLORING_JOBS_HELP: Final = (
    "processes to use, 1 to 8 of them at once (1); the result does not depend on it"
)


def add_image(parser: argparse.ArgumentParser) -> None:
    """Add the image that the command works on."""
    parser.add_argument(
        "image",
        metavar="IMAGE",
        help="ELF object, executable or shared object, .s assembly, or code-image JSON",
    )


def add_call(parser: argparse.ArgumentParser) -> None:
    """Add the image, the function in it that is called, and the arguments of the call."""
    add_image(parser)
    parser.add_argument("--call", metavar="SYMBOL", required=True, help="the function to call")
    add_list(
        parser,
        "--arg",
        metavar="A",
        into="arguments",
        shown="next argument: N, f64:X, buf:HEX, buf:@FILE, buf:+SIZE",
    )


def add_probe(parser: argparse.ArgumentParser) -> None:
    """Add ``--probe``, an option that may be there several times."""
    add_list(
        parser,
        "--probe",
        metavar="SPEC",
        shown="p[:EVENT] SYM[+OFF], r[MAX][:EVENT] SYM, or SYM+0xOFF",
    )


def add_executing(
    parser: argparse.ArgumentParser,
    *,
    cpus: int | None,
    jobs: str,
    preempt: str = argparse.SUPPRESS,
    profile: bool = True,
) -> None:
    """Add the options of the commands that execute guest code.

    :param cpus: the default number of vCPUs, or None where the command has one vCPU only.
    :param jobs: what ``--help`` says of ``--jobs``.
    :param preempt: what ``--help`` says of ``--preempt``.
    :param profile: whether the command has ``--profile``.
    """
    add_list(parser, "--stub", metavar="SYM=ret:N", shown="an unresolved function that returns N")
    add_libraries(parser, "a shared library to resolve from")
    parser.add_argument(
        "--red-zone",
        metavar="R",
        default=defaults.RED_ZONE,
        help="the code keeps data below RSP: yes, no or auto (%(default)s)",
    )
    if profile:
        parser.add_argument(
            "--profile",
            metavar="P",
            default=defaults.PROFILE,
            help="whose behaviour: linux-2010, linux-6.1 or next (%(default)s)",
        )
    parser.add_argument("--check-alignment", action="store_true", help=ALIGNMENT_HELP)
    parser.add_argument("--preempt", action="store_true", help=preempt)
    parser.add_argument(
        "--max-instructions",
        metavar="N",
        default=str(defaults.MAX_INSTRUCTIONS),
        help="bound on each call (%(default)s)",
    )
    add_jobs(parser, jobs)
    parser.add_argument(
        "--cpus",
        metavar="N",
        default=str(cpus or defaults.CPUS),
        help="vCPUs, 1 to 8 (%(default)s)" if cpus else argparse.SUPPRESS,
    )
    add_json(parser)


def add_libraries(parser: argparse.ArgumentParser, shown: str) -> None:
    """Add ``--with``, an option that may be there several times.

    :param shown: what ``--help`` says of the option.
    """
    add_list(parser, "--with", metavar="LIB", into="libraries", shown=shown)


def add_jobs(parser: argparse.ArgumentParser, shown: str) -> None:
    """Add ``--jobs``, the number of processes.

    :param shown: what ``--help`` says of the option.
    """
    parser.add_argument("--jobs", metavar="N", default=str(defaults.JOBS), help=shown)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``, which asks for one JSON document as the output."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def add_list(
    parser: argparse.ArgumentParser,
    option: str,
    *,
    metavar: str,
    shown: str,
    into: str | None = None,
) -> None:
    """Add an option that may be there several times. Its values make a list, in their order.

    :param shown: what ``--help`` says of the option.
    :param into: the name of the list among the parsed options; None: the option's own name.
    """
    parser.add_argument(
        option,
        metavar=metavar,
        action="append",
        default=[],
        dest=into or option.lstrip("-").replace("-", "_"),
        help=shown,
    )
