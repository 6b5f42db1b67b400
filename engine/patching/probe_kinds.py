"""The classes of which the core and the probes of a control state are made."""

from __future__ import annotations

from typing import Final, NamedTuple

from engine.core.kprobes import Kprobes
from engine.kprobe import AggrKprobe, Kprobe
from engine.kretprobe import EntryProbe

__all__ = ("PLAIN_KINDS", "ProbeKinds")


class ProbeKinds(NamedTuple):
    """This record has the classes of which a control state is made.

    :ivar core: the class of the core.
    :ivar probe: the class of a scenario's probe.
    :ivar entry: the class of the probe at the entry of a function with a return probe.
    :ivar aggregator: the class of an aggregator.
    """

    core: type[Kprobes]
    probe: type[Kprobe]
    entry: type[EntryProbe]
    aggregator: type[AggrKprobe]


PLAIN_KINDS: Final = ProbeKinds(Kprobes, Kprobe, EntryProbe, AggrKprobe)
"""These classes are also used outside of an exploration."""
