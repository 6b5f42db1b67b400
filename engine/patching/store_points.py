"""``--points stores``: control tasks stop in front of each store to what hits read without a lock.

These are the flags, handlers, slot and detour buffer of each probe, the list that an aggregator is
on, its children, the table, the numbers of the detour buffers, and the two global switches. A CPU
that hits a probe reads them without a lock, so it may see any store of an operation done and the
next one not: the order of the stores decides what it meets, and each of them is a publication.

With the option, the core, the probes and the aggregators of a control state are made of the classes
of :data:`STOPPING_KINDS`, whose only difference is that they stop first
(:func:`engine.control.stepped_plane.stop_here`). A probe does so from :func:`begin_to_stop` on:
before that it is being made, and no CPU can reach it. What stores a value that is there already
publishes nothing and is no point; nor is what a CPU stores in a hit, or ``stop_machine``'s
function, or the setting up of a scenario. Without the option none of this is used.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final, SupportsIndex, TypeVar

from engine.control.stepped_plane import stop_here
from engine.core.kprobes import Kprobes
from engine.kprobe import AggrKprobe, Kprobe
from engine.kretprobe import EntryProbe
from engine.patching.probe_kinds import ProbeKinds

__all__ = ("STOPPING_KINDS", "begin_to_stop")

P = TypeVar("P", bound=Kprobe)
_FIELDS: Final = frozenset(
    {
        "flags",
        "queue",
        "children",
        "ainsn",
        "optinsn",
        "pre_handler",
        "post_handler",
        "fault_handler",
        "break_handler",
    }
)
_SWITCHES: Final = frozenset({"kprobes_allow_optimization", "kprobes_all_disarmed"})
_BEGUN: Final = "stops"
"""The attribute of a probe that says that CPUs may reach it. A probe has none while it is made."""


def begin_to_stop(p: Kprobe) -> None:
    """From now on the control task that stores to a field of ``p``, or to its list of children,
    stops first. ``p`` is of one of :data:`STOPPING_KINDS`.
    """
    setattr(p, _BEGUN, True)


def _stops(p: Kprobe) -> bool:
    return getattr(p, _BEGUN, False)


def _called(p: Kprobe) -> str:
    """A probe as the timeline names it."""
    kind = "aggregator" if isinstance(p, AggrKprobe) else "probe"
    place = f"{p.addr or 0:#x}" if p.symbol_name is None else f"{p.symbol_name}+{p.offset:#x}"
    return f"the {kind} at {place}"


def _told(value: object) -> str:
    """What is stored, in a word."""
    if isinstance(value, Enum):
        return (value.name or "none").lower()
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else "set"


def _store(self: Kprobe, name: str, value: Any) -> None:
    """``__setattr__`` of probes."""
    if name in _FIELDS and _stops(self) and getattr(self, name) != value:
        stop_here(f"stores {name} ({_told(value)}) of {_called(self)}")
    if name == "children" and not isinstance(value, _Children):
        value = _Children(self, value)
    object.__setattr__(self, name, value)


def _stopping(kind: type[P]) -> type[P]:
    """The class of probes of that ``kind`` that stop. It prints as ``kind`` does."""
    made: Any = type(kind.__name__, (kind,), {"__slots__": (_BEGUN,), "__setattr__": _store})
    return made


class _StoppingCore(Kprobes):
    """The core, for its tables and its two switches."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.kprobe_table = _Table("the table", self.kprobe_table)
        self.optprobes.by_id = _Table("the table of detour buffers", self.optprobes.by_id)

    def __setattr__(self, name: str, value: Any) -> None:
        # The first store is that of the constructor: there is no value before it.
        if name in _SWITCHES and getattr(self, name, value) != value:
            stop_here(f"stores {name} ({_told(value)})")
        object.__setattr__(self, name, value)


class _Children(list[Kprobe]):
    """The children of the aggregator ``owner``."""

    __slots__ = ("_owner",)

    def __init__(self, owner: Kprobe, children: list[Kprobe] | None = None) -> None:
        super().__init__(children or ())
        self._owner = owner

    def _stop(self, what: str) -> None:
        if _stops(self._owner):
            stop_here(f"{what} the children of {_called(self._owner)}")

    def insert(self, index: SupportsIndex, p: Kprobe, /) -> None:
        """A child more, at ``index``."""
        self._stop(f"inserts {_called(p)} into")
        super().insert(index, p)

    def append(self, p: Kprobe, /) -> None:
        """A child more, as the last."""
        self._stop(f"appends {_called(p)} to")
        super().append(p)

    def remove(self, p: Kprobe, /) -> None:
        """A child less."""
        self._stop(f"removes {_called(p)} from")
        super().remove(p)

    def clear(self) -> None:
        """No child is left."""
        if self:
            self._stop("clears")
        super().clear()


class _Table(dict[int, P]):
    """The table of probes, or that of detour buffers; ``called``: its name in a timeline."""

    __slots__ = ("_table",)

    def __init__(self, called: str, content: dict[int, P]) -> None:
        super().__init__(content)
        self._table = called

    def __setitem__(self, key: int, p: P) -> None:
        if self.get(key) is not p:
            stop_here(f"puts {_called(p)} into {self._table}")
        super().__setitem__(key, p)

    def __delitem__(self, key: int) -> None:
        stop_here(f"takes {_called(self[key])} out of {self._table}")
        super().__delitem__(key)

    def pop(self, key: int, default: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take the entry of ``key`` out, if there is one; else ``default``."""
        if key in self:
            stop_here(f"takes {_called(self[key])} out of {self._table}")
        return super().pop(key, default)


STOPPING_KINDS: Final = ProbeKinds(
    _StoppingCore, _stopping(Kprobe), _stopping(EntryProbe), _stopping(AggrKprobe)
)
"""The classes of a control state whose tasks stop in front of their stores."""
