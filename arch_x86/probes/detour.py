"""This module builds detour buffers, as optprobe_template_func (arch/x86/kernel/kprobes/opt.c).

It answers also to arch_prepare_optimized_kprobe(). The jump at the site leads to a detour buffer.
This saves all registers as a struct pt_regs, calls back, restores all registers, runs copies of the
replaced instructions, and jumps back behind them.

Three things differ from the kernel. The red zone is skipped where the code has one. All of pt_regs
is there before the callback is called. The callback is called with an aligned stack and DF clear,
as the AMD64 psABI has it (section 3.2).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from arch_x86.isa.constants import ADDRESS_MASK
from arch_x86.isa.encode import call32, jmp32
from arch_x86.probes.relocate import copy_instructions

if TYPE_CHECKING:
    from arch_x86.probes.optimize import OptimizePlan

__all__ = ("PLAIN", "RED_ZONE", "Detour", "DetourTemplate", "build_detour")


@dataclass(frozen=True, slots=True)
class DetourTemplate:
    """This record has the bytes in front of the copied instructions.

    :ivar enter: the bytes in front of the callback's first argument; they save all registers.
    :ivar leave: the bytes behind the call of the callback; they restore all registers.
    """

    enter: bytes
    leave: bytes

    @property
    def call_offset(self) -> int:
        """Return the offset in bytes at which the call of the callback starts."""
        return len(self.enter) + _ARGUMENT_SIZE

    @property
    def size(self) -> int:
        """Return how many bytes lie in front of the copied instructions."""
        return self.call_offset + _CALL_SIZE + len(self.leave)

    def build(self, at: int, op_id: int, callback: int) -> bytes:
        """Return the template's bytes for address ``at``, up to the copied instructions.

        :param op_id: the number of the probe, which is the callback's first argument.
        :param callback: the address of the callback.
        :raises RelativeRangeError: the callback is out of reach from ``at``.
        """
        argument = struct.pack("<2sQ", b"\x48\xbf", op_id & ADDRESS_MASK)  # movabs rdi, op_id
        return self.enter + argument + call32(at + self.call_offset, callback) + self.leave


_ARGUMENT_SIZE: Final = 10
_CALL_SIZE: Final = 5

# These bytes push struct pt_regs from its top down. The segment selectors are those of the
# machine's flat segments. The slot of ip holds 0 until the callback fills it in.
_SAVE_SEGMENT: Final = b"\x6a\x10"  # push 0x10             ss
_SAVE_STACK: Final = (
    b"\x54"  # push rsp                                     sp, which the ADD below puts right
    b"\x9c"  # pushfq                                       flags
    b"\xfc"  # cld
)
_SAVE_REST: Final = (
    b"\x6a\x08"  # push 0x8                                 cs
    b"\x6a\x00"  # push 0                                   ip
    b"\x6a\xff"  # push -1                                  orig_ax: not a system call
    b"\x57"  # push rdi
    b"\x56"  # push rsi
    b"\x52"  # push rdx
    b"\x51"  # push rcx
    b"\x50"  # push rax
    b"\x41\x50"  # push r8
    b"\x41\x51"  # push r9
    b"\x41\x52"  # push r10
    b"\x41\x53"  # push r11
    b"\x53"  # push rbx
    b"\x55"  # push rbp
    b"\x41\x54"  # push r12
    b"\x41\x55"  # push r13
    b"\x41\x56"  # push r14
    b"\x41\x57"  # push r15
    b"\x48\x89\xe6"  # mov rsi, rsp                         second argument: the pt_regs
    b"\x48\x89\xe5"  # mov rbp, rsp                         the callee keeps rbp
    b"\x48\x83\xe4\xf0"  # and rsp, -16
)
_RESTORE: Final = (
    b"\x48\x89\xec"  # mov rsp, rbp
    b"\x41\x5f"  # pop r15
    b"\x41\x5e"  # pop r14
    b"\x41\x5d"  # pop r13
    b"\x41\x5c"  # pop r12
    b"\x5d"  # pop rbp
    b"\x5b"  # pop rbx
    b"\x41\x5b"  # pop r11
    b"\x41\x5a"  # pop r10
    b"\x41\x59"  # pop r9
    b"\x41\x58"  # pop r8
    b"\x58"  # pop rax
    b"\x59"  # pop rcx
    b"\x5a"  # pop rdx
    b"\x5e"  # pop rsi
    b"\x5f"  # pop rdi
    b"\x48\x83\xc4\x18"  # add rsp, 24                      over orig_ax, ip, cs
    b"\x9d"  # popfq
)

PLAIN: Final = DetourTemplate(
    enter=_SAVE_SEGMENT
    + _SAVE_STACK
    + b"\x48\x83\x44\x24\x08\x08"  # add qword [rsp+8], 8       sp as it was
    + _SAVE_REST,
    leave=_RESTORE
    + b"\x48\x8d\x64\x24\x10",  # lea rsp, [rsp+16]           over sp and ss; LEA keeps the flags
)
RED_ZONE: Final = DetourTemplate(
    enter=b"\x48\x8d\x64\x24\x80"  # lea rsp, [rsp-128]    over the red zone; LEA keeps flags
    + _SAVE_SEGMENT
    + _SAVE_STACK
    + b"\x48\x81\x44\x24\x08\x88\x00\x00\x00"  # add qword [rsp+8], 136      sp as it was
    + _SAVE_REST,
    leave=_RESTORE
    + b"\x48\x8d\xa4\x24\x90\x00\x00\x00",  # lea rsp, [rsp+144]   over sp, ss and the red zone
)


@dataclass(frozen=True, slots=True)
class Detour:
    """This record is a detour buffer.

    :ivar addr: its address.
    :ivar code: all its bytes.
    :ivar copied_start: the offset in bytes of the copied instructions.
    :ivar copied_len: how many bytes they have.
    :ivar call_offset: the offset in bytes of the call of the callback.
    """

    addr: int
    code: bytes
    copied_start: int
    copied_len: int
    call_offset: int


def build_detour(
    plan: OptimizePlan, at: int, *, op_id: int, callback: int, red_zone: bool
) -> Detour:
    """Return the detour buffer for ``plan`` at address ``at``.

    It calls ``callback(op_id, pt_regs)``, whose changes to pt_regs take effect, except those of
    ``sp``, ``ip`` and the segments.

    :param red_zone: skip the 128 bytes under the stack pointer.
    :raises RelativeRangeError: the site, the callback or an operand of a replaced instruction is
        out of reach from ``at``.
    """
    template = RED_ZONE if red_zone else PLAIN
    copied_at = at + template.size
    copied = copy_instructions(plan.insns, copied_at)
    code = template.build(at, op_id, callback) + copied + jmp32(copied_at + len(copied), plan.end)
    return Detour(at, code, template.size, len(copied), template.call_offset)
