"""The command ``optprobe patch``, which explores a way of replacing code while CPUs run it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Final

from engine import defaults
from engine.commands import wiring
from engine.commands.command import Command
from engine.commands.exploring_options import add_fetch, add_save, add_search, add_strict
from engine.commands.shared_options import (
    EXPLORING_JOBS_HELP,
    PREEMPT_HELP,
    add_call,
    add_executing,
    add_list,
)

__all__ = ("COMMAND",)


def _add_options(parser: ArgumentParser) -> None:
    add_call(parser)
    add_list(parser, "--site", metavar="SYM+OFF", shown="where code is replaced")
    add_list(
        parser,
        "--to",
        metavar="CODE",
        shown="the new code of the sites, or of each: HEX, jmp:SYM, call:SYM, jcc:SYM, nop, ret or"
        " return0",
    )
    add_list(
        parser,
        "--move",
        metavar="FROM:TO",
        shown="where a suspended task goes on that stands at FROM (freeze_and_move)",
    )
    parser.add_argument(
        "--lock",
        metavar="FROM..TO",
        help="the places between which the code holds the allocator's lock (freeze_and_move)",
    )
    parser.add_argument(
        "--user",
        metavar="FROM..TO",
        help="the places at which a CPU still counts as in user mode (text_poke_bp_deferred)",
    )
    parser.add_argument("--back", action="store_true", help="then put the old code back")
    parser.add_argument(
        "--protocol",
        metavar="P",
        default=defaults.PROTOCOL,
        help="the patch protocol: a name, or FILE.py[:NAME] with one of your own (%(default)s)",
    )
    add_list(parser, "--without", metavar="STEP", shown="leave a step of the protocol out")
    add_executing(
        parser,
        cpus=defaults.CPUS,
        jobs=EXPLORING_JOBS_HELP,
        preempt=PREEMPT_HELP,
        profile=False,
    )
    parser.add_argument(
        "--calls",
        metavar="N",
        default=str(defaults.PATCH_CALLS),
        help="calls of each vCPU (%(default)s)",
    )
    add_list(
        parser,
        "--resched",
        metavar="SYM+OFF",
        shown="call schedule() in front of this instruction",
    )
    add_save(parser)
    add_fetch(parser, default=defaults.FETCH, shown=defaults.FETCH)
    add_strict(parser)
    add_search(parser, preemptions=str(defaults.PREEMPTIONS))


def _run(args: Namespace) -> int:
    from engine.commands.patching_runs import run_patch

    return run_patch(args, wiring.X86Setup())


COMMAND: Final = Command(
    name="patch",
    description=(
        "Replace code by a patch protocol while vCPUs call it, explore every interleaving, and say"
        " whether any vCPU executes what is neither the old code nor the new."
    ),
    example=(
        "optprobe patch work.o --call work --arg 5 --arg buf:616263 --site work --to nop"
        " --protocol text_poke --calls 1"
    ),
    add_options=_add_options,
    run=_run,
)
