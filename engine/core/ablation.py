"""Profiles with safety steps left out."""

from __future__ import annotations

from dataclasses import replace

from engine.core.profiles import Profile
from engine.core.safety_steps import MENDS, STEPS, SafetyStep, Step
from engine.core.transitions import CancelledByFlag, ClearedAtOnce, ClearedWhenRestored
from engine.errors import InputError, printable

__all__ = ("steps_of", "without")


def steps_of(profile: Profile) -> tuple[Step, ...]:
    """The steps that mean something in ``profile``."""
    return tuple(step for step in STEPS if profile.name in step.profiles)


def without(profile: Profile, names: frozenset[str], *, preempt: bool = False) -> Profile:
    """``profile`` with the named steps left out.

    :param preempt: built with CONFIG_PREEMPTION.

    :raises InputError: there is no such step, or it means nothing in this profile.
    """
    known = {str(step.name): step for step in (*STEPS, *MENDS)}
    for name in sorted(names):
        if name not in known:
            there = ", ".join(step.name for step in known.values() if profile.name in step.profiles)
            raise InputError(f"--without {printable(name)}: no such step; give one of {there}")
        if profile.name not in known[name].profiles:
            where = ", ".join(sorted(known[name].profiles))
            raise InputError(f"--without {name}: means nothing in {profile.name}; it is a step of {where}")
    left_out = frozenset(map(SafetyStep, names))
    ablated = replace(profile, without=profile.without | left_out, preemption=preempt)
    if SafetyStep.COMMIT_F66C0447CCA1 in left_out and isinstance(profile.transitions, ClearedWhenRestored):
        ablated = replace(ablated, transitions=ClearedAtOnce())
    elif SafetyStep.COMMIT_E4ADD247789E in left_out:
        ablated = replace(ablated, transitions=CancelledByFlag())
    if SafetyStep.COMMIT_F1C97A1B4EF7 in left_out:
        ablated = replace(ablated, dying_blocks=False)
    if SafetyStep.COVERING_SEARCH in left_out:
        ablated = replace(ablated, looks_at_nearest_only=True)
    if SafetyStep.REOPTIMIZE_BLOCKED in left_out:
        ablated = replace(ablated, reoptimizes_neighbour=False)
    return ablated
