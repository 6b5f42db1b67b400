"""The command ``optprobe verify``, which probes every instruction of a call, one at a time.

Each run is compared with the unprobed run.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from typing import Final

from engine import defaults
from engine.commands import wiring
from engine.commands.command import Command
from engine.commands.execution import exec_options, jobs, load_for
from engine.commands.exit_status import BAD, GOOD
from engine.commands.output import print_json
from engine.commands.shared_options import add_call, add_executing
from engine.ctrl_c import Interrupted
from engine.errors import InputError
from engine.report.terminal import Progress, Style, count
from engine.syntax.arguments import parse_argument

__all__ = ("COMMAND",)

_SHOWN_FAILURES: Final = 20


def _add_options(parser: ArgumentParser) -> None:
    add_call(parser)
    add_executing(parser, cpus=None, jobs="processes to use (1)")
    parser.add_argument(
        "--interrupts",
        metavar="WHERE",
        default=defaults.INTERRUPTS,
        help="none, boundaries or sample:SEED:N (%(default)s)",
    )


def _run(args: Namespace) -> int:
    options = exec_options(args)
    if options.cpus != 1:
        raise InputError("--cpus: verify works on one vCPU; leave it out")
    processes = jobs(args)
    arguments = [parse_argument(text) for text in args.arguments]
    sweep = wiring.parse_sweep(args.interrupts)
    image = load_for(args, [(args.call, arguments)], options)
    progress = Progress(f"verify {args.call}")
    reached = "before the first step"

    def report(done: int, total: int, note: str) -> None:
        nonlocal reached
        reached = f"after {done:,} of {total:,} {note}"
        progress.update(done, total, note)

    try:
        result = wiring.verify_image(
            image,
            args.call,
            arguments,
            sweep=sweep,
            options=options,
            jobs=processes,
            progress=report,
        )
    except KeyboardInterrupt:
        raise Interrupted(reached) from None
    finally:
        progress.clear()
    if args.json:
        print_json(result.to_json())
    else:
        _show(args.call, result, Style.for_stream(sys.stdout))
    if result.interrupted:
        sys.stdout.flush()
        raise result.died or Interrupted(reached)
    return GOOD if result.good else BAD


def _show(call: str, result: wiring.VerifyResult, style: Style) -> None:
    colour = {"good": "green", "nothing-found": "yellow", "bad": "red"}[result.verdict]
    print(f"{call}: {style.paint(result.verdict, colour, 'bold')}")
    if result.fault is not None:
        fault = result.fault
        print(
            f"  the unprobed call ends in a guest fault at {fault.place} ({fault.rip:#x}):"
            f" {fault.kind}"
        )
        print(f"  {fault.explain}")
        return
    of = f" of {result.total:,}, interrupted" if result.interrupted else ""
    print(
        f"  {count(result.sites, 'site')}{of}, {count(result.runs, 'run')} of a call that executes"
        f" {count(result.instructions, 'instruction')} unprobed;"
        f" {count(len(result.failures), 'failure')}"
    )
    for failure in result.failures[:_SHOWN_FAILURES]:
        when = (
            ""
            if failure.interrupt_at is None
            else f", interrupt after {failure.interrupt_at} instructions"
        )
        print(
            f"  {style.paint(f'{failure.symbol}+{failure.offset:#x}', 'bold')}"
            f" {failure.method}{when}: {failure.explain}"
        )
    if len(result.failures) > _SHOWN_FAILURES:
        print(f"  and {len(result.failures) - _SHOWN_FAILURES} more (--json has all)")
    if result.total == 0:
        print("  no instruction of the call accepts a probe")


COMMAND: Final = Command(
    name="verify",
    description=(
        "Put one probe at a time on every instruction boundary that a call executes, by every"
        " method that the site allows, and compare with the unprobed run."
    ),
    example=(
        "optprobe verify work.o --call work --arg 5 --arg buf:616263 --interrupts boundaries"
        " --jobs 2"
    ),
    add_options=_add_options,
    run=_run,
)
