"""The command ``optprobe demo``, which shows a probe being armed, optimized and undone."""

from __future__ import annotations

import argparse
import sys
from typing import Final

from engine.commands import wiring
from engine.commands.command import Command
from engine.report.terminal import Style

__all__ = ("COMMAND",)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image", metavar="IMAGE", help=argparse.SUPPRESS)


def _run(args: argparse.Namespace) -> int:
    return wiring.run_demo(args.image, Style.for_stream(sys.stdout))


COMMAND: Final = Command(
    name="demo",
    description="Watch a probe live.",
    example="optprobe demo",
    add_options=_add_options,
    run=_run,
)
