"""Guest faults: how a call ends when the emulated program dies.

A fault is a result with an explanation. It becomes an exception only for a caller that asks for
nothing but the call's value.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from engine.brief import described, shortened
from engine.errors import OptprobeError

__all__ = ("Caller", "FaultKind", "GuestFault", "GuestFaultError")


class FaultKind(StrEnum):
    """The closed list of what can end a call."""

    WRITE_TO_CODE = "write-to-code"
    WRITE_TO_CONSTANT = "write-to-constant"
    UNMAPPED_ACCESS = "unmapped-access"
    UNMAPPED_FETCH = "unmapped-fetch"
    NO_EXECUTE = "no-execute"
    GENERAL_PROTECTION = "general-protection"
    DIVIDE_ERROR = "divide-error"
    FLOATING_POINT = "floating-point-error"
    INVALID_OPCODE = "invalid-opcode"
    UNSUPPORTED_OPCODE = "unsupported-opcode"
    BREAKPOINT = "breakpoint"
    DEBUG = "debug"
    SOFTWARE_INTERRUPT = "software-interrupt"
    SYSTEM_CALL = "system-call"
    HALT = "halt"
    DOUBLE_FAULT = "double-fault"
    UNRESOLVED_FUNCTION = "unresolved-function"
    ABORT = "abort"
    KPROBE_REENTRY = "kprobe-reentry"
    HANDLER_CRASH = "handler-crash"
    INSTRUCTION_LIMIT = "instruction-limit"
    HANDLER_ERROR = "handler-error"
    EMULATOR = "emulator"


@dataclass(frozen=True, slots=True)
class Caller:
    """The place to which a call would have returned: ``symbol`` plus ``offset``, at ``rip``."""

    rip: int
    symbol: str
    offset: int

    def to_json(self) -> dict[str, object]:
        """Return the ``caller`` of a ``fault`` object."""
        return {"rip": self.rip, "symbol": self.symbol, "offset": self.offset}


@dataclass(frozen=True, slots=True)
class GuestFault:
    """The place and the cause of a call's death.

    :ivar symbol: the function that RIP lies in, or "" where it lies in none.
    :ivar explain: one line with the disassembly.
    :ivar caller: where execution left all code, what the return address on the stack says, if there
        is one.
    :ivar system_call: the number of the system call that was asked for.
    """

    cpu: int
    rip: int
    symbol: str
    offset: int
    kind: FaultKind
    explain: str
    caller: Caller | None = None
    system_call: int | None = None

    def __repr__(self) -> str:
        return described(
            self, f"cpu {self.cpu}", f"{self.kind} at {shortened(self.place)}", self.explain
        )

    def to_json(self) -> dict[str, object]:
        """Return the ``fault`` object of ``optprobe run --json``.

        It has the caller and the system call only where there is something to say.
        """
        document: dict[str, object] = {
            "cpu": self.cpu,
            "rip": self.rip,
            "symbol": self.symbol,
            "offset": self.offset,
            "kind": str(self.kind),
            "explain": self.explain,
        }
        if self.caller is not None:
            document["caller"] = self.caller.to_json()
        if self.system_call is not None:
            document["system_call"] = self.system_call
        return document

    @property
    def place(self) -> str:
        """The place of the fault, as ``symbol+0xoffset``, or as the bare address."""
        return f"{self.symbol}+{self.offset:#x}" if self.symbol else f"{self.rip:#x}"


class GuestFaultError(OptprobeError):
    """A call whose value was asked for has none: :attr:`fault` says why."""

    def __init__(self, fault: GuestFault) -> None:
        super().__init__(f"{fault.place}: {fault.kind}: {fault.explain}")
        self.fault = fault

    def __reduce__(self) -> tuple[type[GuestFaultError], tuple[GuestFault]]:
        """Pickle the error by its fault, not by its message."""
        return type(self), (self.fault,)
