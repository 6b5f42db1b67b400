"""The command ``optprobe steps``, which lists the safety steps and what each of them is for.

``--without`` leaves safety steps out; docs/steps.md says more about them.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from typing import Final

from engine.commands.command import Command
from engine.commands.exit_status import GOOD
from engine.commands.output import print_json
from engine.commands.shared_options import add_json
from engine.core.profiles import PROFILES, profile_named
from engine.core.safety_steps import MENDS, STEPS, Step
from engine.report.terminal import Style, table

__all__ = ("COMMAND",)

_NAMES: Final = tuple(profile.name for profile in PROFILES)


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--profile", metavar="P", help="those of linux-2010, linux-6.1 or next only (all)"
    )
    add_json(parser)


def _run(args: Namespace) -> int:
    if args.profile is not None:
        profile_named(args.profile)  # This raises InputError for an unknown profile.
    if args.json:
        print_json(_document(args.profile))
    else:
        _show(args.profile, Style.for_stream(sys.stdout))
    return GOOD


def _chosen(steps: tuple[Step, ...], profile: str | None) -> list[Step]:
    return [step for step in steps if profile is None or profile in step.profiles]


def _profiles(step: Step) -> list[str]:
    """Return the profiles in which ``step`` means something, in the usual order."""
    return [name for name in _NAMES if name in step.profiles]


def _document(profile: str | None) -> dict[str, object]:
    """Return the document of ``optprobe steps --json``: the steps of ``profile``, or all steps."""
    return {
        "schema": 1,
        "steps": [
            {"name": str(step.name), "profiles": _profiles(step), "mend": mend, "what": step.what}
            for mend, steps in ((False, STEPS), (True, MENDS))
            for step in _chosen(steps, profile)
        ],
    }


def _show(profile: str | None, style: Style) -> None:
    """Print the steps of ``profile``, or all steps, for people."""
    for title, steps in (
        ("Safety steps, which --without leaves out", STEPS),
        ("Mends of kernel commit 6274de4984a6, which --without leaves out, too", MENDS),
    ):
        chosen = _chosen(steps, profile)
        if not chosen:
            continue
        rows = [
            (
                step.name,
                "all" if step.profiles >= set(_NAMES) else " ".join(_profiles(step)),
                step.what,
            )
            for step in chosen
        ]
        print(style.paint(f"{title}:", "bold"))
        print(table(("NAME", "PROFILES", "WHAT IT DOES"), rows))
        print()
    print("docs/steps.md says what each is for, and docs/findings.md what breaks without it.")


COMMAND: Final = Command(
    name="steps",
    description=(
        "List the safety steps and mends that --without leaves out, the profiles where each means"
        " something, and what it does."
    ),
    example="optprobe steps --profile linux-6.1",
    add_options=_add_options,
    run=_run,
    executes=False,
)
