"""The contracts of the layers above the machine: of trap handlers, and of snapshots.

The kprobes layer answers traps. Whatever keeps state that a snapshot has to take along is a
participant.
"""

from __future__ import annotations

from typing import Any, Protocol

from arch_x86.probes.ptregs import PtRegs

__all__ = ("Participant", "TrapHandler")


class TrapHandler(Protocol):
    """The kprobes arch layer, which gets the first look at each trap.

    A method that answers a trap returns True when the trap was its own.
    """

    def int3(self, cpu: int, regs: PtRegs) -> bool:
        """Answer #BP; ``regs.ip`` is behind the int3.

        :raises KernelStopError: the kernel stops for good here.
        """
        ...

    def holds(self, addr: int) -> bool:
        """Return whether a patch protocol keeps CPUs out of the instruction at ``addr``."""
        ...

    def debug(self, cpu: int, regs: PtRegs) -> bool:
        """Answer #DB, which follows a single step."""
        ...

    def fault(self, cpu: int, regs: PtRegs, vector: int) -> bool:
        """Answer #DE, #UD, #GP or #PF at ``regs.ip``."""
        ...

    def original_ip(self, ip: int) -> int:
        """Return the address of the probed instruction whose slot or detour buffer holds ``ip``.

        :returns: ``ip`` itself where none does.
        """
        ...

    def handler_takes_interrupts(self, cpu: int) -> bool:
        """Return whether the handler that runs on ``cpu`` has IF as the interrupted code has it.

        Behind a breakpoint IF is clear in a handler.
        """
        ...

    def hit_in_progress(self, cpu: int) -> Any:
        """Return the hit in progress on ``cpu``, for :meth:`resume_hit`.

        It is needed when a guest function dies that a handler on ``cpu`` calls.
        """
        ...

    def resume_hit(self, cpu: int, hit: Any) -> None:
        """Go back to ``hit`` and forget the hits since."""
        ...

    def return_trampoline(self, cpu: int, regs: PtRegs) -> bool:
        """Answer the return of a function with a return probe.

        :param regs: the registers as the function's caller will have them. The method puts the
            return address under ``regs.sp``.
        :returns: False: no such call is open.
        """
        ...

    def pending_return(self, cpu: int) -> int | None:
        """Return the address to which the innermost open call with a return probe will return.

        :returns: None when no such call is open on ``cpu``.
        """
        ...

    def call_died(self, cpu: int) -> None:
        """Take note that the call on ``cpu`` has died, so no hit is in progress there any more."""
        ...

    def optimized_callback(self, cpu: int, op_id: int, regs: PtRegs) -> None:
        """Answer a detour buffer, which asks for the handlers of an optimized probe.

        :param op_id: the number that the detour buffer was built with.
        :param regs: the interrupted registers; ``regs.sp`` is the interrupted stack pointer.
        """
        ...

    def ftrace_caller(self, cpu: int, regs: PtRegs) -> None:
        """Answer ftrace's trampoline, which a probed function has called.

        :param regs: the interrupted registers; ``regs.ip`` is where the trampoline will return to.
        """
        ...


class Participant(Protocol):
    """An object outside of the machine whose state a snapshot has to take along."""

    def save_state(self) -> Any:
        """Return a value from which :meth:`restore_state` can go back."""
        ...

    def restore_state(self, state: Any) -> None:
        """Go back to the state that :meth:`save_state` returned."""
        ...
