"""The record of everything that an exploration depends on, and its fingerprint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from engine.core.ablation import changes_of
from engine.core.profiles import Profile
from engine.image import Image
from engine.patching.conditions import Conditions, conditions_of
from engine.patching.control_code import ControlCode, ControlCodes
from engine.patching.patched_sites import PatchedSite
from engine.patching.user_code import identity_of
from engine.syntax.arguments import Argument

__all__ = ("Experiment", "fingerprint", "options_mark")

_OF_THE_SEARCH: Final = (
    "interrupts",
    "reduce",
    "apart",
    "restores",
    "max_instructions",
    "oracles",
)
"""These conditions decide what a search looks at, and not what a schedule does.

A schedule is the same with other values of these.
"""
_FROM_THE_FIRST: Final = ("calls", "cpus", "preempt", "fetch", "nmis", "stubs")
"""These conditions are in every fingerprint, whatever their values, as they always were."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment(Conditions):
    """An experiment has its conditions, the program, the calls and the control tasks.

    :ivar image: the program.
    :ivar call: the function that every vCPU calls.
    :ivar arguments: the arguments of that call.
    :ivar profile: the kernel's profile, with the steps left out that are to be left out.
    :ivar resched: the addresses in front of whose instruction a task calls ``schedule()``.
    :ivar asleep: the addresses in front of whose instruction a task falls asleep for ever.
    :ivar patches: the sites whose code the control tasks replace by a patch protocol.
    :ivar switched: those of these sites that are static branches or static calls of the program.
    :ivar patch_changes: how often the code of these sites changes at most.
    :ivar lock: the addresses of instructions at which a task holds the allocator's lock, or None.
    :ivar user: the addresses of instructions at which a vCPU still counts as in user mode, though
        it is in a call; None: there are none.
    :ivar code: the control tasks, by name, or a function that makes them. It is called for each
        control state, so that what tasks share outside of their functions is made anew with
        them.
    :ivar tag: a text that differs where control tasks do something else, for the fingerprint.
    """

    image: Image
    call: str
    arguments: tuple[Argument, ...] = ()
    profile: Profile
    resched: tuple[int, ...] = ()
    asleep: tuple[int, ...] = ()
    patches: tuple[PatchedSite, ...] = ()
    switched: tuple[PatchedSite, ...] = ()
    patch_changes: int = 0
    lock: range | None = None
    user: range | None = None
    code: Sequence[tuple[str, ControlCode]] | ControlCodes
    tag: str

    def control_tasks(self) -> Sequence[tuple[str, ControlCode]]:
        """Return the work of the control tasks, by name, for one control state."""
        return self.code() if callable(self.code) else self.code


def fingerprint(experiment: Experiment) -> str:
    """Return 8 hexadecimal digits of everything that decides what a schedule does."""
    digest = blake2b(digest_size=4)
    for segment in experiment.image.segments:
        digest.update(f"{segment.addr:x}:{len(segment.data)}:{segment.executable}".encode())
        digest.update(segment.data)
    profile = experiment.profile
    words = (
        experiment.call,
        experiment.arguments,
        experiment.calls,
        experiment.cpus,
        profile.name,
        sorted(map(str, profile.without)),
        experiment.preempt,
        experiment.fetch,
        experiment.nmis,
    )
    if experiment.image.ibt:
        digest.update(b"ibt")
    # The next three parts of the hash are added only where they have unusual values, so that
    # schedules that were recorded before there were such options keep their fingerprints.
    if experiment.asleep:
        digest.update(repr(experiment.asleep).encode())
    if profile.batch is not None:
        digest.update(f"batch {profile.batch}".encode())
    for told in _told_when_unusual(experiment):
        digest.update(told.encode())
    digest.update(
        repr((words, experiment.resched, sorted(experiment.stubs.items()), experiment.tag)).encode()
    )
    return digest.hexdigest()


def _told_when_unusual(experiment: Experiment) -> list[str]:
    """Return words for the conditions that came later, where they differ from their defaults.

    There are also words for what makes the profile or the poke protocol a user's own.
    """
    before = conditions_of(Conditions())
    told = {
        name: "alignment" if name == "check_alignment" else f"{name} {value}"
        for name, value in conditions_of(experiment).items()
        if name not in (*_FROM_THE_FIRST, *_OF_THE_SEARCH, "poke") and value != before[name]
    }
    changes = changes_of(experiment.profile)
    if changes:
        told["profile"] = f"profile {changes}"
    if experiment.poke is not None:
        told["poke"] = f"poke {identity_of(experiment.poke)}"
    return list(told.values())


def options_mark(experiment: Experiment) -> str:
    """Return words for what decides what a search finds, beside the fingerprint.

    They are the same in every process.
    """
    told = {name: getattr(experiment, name) for name in _OF_THE_SEARCH}
    told["oracles"] = tuple(map(identity_of, experiment.oracles))
    return repr(told)
