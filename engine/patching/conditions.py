"""The conditions under which an experiment runs.

They are the options that mean the same in what a user asks
(:class:`engine.patching.request.Request`) and in an experiment that is ready to run
(:class:`engine.patching.experiment.Experiment`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from engine import defaults

__all__ = ("Conditions", "conditions_of")


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """This record has the conditions of an experiment, each with its default.

    A new option of this kind needs a field here, a row in
    :data:`engine.patching.request_options.OPTIONS`, and the code in which it takes effect,
        which finds it in the experiment.

    :ivar calls: how often each vCPU makes the call.
    :ivar cpus: how many vCPUs there are.
    :ivar preempt: each vCPU has a second task, which makes the call once, and an interrupt may
        give it the CPU.
    :ivar fetch: the name of the fetch model (:mod:`engine.patching.fetch_model`).
    :ivar strict: a vCPU must not execute an instruction while there is a store to it that the vCPU
        has not seen, but for the store of one byte that is, or was, a breakpoint.
    :ivar interrupts: external interrupts may come at every boundary that is a choice point.
    :ivar nmis: NMIs may come there, too.
    :ivar reduce: there are choice points only where an action of a vCPU meets one of another
        actor; otherwise they are at every instruction.
    :ivar apart: with ``reduce``, only one of the tasks that share nothing is in the middle of
        its call at a time (:mod:`engine.patching.independence`).
    :ivar points: with ``stores``, a control task also stops in front of each store to a field
        that hits read without a lock (:mod:`engine.patching.store_points`); with ``locks`` it
        does not.
    :ivar restores: the text has to be the original when all control tasks have ended.
    :ivar max_instructions: the most instructions of one call.
    :ivar stubs: by name, what functions return that the image imports and no library defines.
    :ivar check_alignment: a memory operand that has to be aligned and is not is a fault, as on
        a processor.
    :ivar oracles: classes of :class:`engine.patching.oracles.oracle.Oracle` that are asked
        behind those of :data:`engine.patching.oracles.listed.ORACLES`.
    :ivar poke: makes the protocol by which text is written, in the form that the CPU side has
        for it; None stands for the profile's.
    """

    calls: int = defaults.CALLS
    cpus: int = defaults.CPUS
    preempt: bool = False
    fetch: str = defaults.FETCH
    strict: bool = False
    interrupts: bool = True
    nmis: bool = False
    reduce: bool = True
    apart: bool = True
    points: str = defaults.POINTS
    restores: bool = True
    max_instructions: int = defaults.EXPERIMENT_MAX_INSTRUCTIONS
    stubs: Mapping[str, int] = field(default_factory=dict[str, int])
    check_alignment: bool = False
    # The type can't say more, since an oracle is made with a Situation, and a Situation has the
    # experiment.
    oracles: tuple[Callable[..., Any], ...] = ()
    poke: Callable[..., Any] | None = None


def conditions_of(conditions: Conditions) -> dict[str, Any]:
    """Return the fields of :class:`Conditions` by name, without any others that the record has."""
    return {one.name: getattr(conditions, one.name) for one in fields(Conditions)}
