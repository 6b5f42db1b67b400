"""The ``optprobe`` command: argument parsing, and the one place that wires arch_x86 into the
engine.

Exit status: 0 good; 1 a failed check, a guest fault or output that can't be written; 2 bad usage or
input, with one line that says what is wrong; 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import errno
import io
import json
import os
import re
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

from engine import defaults
from engine.commands.parser import Once, Parser, Version
from engine.core.ablation import without
from engine.core.profiles import profile_named
from engine.ctrl_c import was_interrupted
from engine.errors import InputError, KprobeError, UnprobedFault, WorkerDied, error_text, printable
from engine.report.terminal import Progress, Style, complain, count, table
from engine.syntax.arguments import (
    Argument,
    DoubleArgument,
    IntegerArgument,
    parse_argument,
    parse_number,
)
from engine.syntax.interrupts import parse_interrupts
from engine.syntax.kprobe_events import parse_spec

if TYPE_CHECKING:
    from arch_x86.lab.jobs import VerifyResult
    from arch_x86.lab.run import ExecOptions, RunResult
    from engine.image import Image

__all__ = ("main",)

_GOOD, _BAD, _USAGE = 0, 1, 2
_INTERRUPTED = 130
_SHOWN_MAX = 20
_SCRIPT_MAX = 1 << 22
_JOBS = "processes to use, 1 to 8 of them at once (1); the result does not depend on it"
_ALIGNMENT_HELP = "an SSE operand that has to be aligned and is not is a fault (slow)"
_NO_JOBS = "no effect: this command uses one process"
_NEGATIVE = re.compile(r"-[0-9]")
_IMAGE_HELP = "ELF object, executable or shared object, .s assembly, or code-image JSON"


class _Interrupted(KeyboardInterrupt):
    """Ctrl-C, and how far the command had come."""


def _calling(parser: argparse.ArgumentParser, *, cpus: bool, jobs: str) -> None:
    """What names the call, and the options common to the commands that execute."""
    parser.add_argument("image", metavar="IMAGE", help=_IMAGE_HELP)
    parser.add_argument(
        "--call", metavar="SYMBOL", required=True, action=Once, help="the function to call"
    )
    parser.add_argument(
        "--arg",
        metavar="A",
        action="append",
        default=[],
        dest="arguments",
        help="next argument: N, f64:X, buf:HEX, buf:@FILE, buf:+SIZE",
    )
    _executing(parser, cpus=defaults.CPUS if cpus else None, jobs=jobs)


def _executing(parser: argparse.ArgumentParser, *, cpus: int | None, jobs: str) -> None:
    """Options common to the commands that execute. ``cpus``: the default number, None where there
    is no choice.
    """
    parser.add_argument(
        "--stub",
        metavar="SYM=ret:N",
        action="append",
        default=[],
        help="an unresolved function that returns N",
    )
    parser.add_argument(
        "--with",
        metavar="LIB",
        action="append",
        default=[],
        dest="libraries",
        help="a shared library to resolve from",
    )
    parser.add_argument(
        "--red-zone",
        metavar="R",
        default=defaults.RED_ZONE,
        help="the code keeps data below RSP: yes, no or auto (%(default)s)",
    )
    parser.add_argument(
        "--profile",
        metavar="P",
        default=defaults.PROFILE,
        help="whose behaviour: linux-2010, linux-6.1 or next (%(default)s)",
    )
    parser.add_argument("--check-alignment", action="store_true", help=_ALIGNMENT_HELP)
    preempts = (
        "a second task on each vCPU, and preemption"
        if parser.prog.endswith(" check")
        else argparse.SUPPRESS
    )
    parser.add_argument("--preempt", action="store_true", help=preempts)
    parser.add_argument(
        "--max-instructions",
        metavar="N",
        default=str(defaults.MAX_INSTRUCTIONS),
        help="bound on each call (%(default)s)",
    )
    parser.add_argument("--jobs", metavar="N", default=str(defaults.JOBS), help=jobs)
    shown = "vCPUs, 1 to 8 (%(default)s)" if cpus else argparse.SUPPRESS
    parser.add_argument("--cpus", metavar="N", default=str(cpus or defaults.CPUS), help=shown)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def _parser() -> argparse.ArgumentParser:
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
    commands = parser.add_subparsers(
        metavar="COMMAND", required=True, dest="command", parser_class=Parser
    )
    run = commands.add_parser(
        "run",
        help="probe a function, call it, and report",
        description="Probe a function, call it, and report.",
    )
    _calling(run, cpus=True, jobs=_NO_JOBS)
    run.add_argument(
        "--probe",
        metavar="SPEC",
        action="append",
        default=[],
        help="p[:EVENT] SYM[+OFF], r[MAX][:EVENT] SYM, or SYM+0xOFF",
    )
    run.add_argument(
        "--interrupts",
        metavar="WHEN",
        default=defaults.INTERRUPTS,
        help="none, every:N or random:SEED:MEAN (%(default)s)",
    )
    run.add_argument("--no-optimize", action="store_true", help="leave probes as breakpoints")
    verify = commands.add_parser(
        "verify",
        help="probe every instruction a call executes, one at a time, and compare",
        description=(
            "Put one probe at a time on every instruction boundary that a call executes, by every"
            " method that the site allows, and compare with the unprobed run."
        ),
    )
    _calling(verify, cpus=False, jobs="processes to use (1)")
    verify.add_argument(
        "--interrupts",
        metavar="WHERE",
        default=defaults.INTERRUPTS,
        help="none, boundaries or sample:SEED:N (%(default)s)",
    )
    script = commands.add_parser(
        "script",
        help="run operations one a line, and show the state after each",
        description=(
            "Run operations (reg, unreg, dis, en, call, wait, ...), one a line, and show the state"
            " after each."
        ),
        epilog="docs/script.md has the operations.",
    )
    script.add_argument("image", metavar="IMAGE", help=_IMAGE_HELP)
    script.add_argument("script", metavar="FILE", help="the operations; - for standard input")
    script.add_argument(
        "--without",
        metavar="STEP",
        action="append",
        default=[],
        help="leave a safety step or a mend of the profile out",
    )
    _executing(script, cpus=defaults.SCRIPT_CPUS, jobs=_NO_JOBS)
    inspect = commands.add_parser(
        "inspect",
        help="where probes can go, and where jumps, instruction by instruction",
        description=(
            "Show of each instruction whether it can be probed, boosted and optimized, and why not."
        ),
    )
    inspect.add_argument("image", metavar="IMAGE", help=_IMAGE_HELP)
    inspect.add_argument("symbol", metavar="SYMBOL", nargs="?", help="the function to show (all)")
    inspect.add_argument(
        "--with",
        metavar="LIB",
        action="append",
        default=[],
        dest="libraries",
        help="a shared library to show, too",
    )
    inspect.add_argument(
        "--buffers",
        action="store_true",
        help="show the slot and the detour buffer of each site, too",
    )
    inspect.add_argument("--json", action="store_true", help="print one JSON document")
    _explorers(commands)
    demo = commands.add_parser(
        "demo",
        help="watch a probe being armed, optimized and undone",
        description="Watch a probe live.",
    )
    demo.add_argument("--image", metavar="IMAGE", help=argparse.SUPPRESS)
    steps = commands.add_parser(
        "steps",
        help="the safety steps that --without leaves out, and what each is for",
        description=(
            "List the safety steps and mends that --without leaves out, the profiles where each"
            " means something, and what it does."
        ),
    )
    steps.add_argument(
        "--profile", metavar="P", help="those of linux-2010, linux-6.1 or next only (all)"
    )
    steps.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def _explorers(commands: Any) -> None:
    """check, explore, replay, matrix."""
    check = commands.add_parser(
        "check",
        help="every interleaving of calls, interrupts and a probe's life, up to a bound",
        description=(
            "Explore every interleaving of the calls with registering, optimizing, disabling,"
            " enabling and unregistering the probes, interrupts at every boundary included, and say"
            " whether anything breaks."
        ),
    )
    _calling(check, cpus=True, jobs=_JOBS)
    check.add_argument(
        "--probe",
        metavar="SPEC",
        action="append",
        default=[],
        help="p[:EVENT] SYM[+OFF], r[MAX][:EVENT] SYM, or SYM+0xOFF",
    )
    check.add_argument(
        "--calls", metavar="N", default=str(defaults.CALLS), help="calls of each vCPU (%(default)s)"
    )
    check.add_argument(
        "--resched",
        metavar="SYM+OFF",
        action="append",
        default=[],
        help="call schedule() in front of this instruction",
    )
    check.add_argument("--fetch", metavar="MODEL", default=defaults.FETCH, help="coherent")
    _exploring(check, preemptions=str(defaults.PREEMPTIONS))
    explore = commands.add_parser(
        "explore",
        help="the same for scenarios in Python",
        description="Explore scenarios: FILE.py, or one of them, FILE.py::SCENARIO.",
    )
    explore.add_argument("file", metavar="FILE.py[::SCENARIO]")
    explore.add_argument(
        "--profile",
        metavar="P",
        help="whose behaviour: linux-2010, linux-6.1 or next (the scenario's first)",
    )
    explore.add_argument(
        "--preempt", action="store_true", help="a second task on each vCPU, and preemption"
    )
    explore.add_argument("--check-alignment", action="store_true", help=_ALIGNMENT_HELP)
    explore.add_argument("--cpus", metavar="N", help="vCPUs, 1 to 8 (the scenario's)")
    explore.add_argument("--jobs", metavar="N", default=str(defaults.JOBS), help=_JOBS)
    explore.add_argument("--json", action="store_true", help="print one JSON document")
    _exploring(explore, preemptions="the scenario's")
    table_ = commands.add_parser(
        "matrix",
        help="which safety step is needed where, from fresh runs",
        description=(
            "Leave each safety step out, in each configuration, and say what breaks, or why nothing"
            " does."
        ),
    )
    table_.add_argument("--profile", metavar="P", help="linux-2010, linux-6.1 or next only (all)")
    table_.add_argument("--no-preempt", action="store_true", help="only without preemption")
    table_.add_argument("--jobs", metavar="N", default=str(defaults.JOBS), help=_JOBS)
    table_.add_argument("--json", action="store_true", help="print one JSON document")
    _exploring(table_, preemptions=str(defaults.PREEMPTIONS), ablates=False)
    again = commands.add_parser(
        "replay",
        help="show a violation again, step by step",
        description=(
            "Replay a file of --save, or a SCHEDULE with -- and the arguments of the check (or"
            " explore) that found it."
        ),
        epilog=(
            "Exit status: 1 the violation shows again, 0 it does not, 2 the schedule is of"
            " something else."
        ),
    )
    again.add_argument("what", metavar="FILE|SCHEDULE")
    again.add_argument("--json", action="store_true", help="print one JSON document")
    again.set_defaults(rest=[])


def _exploring(parser: argparse.ArgumentParser, *, preemptions: str, ablates: bool = True) -> None:
    """Options common to the commands that explore."""
    if ablates:
        parser.add_argument(
            "--save", metavar="DIR", help="write what is found to files that replay takes"
        )
        parser.add_argument(
            "--without", metavar="STEP", action="append", default=[], help="leave a safety step out"
        )
        parser.add_argument(
            "--points",
            metavar="P",
            default=defaults.POINTS,
            help=(
                "where control tasks stop: locks (text writes and waits, too), or stores as well"
                " (%(default)s)"
            ),
        )
    parser.add_argument(
        "--strategy",
        metavar="S",
        default=defaults.STRATEGY,
        help="exhaustive, random or pct (%(default)s)",
    )
    parser.add_argument(
        "--preemptions",
        metavar="K",
        help=f"bound on interrupts and switches from a busy vCPU; or none ({preemptions})",
    )
    parser.add_argument(
        "--max-schedules",
        metavar="N",
        help="stop after so many schedules (exhaustive: no limit; else 10000)",
    )
    parser.add_argument("--seed", metavar="N", help=f"of random and pct only ({defaults.SEED})")
    parser.add_argument(
        "--depth",
        metavar="D",
        help=f"of pct only: points of change, and one more ({defaults.PCT_DEPTH})",
    )
    parser.add_argument(
        "--checkpoint",
        metavar="DIR",
        help="write down what is found there, and go on from it when it was killed",
    )
    parser.add_argument(
        "--no-reduction",
        action="store_true",
        help="choose at every instruction, not only where others could tell",
    )
    parser.add_argument(
        "--no-hashing",
        action="store_true",
        help="go on from states that were met before, too (random and pct always do)",
    )
    parser.add_argument(
        "--recheck",
        action="store_true",
        help="run every schedule twice and compare (else one in 100)",
    )


def _options(args: argparse.Namespace) -> ExecOptions:
    from arch_x86.emu.machine import CPUS_MAX
    from arch_x86.images import parse_stub
    from arch_x86.lab.run import ExecOptions

    if args.preempt:
        raise InputError("--preempt: only check and explore have preemption; leave it out")
    return ExecOptions(
        # of these commands script alone has it
        profile=without(profile_named(args.profile), frozenset(vars(args).get("without", ()))),
        cpus=parse_number(args.cpus, "--cpus", least=1, most=CPUS_MAX),
        max_instructions=parse_number(
            args.max_instructions, "--max-instructions", least=1, most=1 << 62
        ),
        stubs=dict(parse_stub(stub) for stub in args.stub),
        check_alignment=args.check_alignment,
    )


def _load(args: argparse.Namespace) -> Image:
    from arch_x86.images import load_image

    given = vars(args)  # inspect has no stubs
    stubs = [stub.partition("=")[0] for stub in given.get("stub", ())]
    image = load_image(
        args.image,
        libraries=given.get("libraries", ()),
        stubs=stubs,
        executes=args.command != "inspect",
    )
    for warning in image.warnings:
        complain(f"{image.name}: {warning}")
    return image


def _load_for(
    args: argparse.Namespace, calls: Sequence[tuple[str, Sequence[Argument]]], options: ExecOptions
) -> Image:
    """The image, with the red zone that ``--red-zone`` asks for, or that the calls show to be in
    use.
    """
    from arch_x86.lab.redzone import with_red_zone

    image, taken = with_red_zone(
        _load(args), args.red_zone, calls, options.machine, options.max_instructions
    )
    if taken is not None:
        complain(f"{image.name}: {taken}")
    return image


def _print_json(document: dict[str, object]) -> None:
    print(json.dumps(document, allow_nan=False))


# run ----------------------------------------------------------------------------------------------


def _run(args: argparse.Namespace) -> int:
    from arch_x86.lab.run import run_image

    options = _options(args)
    parse_number(args.jobs, "--jobs", least=1, most=256)
    arguments = [parse_argument(text) for text in args.arguments]
    specs = [parse_spec(text) for text in args.probe]
    interrupts = parse_interrupts(args.interrupts)
    image = _load_for(args, [(args.call, arguments)], options)
    result = run_image(
        image,
        args.call,
        arguments,
        specs,
        interrupts=interrupts,
        optimize=not args.no_optimize,
        options=options,
    )
    if args.json:
        _print_json(result.to_json())
    else:
        _show_run(
            result,
            Style.for_stream(sys.stdout),
            any(isinstance(one, DoubleArgument) for one in arguments),
        )
    return _BAD if result.fault is not None else _GOOD


def _is_double(result: float | None, asked: bool) -> bool:
    """A call's result may be a double: it was given doubles, or XMM0 holds what looks like one, not
    like text or a small integer.
    """
    return asked or (result is not None and 1e-30 < abs(result) < 1e30)


def _show_run(result: RunResult, style: Style, asked: bool) -> None:
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
            shown = content[:32].hex(" ") + (
                f" ... {len(content)} bytes" if len(content) > 32 else ""
            )
            print(f"       buf {index}: {shown}")
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


# verify -------------------------------------------------------------------------------------------


def _verify(args: argparse.Namespace) -> int:
    from arch_x86.lab.jobs import verify_image
    from arch_x86.lab.verify import parse_sweep

    options = _options(args)
    if options.cpus != 1:
        raise InputError("--cpus: verify works on one vCPU; leave it out")
    jobs = parse_number(args.jobs, "--jobs", least=1, most=256)
    arguments = [parse_argument(text) for text in args.arguments]
    sweep = parse_sweep(args.interrupts)
    image = _load_for(args, [(args.call, arguments)], options)
    progress = Progress(f"verify {args.call}")
    reached = "before the first step"

    def report(done: int, total: int, note: str) -> None:
        nonlocal reached
        reached = f"after {done:,} of {total:,} {note}"
        progress.update(done, total, note)

    try:
        result = verify_image(
            image, args.call, arguments, sweep=sweep, options=options, jobs=jobs, progress=report
        )
    except KeyboardInterrupt:
        raise _Interrupted(reached) from None
    finally:
        progress.clear()
    if args.json:
        _print_json(result.to_json())
    else:
        _show_verify(args, result, Style.for_stream(sys.stdout))
    if result.interrupted:
        sys.stdout.flush()
        raise result.died or _Interrupted(reached)
    return _GOOD if result.good else _BAD


def _show_verify(args: argparse.Namespace, result: VerifyResult, style: Style) -> None:
    colour = {"good": "green", "nothing-found": "yellow", "bad": "red"}[result.verdict]
    print(f"{args.call}: {style.paint(result.verdict, colour, 'bold')}")
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
    for failure in result.failures[:_SHOWN_MAX]:
        when = (
            ""
            if failure.interrupt_at is None
            else f", interrupt after {failure.interrupt_at} instructions"
        )
        print(
            f"  {style.paint(f'{failure.symbol}+{failure.offset:#x}', 'bold')}"
            f" {failure.method}{when}: {failure.explain}"
        )
    if len(result.failures) > _SHOWN_MAX:
        print(f"  and {len(result.failures) - _SHOWN_MAX} more (--json has all)")
    if result.total == 0:
        print("  no instruction of the call accepts a probe")


# script -------------------------------------------------------------------------------------------


def _script(args: argparse.Namespace) -> int:
    from arch_x86.lab.script import run_script
    from engine.syntax.script import parse_script

    options = _options(args)
    parse_number(args.jobs, "--jobs", least=1, most=256)
    operations = parse_script(
        _read_script(args.script), "standard input" if args.script == "-" else args.script
    )
    called = dict.fromkeys(op.symbol for op in operations if op.symbol)
    image = _load_for(args, [(symbol, [IntegerArgument(1)]) for symbol in called], options)
    status = _GOOD
    for line in run_script(image, operations, options, shows_text=not args.json):
        print(json.dumps(line, allow_nan=False) if args.json else _script_line(line))
        if "fault" in line:
            status = _BAD
    return status


def _read_script(name: str) -> str:
    wanted = "give a text file of operations, one a line, or - for standard input"
    if name != "-" and not os.path.isfile(name):
        raise InputError(
            f"{printable(name)}:"
            f" {'not a regular file' if os.path.exists(name) else 'no such file'}; {wanted}"
        )
    if name == "-" and sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison]  # so it is when closed: `<&-`
        raise InputError(f"standard input is closed; {wanted}")
    try:
        with nullcontext(sys.stdin) if name == "-" else open(name, encoding="utf-8") as file:
            text = file.read(_SCRIPT_MAX + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{printable(name)}: {error_text(error)}; {wanted}") from None
    if len(text) > _SCRIPT_MAX:
        raise InputError(
            f"{printable(name)}: over {_SCRIPT_MAX:,} characters; cut it into several scripts"
        )
    return text


def _script_line(line: dict[str, Any]) -> str:
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


def _inspect(args: argparse.Namespace) -> int:
    from arch_x86.lab.inspect import inspect_image

    inspect_image(sys.stdout, _load(args), args.symbol, as_json=args.json, buffers=args.buffers)
    return _GOOD


def _demo(args: argparse.Namespace) -> int:
    from arch_x86.lab.demo import run_demo

    return run_demo(args.image, Style.for_stream(sys.stdout))


def _steps(args: argparse.Namespace) -> int:
    from engine.commands.steps import show_steps, steps_json

    if args.json:
        _print_json(steps_json(args.profile))
    else:
        show_steps(args.profile, Style.for_stream(sys.stdout))
    return _GOOD


def _check(args: argparse.Namespace) -> int:
    from arch_x86.explore.commands import run_check

    return run_check(args)


def _explore(args: argparse.Namespace) -> int:
    from arch_x86.explore.commands import run_explore

    return run_explore(args)


def _matrix(args: argparse.Namespace) -> int:
    from arch_x86.explore.commands import run_matrix

    return run_matrix(args)


def _replay(args: argparse.Namespace) -> int:
    from arch_x86.explore.commands import run_replay

    return run_replay(args, _parse)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    """Arguments, and what follows ``--`` of replay, as they are."""
    words = list(argv)
    rest: list[str] = []
    if words and words[0] == "replay" and "--" in words:
        rest = words[words.index("--") + 1 :]
        words = words[: words.index("--")]
    _refuse_empty(words)
    parser = _parser()
    args, left = parser.parse_known_args(_join_negative(words))
    if (
        args.command == "inspect"
        and args.symbol is None
        and len(left) == 1
        and not left[0].startswith("-")
    ):
        # argparse looks for an optional word in front of the options only
        args.symbol, left = (left[0], [])
    if left:
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    if args.command == "replay":
        args.rest = rest
    if args.command in ("check", "explore", "matrix"):
        args.preemptions_given = args.preemptions is not None
        args.preemptions = (
            str(defaults.PREEMPTIONS) if args.preemptions is None else args.preemptions
        )
    return args


_OUTPUT_ERRORS = (
    errno.EBADF,
    errno.EFBIG,
    errno.EINVAL,
    errno.EIO,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.ENXIO,
    errno.EAGAIN,
)
_COMMANDS = {
    "run": _run,
    "verify": _verify,
    "script": _script,
    "inspect": _inspect,
    "demo": _demo,
    "check": _check,
    "explore": _explore,
    "replay": _replay,
    "matrix": _matrix,
    "steps": _steps,
}


def _interruptible(command: str) -> AbstractContextManager[None]:
    if command in ("inspect", "steps"):  # which execute nothing
        return nullcontext()
    from arch_x86.emu.sigint import interruptible

    return interruptible()


def main(argv: Sequence[str] | None = None) -> int:
    """The command. ``argv`` without the program's name; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        # names are the user's: what the locale lacks is shown escaped
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return _uncovered(sys.argv[1:] if argv is None else argv)
    except (InputError, KprobeError) as error:
        complain(str(error))
        return _USAGE
    except KeyboardInterrupt as error:
        complain(f"interrupted {error}".rstrip())
        return _INTERRUPTED
    except (UnprobedFault, WorkerDied) as error:
        complain(str(error))
        return _BAD
    except MemoryError:
        complain(
            "not enough memory; use smaller buffers, fewer --cpus or fewer --jobs, or allow the"
            " process more (ulimit -v)"
        )
        return _BAD
    except BrokenPipeError:  # the reader went away (`optprobe ... | head`)
        _give_up_output()
        return _BAD
    except ImportError as error:
        complain(
            f"cannot load what it needs: {error_text(error)}; is there too little memory, or was it"
            " installed in part?"
        )
        return _BAD
    except OSError as error:
        if error.errno not in _OUTPUT_ERRORS:
            complain(
                f"the system refuses: {error_text(error)}; is there too little memory, or are there"
                " too many files or processes?"
            )
            return _BAD
        _give_up_output()
        complain(f"cannot write the output: {error_text(error)}")
        return _BAD


