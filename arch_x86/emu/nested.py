"""Guest functions that a handler calls while its trap is being handled.

They run on the interrupted task's stack.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

from arch_x86.emu.cpu import Cpu
from arch_x86.emu.fault import GuestFault
from arch_x86.emu.machine import Machine
from arch_x86.emu.uc import RFLAGS, RSP
from arch_x86.isa.constants import ADDRESS_MASK, FLAG_DF, FLAG_IF, FLAG_TF, RED_ZONE_SIZE

__all__ = ("INTEGER_ARGUMENTS", "NestedCall")

INTEGER_ARGUMENTS: Final = (7, 6, 2, 1, 8, 9)
"""The registers of the integer arguments (System V ABI 3.2.3) as indices into ``UcInstance.gpr``.
They are rdi, rsi, rdx, rcx, r8 and r9.
"""


class NestedCall:
    """One call of a guest function by a handler on ``vcpu``.

    The registers and the hit that it interrupts are kept, and :meth:`leave` restores them.

    :ivar over: the function has returned or died.
    :ivar fault: the fault that the function died of.
    """

    __slots__ = ("_context", "_hit", "_machine", "_nmi", "_rip", "fault", "over", "vcpu")

    def __init__(self, machine: Machine, vcpu: Cpu) -> None:
        self.vcpu = vcpu
        self.over = False
        self.fault: GuestFault | None = None
        self._machine = machine
        self._rip, self._nmi = vcpu.rip, vcpu.nmi
        self._context = vcpu.uc.new_context()
        vcpu.uc.save(self._context)
        handler = machine.trap_handler
        self._hit: Any = None if handler is None else handler.hit_in_progress(vcpu.index)

    def enter(self, addr: int, integers: Sequence[int]) -> bool:
        """Set the vCPU up as if the function had just been called, below what the stack holds.

        :returns: False, with nothing done, where the stack ends there.
        """
        machine, uc = self._machine, self.vcpu.uc
        uc.load()
        flags = uc.gpr[RFLAGS] & ~(FLAG_DF | FLAG_TF)
        if machine.trap_handler is not None and not machine.trap_handler.handler_takes_interrupts(
            self.vcpu.index
        ):
            flags &= ~FLAG_IF
        below = uc.gpr[RSP] - (RED_ZONE_SIZE if self.vcpu.red_zone else 0)
        top = (below & ~15) - 8 & ADDRESS_MASK
        if not machine.ram.write(top, struct.pack("<Q", machine.stubs.nested_return)):
            return False
        for index in range(16):
            uc.gpr[index] = 0
        for register, value in zip(INTEGER_ARGUMENTS, integers, strict=False):
            uc.gpr[register] = value & ADDRESS_MASK
        uc.gpr[RSP] = top
        uc.gpr[RFLAGS] = flags
        uc.store()
        self.vcpu.rip = addr
        return True

    def end(self, fault: GuestFault | None = None) -> None:
        """Take note that the function has returned, or died of ``fault``."""
        self.over = True
        self.fault = fault

    def leave(self, *, died: bool) -> None:
        """Go back to what the call interrupted; time and counters stay as they are now."""
        vcpu, handler = self.vcpu, self._machine.trap_handler
        vcpu.uc.restore(self._context)
        vcpu.rip, vcpu.nmi = self._rip, self._nmi
        if died and handler is not None:
            handler.resume_hit(vcpu.index, self._hit)
