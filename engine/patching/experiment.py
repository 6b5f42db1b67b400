"""The record of everything that an exploration depends on, and its fingerprint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from engine.core.ablation import changes_of
from engine.core.profiles import Profile
from engine.image import Image
from engine.patching.control_code import ControlCode, ControlCodes
from engine.patching.judge import MakeOracle
from engine.patching.user_code import identity_of
from engine.syntax.arguments import Argument

__all__ = ("Experiment", "fingerprint")


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """What to explore.

    :ivar call: on every vCPU, ``arguments`` as on the command line; made ``calls`` times.
    :ivar code: the control tasks, by name, or what makes them: that is called for each control
        state, so that what tasks share outside of their functions is made anew with them. ``tag``
        says what they do, for the fingerprint.
    :ivar fetch: the fetch model.
    :ivar restores: when all control tasks have ended the text has to be the original.
    :ivar asleep: addresses in front of whose instruction a task falls asleep for ever.
    :ivar reduce: choice points are where something meets somebody else's doing; ``apart``: of tasks
        that share nothing one at a time is in the middle of its call. See
        :class:`engine.patching.plan.Plan`.
    :ivar resched: addresses in front of whose instruction a task calls ``schedule()``.
    :ivar check_alignment: a memory operand that has to be aligned and is not is a fault, as on a
        processor.
    :ivar oracles: what is asked whether all is well beside
        :data:`engine.patching.oracles.listed.ORACLES`, and behind them: classes of
        :class:`engine.patching.oracles.oracle.Oracle`.
    :ivar points: ``stores``: a control task also stops in front of each store to a field that hits
        read without a lock (:mod:`engine.patching.store_points`); ``locks``: it does not.
    :ivar poke: makes the protocol by which text is written, as the CPU's side has it; None: the
        profile's.
    """

    image: Image
    call: str
    arguments: tuple[Argument, ...] = ()
    calls: int = 3
    cpus: int = 1
    profile: Profile
    preempt: bool = False
    fetch: str = "coherent"
    interrupts: bool = True
    nmis: bool = False
    resched: tuple[int, ...] = ()
    asleep: tuple[int, ...] = ()
    reduce: bool = True
    apart: bool = True
    points: str = "locks"
    restores: bool = True
    limit: int = 1_000_000
    stubs: dict[str, int] = field(default_factory=dict[str, int])
    check_alignment: bool = False
    oracles: tuple[MakeOracle, ...] = ()
    poke: Callable[..., Any] | None = None
    code: Sequence[tuple[str, ControlCode]] | ControlCodes
    tag: str

    def control_tasks(self) -> Sequence[tuple[str, ControlCode]]:
        """The control tasks' work, by name, for one control state."""
        return self.code() if callable(self.code) else self.code


def fingerprint(experiment: Experiment) -> str:
    """8 hexadecimal digits of all that decides what a schedule does."""
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
    if experiment.asleep:  # not always: schedules of before are still good
        digest.update(repr(experiment.asleep).encode())
    if profile.batch is not None:  # likewise
        digest.update(f"batch {profile.batch}".encode())
    if experiment.points != "locks":  # likewise
        digest.update(f"points {experiment.points}".encode())
    if experiment.check_alignment:  # likewise
        digest.update(b"alignment")
    changes = changes_of(profile)
    if changes:  # likewise
        digest.update(f"profile {changes}".encode())
    if experiment.poke is not None:  # likewise
        digest.update(f"poke {identity_of(experiment.poke)}".encode())
    digest.update(
        repr((words, experiment.resched, sorted(experiment.stubs.items()), experiment.tag)).encode()
    )
    return digest.hexdigest()
