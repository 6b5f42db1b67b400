"""The command ``optprobe check``, which explores every interleaving around probes, up to a bound.

Calls, interrupts and the operations of a probe's life are interleaved.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Final

from engine import defaults
from engine.commands import wiring
from engine.commands.command import Command
from engine.commands.exploring_options import add_experiment, add_fetch, add_search
from engine.commands.shared_options import (
    EXPLORING_JOBS_HELP,
    PREEMPT_HELP,
    add_call,
    add_executing,
    add_list,
    add_probe,
)

__all__ = ("COMMAND",)


def _add_options(parser: ArgumentParser) -> None:
    add_call(parser)
    add_executing(parser, cpus=defaults.CPUS, jobs=EXPLORING_JOBS_HELP, preempt=PREEMPT_HELP)
    add_probe(parser)
    parser.add_argument(
        "--calls", metavar="N", default=str(defaults.CALLS), help="calls of each vCPU (%(default)s)"
    )
    add_list(
        parser,
        "--resched",
        metavar="SYM+OFF",
        shown="call schedule() in front of this instruction",
    )
    add_fetch(parser, default=defaults.FETCH, shown=defaults.FETCH)
    add_experiment(parser)
    add_search(parser, preemptions=str(defaults.PREEMPTIONS))


def _run(args: Namespace) -> int:
    from engine.commands.searching import run_check

    return run_check(args, wiring.X86Setup())


COMMAND: Final = Command(
    name="check",
    description=(
        "Explore every interleaving of the calls with registering, optimizing, disabling, enabling"
        " and unregistering the probes, interrupts at every boundary included, and say whether"
        " anything breaks."
    ),
    example=(
        "optprobe check work.o --call work --arg 5 --arg buf:616263 --probe work --calls 1"
        " --without stop-machine"
    ),
    add_options=_add_options,
    run=_run,
)
