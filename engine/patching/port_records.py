"""The records that an exploration of code patching and the CPU side that it runs on exchange
(:mod:`engine.patching.port`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple, Protocol

__all__ = ("Fault", "PatchFacts", "Stop", "WayTaken")


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchFacts:
    """What the processor's code patching looks like.

    :ivar breakpoint: the breakpoint instruction that a probe writes over the first byte of an
        instruction.
    :ivar jump: the first byte of the jump that an optimized probe writes; ``jump_size``: how many
        bytes that jump has.
    :ivar patch_size_max: most bytes of what a probe puts at its site.
    :ivar insn_size_max: most bytes of an instruction.
    :ivar result: name of the register with a call's result.
    :ivar registers: names of the registers in :data:`engine.patching.unprobed.CallOutcome`.
    :ivar parts: names of what comes behind the registers there.
    """

    breakpoint: bytes
    jump: bytes
    jump_size: int
    patch_size_max: int
    insn_size_max: int
    result: str
    registers: tuple[str, ...]
    parts: tuple[str, ...]


class Stop(Enum):
    """Why a vCPU's run came back."""

    BUDGET = auto()
    """It has retired as many instructions as it was given."""
    WATCHED = auto()
    """The next instruction is a watched one (:meth:`engine.patching.port.TextPort.watch`)."""
    HIT = auto()
    """A breakpoint's stub, or a detour buffer, asks for the kprobes layer
    (:meth:`engine.patching.port.HitPort.begin`).
    """
    NMI = auto()
    """The stub of an NMI asks for its handler."""
    NESTED_RETURN = auto()
    """The function that an NMI's handler called has returned."""
    RETURN_PROBE = auto()
    """A function with a return probe has returned to the trampoline, which asks for the handlers.
    """
    STEPPED = auto()
    """The stub of the single-step trap asks for the kprobes layer."""
    SCHEDULE = auto()
    """The task has called ``schedule()``."""
    CALL_RETURN = auto()
    """The task's call has returned to where it was called."""
    EXCEPTION = auto()
    """The next instruction raises an exception, which is to be delivered."""
    OTHER = auto()
    """Anything else that the machine has to answer before the vCPU can go on."""


class Fault(Protocol):
    """How a call has died."""

    @property
    def kind(self) -> str:
        """A word for it."""
        ...

    @property
    def rip(self) -> int:
        """Address of the instruction."""
        ...

    @property
    def place(self) -> str:
        """That address as people name it."""
        ...

    @property
    def explain(self) -> str:
        """One line on what happened."""
        ...


class WayTaken(NamedTuple):
    """How a hit by breakpoint goes on behind its handlers.

    :ivar stepped: the copy of the instruction is single-stepped; else it is boosted: a jump back
        stands behind it.
    :ivar wrong: what is not as it should be where a single step begins, in a sentence; None:
        nothing.
    """

    stepped: bool
    wrong: str | None
