"""The reading of options and the loading of images, for the commands that execute guest code."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.commands import wiring
from engine.errors import InputError
from engine.limits import CPUS_MAX
from engine.report.terminal import complain
from engine.syntax.arguments import Argument, parse_number

if TYPE_CHECKING:
    from engine.image import Image

__all__ = ("exec_options", "jobs", "load", "load_for")

_INSTRUCTIONS_MAX = 1 << 62
_JOBS_MAX = 256


def exec_options(args: Namespace) -> wiring.ExecOptions:
    """Return the options that say how to execute, such as the profile and the number of vCPUs.

    :raises InputError: a number, a stub, a profile or a safety step is wrong, or there is
        ``--preempt``, which these commands do not have.
    """
    # A command that executes nothing, and loads an image by this module, needs none of these.
    from engine.core.ablation import without
    from engine.core.profiles import profile_named
    from engine.syntax.stub_texts import parse_stub

    if args.preempt:
        raise InputError("--preempt: only check and explore have preemption; leave it out")
    return wiring.ExecOptions(
        # Of these commands only script has --without.
        profile=without(profile_named(args.profile), frozenset(vars(args).get("without", ()))),
        cpus=parse_number(args.cpus, "--cpus", least=1, most=CPUS_MAX),
        max_instructions=parse_number(
            args.max_instructions, "--max-instructions", least=1, most=_INSTRUCTIONS_MAX
        ),
        stubs=dict(parse_stub(stub) for stub in args.stub),
        check_alignment=args.check_alignment,
    )


def jobs(args: Namespace) -> int:
    """Return the number of processes that ``--jobs`` asks for.

    :raises InputError: it is no number, or out of range.
    """
    return parse_number(args.jobs, "--jobs", least=1, most=_JOBS_MAX)


def load(args: Namespace, *, executes: bool = True) -> Image:
    """Load the image and its libraries, and print the warnings of the loader on standard error.

    :param executes: the code will run, so each function that it calls has to be defined.
    :raises InputError: a file can't be read, or something that the image needs is missing.
    """
    given = vars(args)  # The command inspect has no --stub, so the option may be missing.
    image = wiring.load_image(
        args.image,
        libraries=given.get("libraries", ()),
        stubs=[stub.partition("=")[0] for stub in given.get("stub", ())],
        executes=executes,
    )
    for warning in image.warnings:
        complain(f"{image.name}: {warning}")
    return image


def load_for(
    args: Namespace,
    calls: Sequence[tuple[str, Sequence[Argument]]],
    options: wiring.ExecOptions,
) -> Image:
    """Load the image, and decide whether its code has a red zone.

    ``--red-zone`` says whether it has one, or that ``calls`` are to be made without probes to find
    out. A line on standard error says so if they show one.

    :param calls: functions and their arguments.
    :raises InputError: the image can't be loaded, or ``--red-zone`` has no value that it may have.
    """
    image, taken = wiring.with_red_zone(
        load(args), args.red_zone, calls, options.machine, options.max_instructions
    )
    if taken is not None:
        complain(f"{image.name}: {taken}")
    return image