def _uncovered(argv: Sequence[str]) -> int:
    """The command; an error by which what Ctrl-C cut off could not be unwound is Ctrl-C."""
    try:
        return _main(argv)
    except Exception as error:
        if was_interrupted(error):
            raise KeyboardInterrupt from error
        raise


def _main(argv: Sequence[str]) -> int:
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]  # so it is when closed: `>&-`
        complain("cannot write the output: standard output is closed")
        return _BAD
    try:
        args = _parse(argv)
    except SystemExit as done:  # --help
        sys.stdout.flush()
        return int(done.code or 0)
    with _interruptible(args.command):
        status = _COMMANDS[args.command](args)
    sys.stdout.flush()
    return status


def _refuse_empty(words: Sequence[str]) -> None:
    """No word may be empty: as a directory it would be the present one, and in a message nothing is
    to be seen of it.
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


def _join_negative(argv: Sequence[str]) -> list[str]:
    """``--arg -0x10`` as ``--arg=-0x10``: argparse would take -0x10 for an option."""
    words: list[str] = []
    for word in argv:
        if words and words[-1] == "--arg" and _NEGATIVE.match(word):
            words[-1] = f"--arg={word}"
        else:
            words.append(word)
    return words


def _give_up_output() -> None:
    """What is still buffered goes nowhere, lest the interpreter complains when it flushes at its
    end.
    """
    with suppress(OSError):  # not a file, in a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
