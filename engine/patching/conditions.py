"""The conditions under which an experiment runs: the options that mean the same in what a user asks
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
    """The conditions, each with its default.

    A new option of this kind needs a field here, a row in
    :data:`engine.patching.request_options.OPTIONS`, and the code in which it takes effect, which
    finds it in the experiment.

    :ivar calls: how often each vCPU makes the call.
    :ivar cpus: how many vCPUs there are.
    :ivar preempt: each vCPU has a second task, which makes the call once, and an interrupt may give
        it the CPU.
    :ivar fetch: the fetch model.
    :ivar interrupts: external interrupts may come at every boundary that is a choice point.
    :ivar nmis: NMIs may, too.
    :ivar reduce: choice points are only where something of a vCPU meets somebody else's doing; else
        they are at every instruction.
    :ivar apart: with ``reduce``, of tasks that share nothing one at a time is in the middle of its
        call (:mod:`engine.patching.independence`).
    :ivar points: ``stores``: a control task also stops in front of each store to a field that hits
        read without a lock (:mod:`engine.patching.store_points`); ``locks``: it does not.
    :ivar restores: when all control tasks have ended the text has to be the original.
    :ivar max_instructions: most instructions of one call.
    :ivar stubs: what functions return that the image imports and nothing defines, by name.
    :ivar check_alignment: a memory operand that has to be aligned and is not is a fault, as on a
        processor.
    :ivar oracles: what is asked whether all is well beside
        :data:`engine.patching.oracles.listed.ORACLES`, and behind them: classes of
        :class:`engine.patching.oracles.oracle.Oracle`.
    :ivar poke: makes the protocol by which text is written, as the CPU's side has it; None: the
        profile's.
    """

    calls: int = defaults.CALLS
    cpus: int = defaults.CPUS
    preempt: bool = False
    fetch: str = defaults.FETCH
    interrupts: bool = True
    nmis: bool = False
    reduce: bool = True
    apart: bool = True
    points: str = defaults.POINTS
    restores: bool = True
    max_instructions: int = defaults.EXPERIMENT_MAX_INSTRUCTIONS
    stubs: Mapping[str, int] = field(default_factory=dict[str, int])
    check_alignment: bool = False
    # any: an oracle is made with a Situation, which has the experiment
    oracles: tuple[Callable[..., Any], ...] = ()
    poke: Callable[..., Any] | None = None


def conditions_of(conditions: Conditions) -> dict[str, Any]:
    """The fields of :class:`Conditions` by name, also of a record that has others beside them."""
    return {one.name: getattr(conditions, one.name) for one in fields(Conditions)}
