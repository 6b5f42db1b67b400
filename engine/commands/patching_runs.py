"""The work of ``patch``, which is loaded when it is needed, since it loads all that explores."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

from engine.commands.exit_status import BAD, GOOD, INTERRUPTED
from engine.commands.searching import name_files, options_given, save, searched
from engine.commands.users_output import users_output_apart
from engine.patching.make_experiment import experiment_of_patch
from engine.patching.patch_result import patch_result
from engine.patching.patch_spec import PatchSpec
from engine.patching.request import Request
from engine.patching.request_options import Way, read_options
from engine.patching.saved_violations import SaveDirectory
from engine.patching.search_options import read_search
from engine.patching.setup_port import SetupPort
from engine.report.search_report import show_patch
from engine.report.terminal import Style, complain

__all__ = ("patch_request", "patch_spec", "run_patch")


def patch_request(args: Namespace) -> Request:
    """Return the request that the options of ``patch`` make.

    :raises InputError: one of the options is wrong.
    """
    return Request(**read_options(Way.PATCH, options_given(args)))


def patch_spec(args: Namespace) -> PatchSpec:
    """Return which code the options of ``patch`` replace, by what, and how."""
    return PatchSpec(
        sites=tuple(args.site),
        codes=tuple(args.to),
        moves=tuple(args.move),
        lock=args.lock,
        user=args.user,
        back=args.back,
        protocol=args.protocol,
        without=tuple(sorted(set(args.without))),
    )


def run_patch(args: Namespace, port: SetupPort) -> int:
    """Run ``optprobe patch`` on machines of ``port``, and return the exit status."""
    request, spec, search = patch_request(args), patch_spec(args), read_search(options_given(args))
    directory = None if args.save is None else SaveDirectory(Path(args.save))
    with users_output_apart():
        experiment = experiment_of_patch(request, spec, port)
    saved = None if directory is None else directory.of_patch(request, spec)
    for warning in experiment.image.warnings:
        complain(f"{experiment.image.name}: {warning}")
    found = searched(f"patch {args.call}", experiment, search, port)
    name_files(saved, found)
    with users_output_apart():
        result = patch_result(experiment, found, port, protocol=args.protocol, without=spec.without)
    if args.json:
        print(json.dumps(result.to_json(), allow_nan=False), flush=True)
    else:
        show_patch(experiment, result, Style.for_stream(sys.stdout))
    save(saved, result)
    if result.died is not None:
        raise result.died
    if result.interrupted:
        return INTERRUPTED
    return GOOD if result.good and result.unwritten is None else BAD
