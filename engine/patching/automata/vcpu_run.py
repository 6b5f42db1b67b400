"""Which run of a vCPU, or which event that comes to it, a transition is."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from engine.search.actor import ActorKind

__all__ = ("VcpuRun", "run_of")

_KINDS: Final = {kind: number for number, kind in enumerate(ActorKind)}


class VcpuRun:
    """A run of a vCPU, or an event that comes to it.

    :ivar waits: how waits concern the vCPU
        (:meth:`engine.patching.automata.rules.Rules.concerned`).
    :ivar most: as in :meth:`engine.patching.vcpu_runs.VcpuRuns.run`; so are ``alone`` and
        ``whole``.
    :ivar kind: ``ActorKind.VCPU`` for a run, else the kind of the event.
    :ivar how: a number that differs where any of these fields does.
    """

    __slots__ = ("alone", "how", "kind", "most", "waits", "whole")

    def __init__(
        self, waits: int, most: int | None, kind: ActorKind, *, alone: bool, whole: bool
    ) -> None:
        self.waits = waits
        self.most = most
        self.kind = kind
        self.alone = alone
        self.whole = whole
        limit = 0 if most is None else most + 1
        self.how = ((limit * len(_KINDS) + _KINDS[kind]) * 4 + waits) * 4 + 2 * alone + whole


@lru_cache(maxsize=4096)
def run_of(
    waits: int,
    most: int | None = None,
    kind: ActorKind = ActorKind.VCPU,
    *,
    alone: bool = False,
    whole: bool = False,
) -> VcpuRun:
    """Return the run with these fields; it is the same object each time."""
    return VcpuRun(waits, most, kind, alone=alone, whole=whole)
