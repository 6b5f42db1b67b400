"""Points of control tasks in front of their stores, which ``--points stores`` asks for.

A control task then stops in front of each store to what hits read without a lock. These are the
flags, handlers, slot and detour buffer of each probe, the list that an aggregator is on, its
children, the table, the numbers of the detour buffers, and the two global switches. A CPU that hits
a probe may see one store of an operation and miss the next one, so the order of the stores decides
what it meets, and each store is a publication.

With the option, the core, the probes and the aggregators of a control state are made of the classes
of :data:`STOPPING_KINDS`. They differ from the plain ones in one way only: they stop before they
store (:func:`engine.control.stepped_plane.stop_here`). A probe stops from :func:`begin_to_stop` on,
since no CPU can reach it before that. There is no point where a store changes nothing, since it
publishes nothing, and none for the stores of a CPU in a hit, of the function of ``stop_machine``,
or of the setting up of a scenario. Without the option none of these classes is used.
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
"""A probe gets this attribute as soon as CPUs may reach it."""


def begin_to_stop(p: Kprobe) -> None:
    """Make stores to the fields and children of ``p`` points of control tasks from now on.

    :param p: a probe of one of the classes in :data:`STOPPING_KINDS`.
    """
    setattr(p, _BEGUN, True)


def _stops(p: Kprobe) -> bool:
    return getattr(p, _BEGUN, False)


def _called(p: Kprobe) -> str:
    """Return the name of a probe in the timeline."""
    kind = "aggregator" if isinstance(p, AggrKprobe) else "probe"
    place = f"{p.addr or 0:#x}" if p.symbol_name is None else f"{p.symbol_name}+{p.offset:#x}"
    return f"the {kind} at {place}"


def _told(value: object) -> str:
    """Return one word for the value that is stored."""
    if isinstance(value, Enum):
        return (value.name or "none").lower()
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else "set"


def _store(self: Kprobe, name: str, value: Any) -> None:
    """Stop if the store to the probe publishes a change, then store the value.

    This function is the ``__setattr__`` of probes.
    """
    if name in _FIELDS and _stops(self) and getattr(self, name) != value:
        stop_here(f"stores {name} ({_told(value)}) of {_called(self)}")
    if name == "children" and not isinstance(value, _Children):
        value = _Children(self, value)
    object.__setattr__(self, name, value)


def _stopping(kind: type[P]) -> type[P]:
    """Return a subclass of ``kind``, called like it, whose probes stop in front of stores."""
    made: Any = type(kind.__name__, (kind,), {"__slots__": (_BEGUN,), "__setattr__": _store})
    return made


class _StoppingCore(Kprobes):
    """This core stops in front of stores to its tables and its two switches."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.kprobe_table = _Table("the table", self.kprobe_table)
        self.optprobes.by_id = _Table("the table of detour buffers", self.optprobes.by_id)

    def __setattr__(self, name: str, value: Any) -> None:
        # The constructor makes the first store. The switch has no value before it, so that store
        # changes nothing that a CPU could have seen.
        if name in _SWITCHES and getattr(self, name, value) != value:
            stop_here(f"stores {name} ({_told(value)})")
        object.__setattr__(self, name, value)


class _Children(list[Kprobe]):
    """This list of the children of the aggregator ``owner`` stops before it changes."""

    __slots__ = ("_owner",)

    def __init__(self, owner: Kprobe, children: list[Kprobe] | None = None) -> None:
        super().__init__(children or ())
        self._owner = owner

    def _stop(self, what: str) -> None:
        if _stops(self._owner):
            stop_here(f"{what} the children of {_called(self._owner)}")

    def insert(self, index: SupportsIndex, p: Kprobe, /) -> None:
        """Stop, then insert the child ``p`` at ``index``."""
        self._stop(f"inserts {_called(p)} into")
        super().insert(index, p)

    def append(self, p: Kprobe, /) -> None:
        """Stop, then append the child ``p``."""
        self._stop(f"appends {_called(p)} to")
        super().append(p)

    def remove(self, p: Kprobe, /) -> None:
        """Stop, then remove the child ``p``."""
        self._stop(f"removes {_called(p)} from")
        super().remove(p)

    def clear(self) -> None:
        """Stop if there are children, then remove them all."""
        if self:
            self._stop("clears")
        super().clear()


class _Table(dict[int, P]):
    """This table of probes, or of detour buffers, stops before it changes.

    :param called: the table's name in a timeline.
    """

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

    def pop(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, key: int, default: Any = None
    ) -> Any:
        """Stop, then take out and return the entry of ``key``; return ``default`` without one."""
        if key in self:
            stop_here(f"takes {_called(self[key])} out of {self._table}")
        return super().pop(key, default)


STOPPING_KINDS: Final = ProbeKinds(
    _StoppingCore, _stopping(Kprobe), _stopping(EntryProbe), _stopping(AggrKprobe)
)
"""A control state whose tasks stop in front of their stores is made of these classes."""
