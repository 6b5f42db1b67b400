"""What of each control state the port must offer: a text that control tasks write step by step, and
an arch layer on it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any, Protocol

from engine.arch import Arch
from engine.core.insn_slots import SlotCache
from engine.image import Image
from engine.kprobe import Kprobe, Method

__all__ = ("ExploredArch", "ExploredText", "ProbeNames", "TextVersion", "Write")


class ProbeNames(Protocol):
    """Names of probes that hold in every control state that the same steps lead to."""

    def name_of(self, p: Kprobe | None) -> int:
        """A number for ``p``: 0 for None."""
        ...

    def named(self, name: int) -> Kprobe | None:
        """The probe with that number."""
        ...


class TextVersion(Protocol):
    """One content of the whole text; it never changes."""

    @property
    def name(self) -> int:
        """A number for the content: equal for equal contents, and the same in every process."""
        ...


class Write(Protocol):
    """One write of text that was made."""

    @property
    def addr(self) -> int:
        """The first address written to."""
        ...

    @property
    def data(self) -> bytes:
        """What was written there."""
        ...


class ExploredText(Protocol):
    """The text of one control state, which its control tasks read and write. A write stops at a
    point of the control plane in front of each byte that a vCPU might fetch.

    :ivar log: the writes since it was last cleared.
    """

    log: list[Any]

    @property
    def current(self) -> TextVersion:
        """The content now."""
        ...

    def read(self, addr: int, size: int) -> bytes:
        """``size`` bytes at ``addr``."""
        ...

    def covers(self, addr: int, size: int) -> bool:
        """All of these bytes are text."""
        ...

    def is_unloaded(self, addr: int, size: int = 1) -> bool:
        """Some of these bytes belong to code that was unloaded."""
        ...

    def unload(self, start: int, size: int) -> None:
        """The code there goes away."""
        ...

    def load(self, start: int, data: bytes) -> None:
        """Code that was unloaded comes back as ``data``."""
        ...


class PokeState(Protocol):
    """The poke protocol, as far as a control state's name goes."""

    @property
    def state(self) -> Hashable:
        """All that decides what a CPU meets that hits the protocol's own breakpoint, and what the
        next poke does.
        """
        ...


class ExploredArch(Arch, Protocol):
    """The arch layer of one control state.

    :ivar slots: the single-step slots; ``detours``: the detour buffers.
    """

    slots: SlotCache
    detours: SlotCache

    @property
    def tasks(self) -> list[int]:
        """Which task runs on each vCPU, to be set."""
        ...

    @property
    def poke(self) -> PokeState:
        """The poke protocol."""
        ...

    def originals(self, image: Image, addr: int, size: int) -> dict[int, bytes]:
        """The instructions of ``image`` in the ``size`` bytes from ``addr``, at least one, by
        address.
        """
        ...

    def method_of(self, p: Kprobe) -> Method:
        """How a hit on table entry ``p`` would run the probed instruction now."""
        ...

    def watch_ranges(self) -> Iterator[tuple[int, int]]:
        """Begin and end of what in slots and detour buffers has to be watched, since it matters
        there what others do.
        """
        ...

    def in_use(self, addr: int) -> bool:
        """``addr`` lies in a slot or detour buffer that is in use."""
        ...

    def call_ended(self, cpu: int) -> None:
        """The call on ``cpu`` is over: no hit is in progress there, and what return probes follow
        there never returns.
        """
        ...
