"""The records that an exploration and its CPU side exchange (:mod:`engine.patching.port`)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple, Protocol

__all__ = ("Fault", "PatchFacts", "Stop", "WayTaken")


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchFacts:
    """This record has the sizes, bytes and names of code patching on the processor.

    :ivar traps: the instructions of one byte that a patch protocol may put over an instruction.
    :ivar trap_faults: for each of ``traps``, the kind of the fault of a call that executes it and
        has no handler.
    :ivar breakpoint: the breakpoint instruction that a probe writes over the first byte of an
        instruction.
    :ivar breakpoint_fault: that one of ``trap_faults`` which ``breakpoint`` brings.
    :ivar jump: the first byte of the jump that an optimized probe writes.
    :ivar jump_size: how many bytes that jump has.
    :ivar patch_size_max: the most bytes that a probe puts at its site.
    :ivar insn_size_max: the most bytes that an instruction has.
    :ivar result: the name of the register with a call's result.
    :ivar registers: the names of the registers in :data:`engine.patching.unprobed.CallOutcome`.
    :ivar parts: the names of what comes behind the registers there.
    """

    traps: tuple[bytes, ...]
    trap_faults: tuple[str, ...]
    breakpoint: bytes
    breakpoint_fault: str
    jump: bytes
    jump_size: int
    patch_size_max: int
    insn_size_max: int
    result: str
    registers: tuple[str, ...]
    parts: tuple[str, ...]


class Stop(Enum):
    """These are the reasons for which the run of a vCPU comes back."""

    BUDGET = auto()
    """The vCPU has retired as many instructions as the run was given."""
    WATCHED = auto()
    """The next instruction is a watched one (:meth:`engine.patching.port.TextPort.watch`)."""
    HIT = auto()
    """A breakpoint's stub, or a detour buffer, asks for the kprobes layer
    (:meth:`engine.patching.port.HitPort.begin`).
    """
    NMI = auto()
    """The stub of an NMI asks for the handler of the NMI."""
    NESTED_RETURN = auto()
    """The function that an NMI's handler called has returned."""
    RETURN_PROBE = auto()
    """A function with a return probe has returned to the trampoline, which asks for handlers."""
    STEPPED = auto()
    """The stub of the single-step trap asks for the kprobes layer."""
    SCHEDULE = auto()
    """The task has called ``schedule()``."""
    CALL_RETURN = auto()
    """The task's call has returned to where it was called."""
    EXCEPTION = auto()
    """The next instruction raises an exception, which has yet to be delivered."""
    OTHER = auto()
    """Something else happened that the machine has to answer before the vCPU can go on."""


class Fault(Protocol):
    """This record says how a call has died."""

    @property
    def kind(self) -> str:
        """Return one word for the kind of fault."""
        ...

    @property
    def rip(self) -> int:
        """Return the address of the instruction that faulted."""
        ...

    @property
    def place(self) -> str:
        """Return the name of that address for people."""
        ...

    @property
    def explain(self) -> str:
        """Return one line on what happened."""
        ...


class WayTaken(NamedTuple):
    """This record says how a hit by breakpoint goes on behind its handlers.

    :ivar stepped: the copy of the instruction is single-stepped; otherwise it is boosted, which
        means that a jump back stands behind it.
    :ivar wrong: a sentence on what is not as it should be where a single step begins, or None.
    """

    stepped: bool
    wrong: str | None
