"""An answer to a trap that was found while the emulator ran, and is given once it has stopped."""

from __future__ import annotations

from dataclasses import dataclass

from arch_x86.probes.ptregs import PtRegs

__all__ = ("Answered",)


@dataclass(frozen=True, slots=True)
class Answered:
    """What the trap handler of the machine has done with a trap.

    :ivar regs: the registers, as it has left them.
    :ivar mine: whether it took the trap for its own.
    :ivar error: what it raised instead, or None.
    """

    regs: PtRegs
    mine: bool = False
    error: BaseException | None = None

    def result(self) -> bool:
        """Return whether the trap was the handler's own, or raise what the handler raised."""
        if self.error is not None:
            raise self.error
        return self.mine
