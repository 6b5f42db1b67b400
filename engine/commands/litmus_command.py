"""The command ``optprobe litmus``: what this machine's own processor fetches of changing code.

One CPU executes an instruction while another CPU stores to it. docs/litmus.md explains the output.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from typing import Final

from engine.commands import wiring
from engine.commands.command import Command
from engine.commands.exit_status import BAD, GOOD
from engine.commands.output import print_json
from engine.commands.shared_options import add_json
from engine.ctrl_c import Interrupted
from engine.report.terminal import Progress, Style, count, table
from engine.syntax.arguments import parse_number

__all__ = ("COMMAND",)

_SECONDS: Final = 20
_SECONDS_MAX: Final = 50


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--seconds",
        metavar="N",
        default=str(_SECONDS),
        help=f"how long to measure, 1 to {_SECONDS_MAX} seconds (%(default)s)",
    )
    add_json(parser)


def _run(args: Namespace) -> int:
    seconds = parse_number(args.seconds, "--seconds", least=1, most=_SECONDS_MAX)
    progress = Progress("litmus")
    reached = "before the first second was over"

    def report(done: int, total: int) -> None:
        nonlocal reached
        reached = f"after {done} of {total} seconds"
        progress.update(done, total, "seconds")

    try:
        result = wiring.run_litmus(seconds, report)
    except KeyboardInterrupt:
        raise Interrupted(reached) from None
    finally:
        progress.clear()
    if args.json:
        print_json(result.to_json())
    else:
        _show(result, Style.for_stream(sys.stdout))
    if result.interrupted:
        sys.stdout.flush()
        raise Interrupted(reached)
    return BAD if result.strongest is None else GOOD


def _show(result: wiring.LitmusResult, style: Style) -> None:
    """Print the result for people."""
    _show_what_was_measured(result)
    print()
    _show_widths(result.cells, style)
    print()
    _show_offsets(result.cells, style)
    print()
    _show_models(result, style)


def _show_what_was_measured(result: wiring.LitmusResult) -> None:
    processor = result.processor
    under = ", under a hypervisor" if processor.hypervisor else ""
    where = (
        "on CPUs that the system chose"
        if result.cpus is None
        else "from CPU {} to CPU {}".format(*result.cpus)
    )
    through = "the mapping" if result.mappings == 1 else "another mapping than the one"
    print(f"{processor.vendor}, family {processor.family}{under}")
    print(f"stores {where}, through {through} that is executed; {result.seconds:.1f} seconds")


def _show_widths(cells: Iterable[wiring.Cell], style: Style) -> None:
    """Print the sums over all offsets, by the width of the store."""
    cells = list(cells)
    rows: list[tuple[str, ...]] = []
    for width in sorted({cell.width for cell in cells}):
        for serialized in (False, True):
            total = wiring.sums(
                cell for cell in cells if (cell.width, cell.serialized) == (width, serialized)
            )
            rows.append(
                (
                    count(width, "byte"),
                    "yes" if serialized else "no",
                    f"{total.calls:,}",
                    f"{total.overlapped:,}",
                    f"{total.torn:,}",
                    f"{total.stale + total.torn_stale:,}",
                    f"{total.undecided:,}",
                )
            )
    print(style.paint("By the width of the store, over all offsets in a line:", "bold"))
    print(
        table(
            ("WIDTH", "SERIALIZED", "CALLS", "OVERLAPPED", "TORN", "STALE", "UNDECIDED"),
            rows,
            right=range(2, 7),
        )
    )


def _show_offsets(cells: Iterable[wiring.Cell], style: Style) -> None:
    """Print the widths and offsets at which a fetch was torn, stale or went back."""
    rows: list[tuple[str, ...]] = []
    pairs: dict[tuple[int, int], list[wiring.Cell]] = {}
    for cell in cells:
        pairs.setdefault((cell.width, cell.offset), []).append(cell)
    for (width, offset), both in sorted(pairs.items()):
        total = wiring.sums(both)
        if not (total.torn or total.stale or total.backward):
            continue
        borders = sorted({border for cell in both for border in cell.borders})
        rows.append(
            (
                count(width, "byte"),
                str(offset),
                *_seen(cell for cell in both if not cell.serialized),
                *_seen(cell for cell in both if cell.serialized),
                " ".join(map(str, borders)) or "-",
            )
        )
    if not rows:
        print("No fetch was torn or stale or went back, at any offset.")
        return
    title = "By the offset of the store in its line, where a fetch was torn or stale or went back:"
    print(style.paint(title, "bold"))
    header = (
        "WIDTH",
        "OFFSET",
        "TORN",
        "STALE",
        "TORN, SERIALIZED",
        "STALE, SERIALIZED",
        "BORDER",
    )
    print(table(header, rows, right=range(1, 7)))


def _seen(cells: Iterable[wiring.Cell]) -> tuple[str, str]:
    """Return the numbers of torn and of stale fetches."""
    total = wiring.sums(cells)
    return f"{total.torn:,}", f"{total.stale + total.torn_stale:,}"


def _show_models(result: wiring.LitmusResult, style: Style) -> None:
    """Print which fetch models allow what was seen, and which of them is the strongest."""
    rows = [
        (model.name, "yes" if objection is None else "no", objection or "")
        for model, objection in result.objections()
    ]
    print(style.paint("Fetch models, from the strongest to the weakest:", "bold"))
    print(table(("MODEL", "ALLOWS IT", "WHAT WAS SEEN THAT IT DOES NOT ALLOW"), rows))
    best = result.strongest
    if best is None:
        print(style.paint("No model allows what was seen.", "red", "bold"))
    else:
        print(f"The strongest model that allows what was seen is {style.paint(best, 'bold')}.")
    if result.not_overlapped:
        print(
            f"Of {len(result.cells)} cases (width, offset, serialized or not)"
            f" {result.not_overlapped} had no call that overlapped a store, so nothing is shown of"
            " them: take more --seconds, or CPUs that are not busy."
        )
    print("What was not seen may still happen; docs/litmus.md says what each word means.")


COMMAND: Final = Command(
    name="litmus",
    description=(
        "Let one CPU of this machine store to an instruction that another CPU executes, at every"
        " offset of a cache line, and count the fetches that were torn or stale. No emulator takes"
        " part. Exit status 1: a fetch was seen that no fetch model allows."
    ),
    example="optprobe litmus --seconds 5",
    add_options=_add_options,
    run=_run,
    executes=False,
)
