"""The command ``optprobe run``, which probes a function, calls it, and reports."""

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
from engine.commands.shared_options import NO_JOBS_HELP, add_call, add_executing, add_probe
from engine.report.terminal import Style, count, table
from engine.syntax.arguments import DoubleArgument, parse_argument
from engine.syntax.interrupts import parse_interrupts

__all__ = ("COMMAND",)

_SHOWN_BYTES: Final = 32
"""The number of bytes of a buffer that are printed at most."""


def _add_options(parser: ArgumentParser) -> None:
    add_call(parser)
    add_executing(parser, cpus=defaults.CPUS, jobs=NO_JOBS_HELP)
    add_probe(parser)
    parser.add_argument(
        "--interrupts",
        metavar="WHEN",
        default=defaults.INTERRUPTS,
        help="none, every:N or random:SEED:MEAN (%(default)s)",
    )
    parser.add_argument("--no-optimize", action="store_true", help="leave probes as breakpoints")


def _run(args: Namespace) -> int:
    # The import is here since each dataclass of a module would delay the start of all commands.
    from engine.syntax.kprobe_events import parse_spec

    options = exec_options(args)
    jobs(args)  # The option has no effect here, but is refused where it is no number.
    arguments = [parse_argument(text) for text in args.arguments]
    specs = [parse_spec(text) for text in args.probe]
    interrupts = parse_interrupts(args.interrupts)
    image = load_for(args, [(args.call, arguments)], options)
    result = wiring.run_image(
        image,
        args.call,
        arguments,
        specs,
        interrupts=interrupts,
        optimize=not args.no_optimize,
        options=options,
    )
    if args.json:
        print_json(result.to_json())
    else:
        _show(
            result,
            Style.for_stream(sys.stdout),
            any(isinstance(one, DoubleArgument) for one in arguments),
        )
    return BAD if result.fault is not None else GOOD


def _is_double(result: float | None, asked: bool) -> bool:
    """Return whether the result of a call may be a double.

    It may if the call was given doubles, or if XMM0 holds what looks like a double, and not like
    text or a small integer.

    :param result: XMM0 as a double; None where it is not finite.
    :param asked: the call was given doubles.
    """
    return asked or (result is not None and 1e-30 < abs(result) < 1e30)


def _show(result: wiring.RunResult, style: Style, asked: bool) -> None:
    """Print ``result``, the outcome of the run, for people.

    :param asked: the call was given doubles.
    """
    _show_calls(result, style, asked)
    if result.probes:
        print()
        rows = [
            (p.spec, f"{p.symbol}+{p.offset:#x}", str(p.method), str(p.hits), str(p.misses))
            for p in result.probes
        ]
        print(table(("PROBE", "SITE", "METHOD", "HITS", "MISSES"), rows, right=(3, 4)))
    print()
    print(
        f"{count(result.interrupts, 'interrupt')}, {result.stop_machine} stop_machine,"
        f" {count(result.syncs, 'sync')}"
    )
    if result.fault is not None:
        fault = result.fault
        print(
            style.paint(
                f"guest fault on cpu {fault.cpu} at {fault.place} ({fault.rip:#x}): {fault.kind}",
                "red",
                "bold",
            )
        )
        print(f"  {fault.explain}")


def _show_calls(result: wiring.RunResult, style: Style, asked: bool) -> None:
    """Print the result of each vCPU's call, and the buffers that the call was given."""
    for call in result.calls:
        value = "no result" if call.result is None else f"{call.result} ({call.result:#x})"
        if call.result is not None and _is_double(call.result_f64, asked):
            value = (
                f"{'not finite' if call.result_f64 is None else repr(call.result_f64)} as a double,"
                f" {value} as an integer"
            )
        print(
            f"{style.paint(f'cpu {call.cpu}', 'bold')}  {call.symbol} -> {value},"
            f" {count(call.instructions, 'instruction')}"
        )
        for index, content in enumerate(call.buffers):
            shown = content[:_SHOWN_BYTES].hex(" ") + (
                f" ... {len(content)} bytes" if len(content) > _SHOWN_BYTES else ""
            )
            print(f"       buf {index}: {shown}")


COMMAND: Final = Command(
    name="run",
    description="Probe a function, call it, and report.",
    example=(
        "optprobe run work.o --call work --arg 5 --arg buf:616263 --probe work --interrupts"
        " every:100"
    ),
    add_options=_add_options,
    run=_run,
)
