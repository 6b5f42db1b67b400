"""``optprobe steps``: the safety steps that ``--without`` leaves out, and what each is for.
docs/steps.md says more.
"""

from __future__ import annotations

from engine.core.profiles import PROFILES, profile_named
from engine.core.safety_steps import MENDS, STEPS, Step
from engine.report.terminal import Style, table

__all__ = ("show_steps", "steps_json")

_NAMES = tuple(profile.name for profile in PROFILES)


def _chosen(steps: tuple[Step, ...], profile: str | None) -> list[Step]:
    return [step for step in steps if profile is None or profile in step.profiles]


def _profiles(step: Step) -> list[str]:
    """The profiles where it means something, in the usual order."""
    return [name for name in _NAMES if name in step.profiles]


def steps_json(profile: str | None) -> dict[str, object]:
    """The document of ``optprobe steps --json``: those of ``profile``, or all.

    :raises InputError: there is no such profile.
    """
    _check(profile)
    return {
        "schema": 1,
        "steps": [
            {"name": str(step.name), "profiles": _profiles(step), "mend": mend, "what": step.what}
            for mend, steps in ((False, STEPS), (True, MENDS))
            for step in _chosen(steps, profile)
        ],
    }


def show_steps(profile: str | None, style: Style) -> None:
    """The same for people.

    :raises InputError: there is no such profile.
    """
    _check(profile)
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


def _check(profile: str | None) -> None:
    if profile is not None:
        profile_named(profile)
