"""The work of ``matrix``, which is loaded when it is needed, since it loads all that explores."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from typing import Final

from engine.commands.exit_status import BAD, GOOD, INTERRUPTED
from engine.commands.searching import options_given
from engine.core.profiles import profile_named
from engine.errors import WorkerDied
from engine.patching.matrix import CONFIGURATIONS, Cell, ShownSteps, matrix
from engine.patching.request_options import OPTIONS
from engine.patching.search_options import read_search
from engine.patching.setup_port import SetupPort
from engine.report.search_report import cell_line
from engine.report.terminal import Progress, complain

__all__ = ("run_matrix",)

_SCHEDULES: Final = 40_000
"""A search stops after so many schedules if no other number is given."""


def run_matrix(args: Namespace, port: SetupPort, shown: ShownSteps) -> int:
    """Run ``optprobe matrix`` on machines of ``port``, and return the exit status."""
    search = read_search(options_given(args))
    fetch = OPTIONS["fetch"].kind.read("fetch", args.fetch)
    if search.max_schedules is None:
        search = replace(search, max_schedules=_SCHEDULES)
    columns = [
        one
        for one in CONFIGURATIONS
        if args.profile in (None, one.profile.name) and not (one.preempt and args.no_preempt)
    ]
    if args.profile is not None:
        profile_named(args.profile)
    line = Progress("matrix")
    cells: list[Cell] = []
    interrupted, died = False, None
    unwritten: list[str] = []
    try:
        for cell in matrix(
            search, port, shown, columns, fetch=fetch, say=line.note, warn=unwritten.append
        ):
            cells.append(cell)
            if not args.json:
                line.clear()
                print(cell_line(cell), flush=True)
    except KeyboardInterrupt:
        interrupted = True
    except WorkerDied as error:
        interrupted, died = True, error
    finally:
        line.clear()
    if args.json:
        print(
            json.dumps(
                {
                    "schema": 1,
                    "interrupted": interrupted,
                    "cells": [cell.to_json() for cell in cells],
                },
                allow_nan=False,
            )
        )
    if unwritten:
        complain(unwritten[0])
    if died is not None:
        raise died
    if interrupted:
        return INTERRUPTED
    baseline_breaks = any(
        cell.step is None and cell.report is not None and not cell.configuration.preempt
        for cell in cells
    )
    return BAD if baseline_breaks or unwritten else GOOD
