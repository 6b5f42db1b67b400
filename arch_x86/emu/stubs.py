"""Guest stubs: what the machine's traps, interrupts and calls run in guest code. Answers to arch/x86/entry/entry_64.S.

Fixed templates. A ``hlt`` in a stub is a hypercall: the run ends behind it and the host acts, knowing by the address what is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from arch_x86.isa.assemble import assemble

__all__ = ("GS_INTERRUPTS", "VECTORS", "Stubs", "build_stubs")

GS_INTERRUPTS: Final = 0xF00
"""Offset in the per-CPU area of the number of interrupts that this CPU's handler has taken."""

VECTORS: Final = {
    0: ("divide_error", False),
    1: ("debug", False),
    3: ("int3", False),
    6: ("invalid_op", False),
    13: ("general_protection", True),
    14: ("page_fault", True),
}
"""Exceptions that have a stub: name, and whether the CPU pushes an error code (SDM vol. 3, table 6-1)."""

_BREAKPOINT: Final = 3
_PUSH_ALL: Final = "; ".join(
    f"push {r}" for r in ("rdi", "rsi", "rdx", "rcx", "rax", "r8", "r9", "r10", "r11", "rbx", "rbp", "r12", "r13", "r14", "r15")
)
_POP_ALL: Final = "; ".join(
    f"pop {r}" for r in ("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi")
)
# The frame and the 16 words under it are pt_regs. The error code, or -1, stands where orig_ax belongs.
_EXCEPTION: Final = f"{_PUSH_ALL}; hlt; {_POP_ALL}; add rsp, 8; iretq"
# Six words copied down: a gap above the frame, where the handler of a breakpoint may emulate a push (since v5.2).
_GAP: Final = "; ".join(["push qword ptr [rsp + 40]"] * 6)
# A real handler saves what it uses, and leaves nothing under its stack pointer as it was: this one uses every register,
# sets the flags that nobody expects, scribbles over the 128 bytes under it, and counts.
_INTERRUPT: Final = f"""
{_PUSH_ALL}
cld
mov rax, 0x5a5a5a5aa5a5a5a5
lea rdi, [rsp - 128]
mov ecx, 16
rep stosq
mov rbx, rax; mov rdx, rax; mov rsi, rax; mov rbp, rax; mov r8, rax; mov r9, rax; mov r10, rax; mov r11, rax
mov r12, rax; mov r13, rax; mov r14, rax; mov r15, rax
mov ecx, {GS_INTERRUPTS}
inc qword ptr gs:[rcx]
add rax, rax
std
{_POP_ALL}
iretq
"""


@dataclass(frozen=True, slots=True)
class Stubs:
    """Addresses in the stub page. ``hypercalls`` maps the address behind each ``hlt`` to its name."""

    code: bytes
    call_return: int
    schedule: int
    interrupt: int
    optimized_callback: int
    exceptions: dict[int, int]
    hypercalls: dict[int, str]


def build_stubs(base: int, *, int3_gap: bool = False) -> Stubs:
    """The stub page for address ``base``: at most 4096 bytes, padded by the caller.

    :param int3_gap: leave room between the interrupted stack and the frame of a breakpoint, for emulated pushes.
    """
    code = bytearray()
    hypercalls: dict[int, str] = {}

    def add(name: str, text: str) -> int:
        code.extend(b"\xcc" * (-len(code) % 16))
        at = base + len(code)
        body = assemble(text, at)
        if "hlt" in text:
            # The one f4 byte of each template is its hlt: none of the other instructions here contains one.
            assert body.count(b"\xf4") == 1, name
            hypercalls[at + body.index(b"\xf4") + 1] = name
        code.extend(body)
        return at

    call_return = add("call_return", "hlt")
    schedule = add("schedule", "hlt; ret")
    callback = add("optimized_callback", "hlt; ret")
    exceptions: dict[int, int] = {}
    for vector, (_name, has_code) in VECTORS.items():
        gap = f"{_GAP}; " if int3_gap and vector == _BREAKPOINT else ""
        exceptions[vector] = add(f"exception:{vector}", _EXCEPTION if has_code else f"push -1; {gap}{_EXCEPTION}")
    interrupt = add("interrupt", _INTERRUPT)
    return Stubs(bytes(code), call_return, schedule, interrupt, callback, exceptions, hypercalls)
