"""Of which classes the core and the probes of a control state are made."""

from __future__ import annotations

from typing import Final, NamedTuple

from engine.core.kprobes import Kprobes
from engine.kprobe import AggrKprobe, Kprobe
from engine.kretprobe import EntryProbe

__all__ = ("PLAIN_KINDS", "ProbeKinds")


class ProbeKinds(NamedTuple):
    """The classes.

    :ivar core: of the core.
    :ivar probe: of a scenario's probe.
    :ivar entry: of the probe at the entry of a function with a return probe.
    :ivar aggregator: of an aggregator.
    """

    core: type[Kprobes]
    probe: type[Kprobe]
    entry: type[EntryProbe]
    aggregator: type[AggrKprobe]


PLAIN_KINDS: Final = ProbeKinds(Kprobes, Kprobe, EntryProbe, AggrKprobe)
"""As outside of an exploration."""
