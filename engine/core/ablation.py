"""Profiles with safety steps left out, and how a profile differs from a shipped one.

No kernel file has this: ``--without`` of the command line asks for it.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import cast

from engine.core.profiles import PROFILES, Profile
from engine.core.safety_steps import MENDS, STEPS, SafetyStep, Step
from engine.core.transitions import CancelledByFlag, ClearedAtOnce, ClearedWhenRestored
from engine.errors import InputError, printable

__all__ = ("changes_of", "steps_of", "without")


def steps_of(profile: Profile) -> tuple[Step, ...]:
    """The safety steps that mean something in ``profile``."""
    return tuple(step for step in STEPS if profile.name in step.profiles)


def without(profile: Profile, names: frozenset[str], *, preempt: bool = False) -> Profile:
    """``profile`` with the safety steps and mends called ``names`` left out.

    :param preempt: whether the kernel is built with CONFIG_PREEMPTION.
    :raises InputError: there is no such step, or the step means nothing in this profile.
    """
    known = {str(step.name): step for step in (*STEPS, *MENDS)}
    for name in sorted(names):
        if name not in known:
            there = ", ".join(step.name for step in known.values() if profile.name in step.profiles)
            raise InputError(f"--without {printable(name)}: no such step; give one of {there}")
        if profile.name not in known[name].profiles:
            where = ", ".join(sorted(known[name].profiles))
            raise InputError(
                f"--without {name}: means nothing in {profile.name}; it is a step of {where}"
            )
    left_out = frozenset(map(SafetyStep, names))
    ablated = replace(profile, without=profile.without | left_out, preemption=preempt)
    # Most steps are asked about where they are taken, by Profile.has(). Those below are whole rules
    # of the core, or questions that a field answers, so the field changes.
    if SafetyStep.COMMIT_F66C0447CCA1 in left_out and isinstance(
        profile.transitions, ClearedWhenRestored
    ):
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


def changes_of(profile: Profile) -> tuple[tuple[str, str], ...]:
    """The fields by which a custom ``profile`` differs from the shipped profile of its name.

    Steps that are left out, preemption and the size of a batch are not among them: what names a
    profile names them as well.

    :returns: pairs of a field's name and its value in words, in the order of names. There are none
        for a shipped profile, and all fields where no shipped profile has the name.
    """
    shipped = next((one for one in PROFILES if one.name == profile.name), None)
    if shipped is profile:
        return ()
    usual = (
        None
        if shipped is None
        else without(shipped, frozenset(map(str, profile.without)), preempt=profile.preemption)
    )
    names = sorted(
        {one.name for one in fields(profile)} - {"name", "without", "preemption", "batch"}
    )
    told = ((name, _in_words(getattr(profile, name))) for name in names)
    return tuple(
        (name, words)
        for name, words in told
        if usual is None or words != _in_words(getattr(usual, name))
    )


def _in_words(value: object) -> str:
    """The value of a field in words that are the same in every process.

    A set is put in order, and an object with the rules of transitions is told by its class's name.
    """
    if isinstance(value, frozenset):
        return repr(sorted(map(str, cast("frozenset[object]", value))))
    return (
        repr(value)
        if value is None or isinstance(value, bool | int | str)
        else type(value).__qualname__
    )
