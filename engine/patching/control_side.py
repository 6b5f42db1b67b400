"""What the port must offer for each control state: its text, and an arch layer on that text.

Control tasks write the text step by step.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Protocol

from engine.arch import Arch
from engine.core.insn_slots import SlotCache
from engine.foreign_breakpoint import ForeignBreakpoint
from engine.image import Image
from engine.kprobe import Kprobe, Method

__all__ = ("DieChain", "ExploredArch", "ExploredText", "ProbeNames", "TextVersion", "Write")


class ProbeNames(Protocol):
    """Probe names are the same in every control state to which the same steps lead."""

    def name_of(self, p: Kprobe | None) -> int:
        """Return the number that stands for ``p``; 0 stands for None."""
        ...

    def named(self, name: int) -> Kprobe | None:
        """Return the probe that the number ``name`` stands for, or None for 0."""
        ...


class TextVersion(Protocol):
    """A text version has the content of the whole text at one moment, and never changes."""

    @property
    def name(self) -> int:
        """Return a number for the content.

        It is equal for equal contents, and the same in every process.
        """
        ...


class Write(Protocol):
    """This record describes a write of text that a control task has made."""

    @property
    def addr(self) -> int:
        """Return the first address that was written to."""
        ...

    @property
    def data(self) -> bytes:
        """Return the bytes that were written."""
        ...


class ExploredText(Protocol):
    """This is the text of one control state, which its control tasks read and write.

    A write stops at a point of the control plane in front of each byte that a vCPU might fetch.

    :ivar log: the writes since the log was last cleared.
    """

    log: list[Any]

    @property
    def current(self) -> TextVersion:
        """Return the text version that holds the present content."""
        ...

    def read(self, addr: int, size: int) -> bytes:
        """Return the ``size`` bytes from ``addr`` on."""
        ...

    def covers(self, addr: int, size: int) -> bool:
        """Return whether all ``size`` bytes from ``addr`` on are text."""
        ...

    def is_unloaded(self, addr: int, size: int = 1) -> bool:
        """Return whether some of the ``size`` bytes from ``addr`` on are unloaded code."""
        ...

    def unload(self, start: int, size: int) -> None:
        """Take the code in the ``size`` bytes from ``start`` on out of the text."""
        ...

    def load(self, start: int, data: bytes) -> None:
        """Put code that was unloaded back to ``start``, with the bytes ``data``."""
        ...


class PokeState(Protocol):
    """The name of a control state has to cover this state of its poke protocol."""

    @property
    def state(self) -> Hashable:
        """Return what decides how the poke protocol goes on.

        That is what a CPU meets that hits the protocol's own breakpoint, and what the next
        poke does.
        """
        ...


class DieChain(Protocol):
    """These are the users of breakpoints in a control state that are not kprobes."""

    def require_emulated(self, addr: int) -> None:
        """Refuse an instruction that a user does not emulate.

        :raises InputError: it is such an instruction.
        """
        ...

    def register(self, one: ForeignBreakpoint) -> None:
        """Let hits of ``one`` find its handler from now on."""
        ...

    def unregister(self, one: ForeignBreakpoint) -> None:
        """Let no hit find the handler of ``one`` any more."""
        ...

    def set(self, one: ForeignBreakpoint) -> None:
        """Write the breakpoint ``one``; the caller holds text_mutex."""
        ...

    def remove(self, one: ForeignBreakpoint) -> None:
        """Write back what the breakpoint ``one`` has replaced; the caller holds text_mutex."""
        ...


class ExploredArch(Arch, Protocol):
    """This is what a control state needs of its arch layer.

    :ivar slots: the single-step slots.
    :ivar detours: the detour buffers.
    """

    slots: SlotCache
    detours: SlotCache

    @property
    def tasks(self) -> list[int]:
        """Return the list of the task that runs on each vCPU, whose items the explorer sets."""
        ...

    @property
    def die_chain(self) -> DieChain:
        """Return the users of breakpoints that are not kprobes."""
        ...

    @property
    def poke(self) -> PokeState:
        """Return the state of the poke protocol."""
        ...

    def handler_sends_to(self, addr: int) -> int | None:
        """Return where CPUs go on now that hit the poke protocol's breakpoint at ``addr``.

        Of a call, that is where the function returns to; of a conditional jump, the address behind
        it.

        :returns: None where the protocol handles no breakpoint there, or where the handler crashes.
        """
        ...

    def originals(self, image: Image, addr: int, size: int) -> dict[int, bytes]:
        """Return the instructions of ``image`` in ``size`` bytes from ``addr``, by their addresses.

        There is at least one instruction, even if it is longer than ``size`` bytes.
        """
        ...

    def method_of(self, p: Kprobe) -> Method:
        """Return how a hit on the table entry ``p`` would run the probed instruction now."""
        ...

    def watch_ranges(self) -> Iterator[tuple[int, int]]:
        """Yield the spans (begin, end) in slots and detour buffers that have to be watched.

        At their instructions it makes a difference what others do.
        """
        ...

    def in_use(self, addr: int) -> bool:
        """Return whether ``addr`` lies in a slot or detour buffer that is in use."""
        ...

    def arch_jump_label_transform(self, branches: Sequence[tuple[int, bytes]]) -> None:
        """Write the code of static branches: the address, and the code of each."""
        ...

    def arch_static_call_transform(self, site: int, code: bytes) -> None:
        """Write the code of the static call at ``site``."""
        ...

    def call_ended(self, cpu: int) -> None:
        """Forget the hits and followed returns of the call on ``cpu``, which has ended.

        No hit is in progress there any more, and no function that a return probe follows
        there returns.
        """
        ...
