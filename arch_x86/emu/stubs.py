"""Guest stubs: what the machine's traps, interrupts and calls run in guest code. Answers to
arch/x86/entry/entry_64.S.

Fixed templates. A ``hlt`` in a stub is a hypercall: the run ends behind it and the host acts,
knowing by the address what is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from arch_x86.isa.assemble import assemble
from arch_x86.isa.constants import INT3
from arch_x86.isa.decode import decode

__all__ = (
    "GS_END",
    "GS_INTERRUPTS",
    "GS_JPROBE_SP",
    "GS_NMIS",
    "VECTORS",
    "Stubs",
    "build_stubs",
    "return_skip",
)

GS_INTERRUPTS: Final = 0xF00
"""Offset in the per-CPU area of the number of interrupts that this CPU's handler has taken."""
GS_NMIS: Final = 0xF08
"""The same of NMIs."""
GS_JPROBE_SP: Final = 0xF10
"""Offset of RSP as it was when this CPU's jumper probe was hit."""
GS_END: Final = 0xF18
"""Offset of the end of what the stubs keep in the per-CPU area; it begins at :data:`GS_INTERRUPTS`.
"""

VECTORS: Final = {
    0: ("divide_error", False),
    1: ("debug", False),
    3: ("int3", False),
    6: ("invalid_op", False),
    13: ("general_protection", True),
    14: ("page_fault", True),
}
"""Exceptions that have a stub: name, and whether the CPU pushes an error code (SDM vol. 3, table
6-1).
"""

_BREAKPOINT: Final = 3
_REGISTER: Final = 3
_PUSHES: Final = frozenset((*range(0x50, 0x58), 0x6A))
_POPS: Final = range(0x58, 0x60)
_ADD_IMM8, _HLT, _GROUP_5, _GROUP_5_PUSH, _PUSHF, _POPF, _LEA = (
    0x83,
    0xF4,
    0xFF,
    6,
    0x9C,
    0x9D,
    0x8D,
)
_PUSH_ALL: Final = "; ".join(
    f"push {r}"
    for r in (
        "rdi",
        "rsi",
        "rdx",
        "rcx",
        "rax",
        "r8",
        "r9",
        "r10",
        "r11",
        "rbx",
        "rbp",
        "r12",
        "r13",
        "r14",
        "r15",
    )
)
_POP_ALL: Final = "; ".join(
    f"pop {r}"
    for r in (
        "r15",
        "r14",
        "r13",
        "r12",
        "rbp",
        "rbx",
        "r11",
        "r10",
        "r9",
        "r8",
        "rax",
        "rcx",
        "rdx",
        "rsi",
        "rdi",
    )
)
# The frame and the 16 words under it are pt_regs. The error code, or -1, stands where orig_ax
# belongs.
_EXCEPTION: Final = f"{_PUSH_ALL}; hlt; {_POP_ALL}; add rsp, 8; iretq"
# Six words copied down: a gap above the frame, where the handler of a breakpoint may emulate a push
# (since v5.2).
_GAP: Final = "; ".join(["push qword ptr [rsp + 40]"] * 6)
_GAP_SIZE: Final = 48
# A real handler saves what it uses, and leaves nothing under its stack pointer as it was: this one
# uses every register, sets the flags that nobody expects, scribbles over the 128 bytes under it,
# and counts. So does that of the NMI, which asks the host, too.
_HOSTILE: Final = """
cld
mov rax, 0x5a5a5a5aa5a5a5a5
lea rdi, [rsp - 128]
mov ecx, 16
rep stosq
mov rbx, rax; mov rdx, rax; mov rsi, rax; mov rbp, rax; mov r8, rax; mov r9, rax; mov r10, rax
mov r11, rax
mov r12, rax; mov r13, rax; mov r14, rax; mov r15, rax
mov ecx, {counter}
inc qword ptr gs:[rcx]
add rax, rax
std
"""
_INTERRUPT: Final = f"{_PUSH_ALL}{_HOSTILE.format(counter=GS_INTERRUPTS)}{_POP_ALL}; iretq"
_NMI: Final = (
    f"push -1; {_PUSH_ALL}{_HOSTILE.format(counter=GS_NMIS)}hlt; {_POP_ALL}; add rsp, 8; iretq"
)
# The entry function of a jumper probe ends here, however deep: the frame of the breakpoint must not
# lie in what will be put back.
_JPROBE_RETURN: Final = f"mov ecx, {GS_JPROBE_SP}; mov rsp, qword ptr gs:[rcx]; int3; nop"
# A function with a return probe returns here. The word that its RET popped is the slot for the real
# return address: the host puts it there, and a RET of ours pops it again. {skip}: down to below
# that word, and below the red zone where there is one.
_TRAMPOLINE: Final = f"""
lea rsp, [rsp - {{skip}}]
push 0x10; push rsp; pushfq; cld; push 8; push 0; push -1
{_PUSH_ALL}
hlt
{_POP_ALL}
add rsp, 24
popfq
lea rsp, [rsp + {{skip}} + 8]
ret
"""

# What ftrace has a probed function's entry call; see ftrace_regs_caller() in
# arch/x86/kernel/ftrace_64.S. Behind the pt_regs lie the flags and the return address: the host's
# answer is put there, and POPFQ and RET take it. orig_ax is 0: nobody asks for a direct call.
_FTRACE_CALLER: Final = f"""
pushfq
push 0x10; push rsp; add qword ptr [rsp], 24; push qword ptr [rsp + 16]; cld; push 8
push qword ptr [rsp + 40]; push 0
{_PUSH_ALL}
hlt
mov rax, qword ptr [rsp + 128]; mov qword ptr [rsp + 176], rax
mov rax, qword ptr [rsp + 144]; mov qword ptr [rsp + 168], rax
{_POP_ALL}
add rsp, 48
popfq
ret
"""


def return_skip(*, red_zone: bool) -> int:
    """How far below the caller's RSP the trampoline's ``pt_regs`` ends."""
    return 128 if red_zone else 8


@dataclass(frozen=True, slots=True)
class Stubs:
    """Addresses in the stub page. ``hypercalls`` maps the address behind each ``hlt`` to its name.

    ``frames`` says where a stub that stands at an address was entered from: how far above RSP the
    interrupted RIP (or the return address) lies, and how many bytes that RIP is behind the
    instruction in question. Between ``trampoline`` and ``trampoline_asks`` the stack does not say
    it: who keeps the return addresses does.
    """

    code: bytes
    call_return: int
    nested_return: int
    jprobe_return: int
    jprobe_return_end: int
    schedule: int
    interrupt: int
    nmi: int
    optimized_callback: int
    trampoline: int
    trampoline_asks: int
    ftrace_caller: int
    ftrace_caller_end: int
    exceptions: dict[int, int]
    hypercalls: dict[int, str]
    frames: dict[int, tuple[int, int]]


def build_stubs(base: int, *, int3_gap: bool = False, red_zone: bool = False) -> Stubs:
    """The stub page for address ``base``: at most 4096 bytes, padded by the caller.

    :param int3_gap: leave room between the interrupted stack and the frame of a breakpoint, for
        emulated pushes.
    :param red_zone: leave the 128 bytes under RSP alone in the return probes' trampoline.
    """
    code = bytearray()
    hypercalls: dict[int, str] = {}
    frames: dict[int, tuple[int, int]] = {}

    def add(
        name: str, text: str, *, depth: int = 0, behind: tuple[int, int] = (0, 0), gap: int = 0
    ) -> int:
        code.extend(INT3 * (-len(code) % 16))
        at = base + len(code)
        body = assemble(text, at)
        if "hlt" in text:
            # The one f4 byte of each template is its hlt: none of the other instructions here
            # contains one.
            assert body.count(b"\xf4") == 1, name
            hypercalls[at + body.index(b"\xf4") + 1] = name
        frames.update(_frames(body, at, depth, behind, gap))
        code.extend(body)
        return at

    call_return = add("call_return", "hlt")
    nested_return = add("nested_return", "hlt")
    jprobe_return = add("jprobe_return", _JPROBE_RETURN)
    jprobe_return_end = base + len(code)
    frames.clear()  # nobody has entered these: the call is over
    schedule = add("schedule", "hlt; ret", behind=(1, 1))
    callback = add("optimized_callback", "hlt; ret", behind=(1, 1))
    skip = return_skip(red_zone=red_zone)
    trampoline = add("trampoline", _TRAMPOLINE.format(skip=skip), depth=skip - 8)
    asks = next(at for at, name in hypercalls.items() if name == "trampoline")
    for at in [at for at in frames if trampoline <= at < asks]:
        # the stack says nothing of where it is returned to before the host has answered
        del frames[at]
    ftrace_caller = add("ftrace_caller", _FTRACE_CALLER, behind=(1, 1))
    ftrace_caller_end = base + len(code)
    exceptions: dict[int, int] = {}
    for vector, (_name, has_code) in VECTORS.items():
        name = f"exception:{vector}"
        if vector != _BREAKPOINT:
            exceptions[vector] = add(
                name, _EXCEPTION if has_code else f"push -1; {_EXCEPTION}", depth=8 * has_code
            )
        elif int3_gap:
            exceptions[vector] = add(
                name, f"push -1; {_GAP}; {_EXCEPTION}", behind=(1, 0), gap=_GAP_SIZE
            )
        else:
            exceptions[vector] = add(name, f"push -1; {_EXCEPTION}", behind=(1, 0))
    interrupt = add("interrupt", _INTERRUPT)
    nmi = add("nmi", _NMI)  # the last one: what stands behind its start is its own
    return Stubs(
        code=bytes(code),
        call_return=call_return,
        nested_return=nested_return,
        jprobe_return=jprobe_return,
        jprobe_return_end=jprobe_return_end,
        schedule=schedule,
        interrupt=interrupt,
        nmi=nmi,
        optimized_callback=callback,
        trampoline=trampoline,
        trampoline_asks=asks,
        ftrace_caller=ftrace_caller,
        ftrace_caller_end=ftrace_caller_end,
        exceptions=exceptions,
        hypercalls=hypercalls,
        frames=frames,
    )


def _frames(
    body: bytes, at: int, depth: int, behind: tuple[int, int], gap: int
) -> Iterator[tuple[int, tuple[int, int]]]:
    """For each instruction of a stub at ``at``, what :attr:`Stubs.frames` says.

    :param depth: bytes on the stack below the interrupted RIP on entry.
    :param behind: up to the ``hlt``, and after it, when the host has had its say on where to go on.
    :param gap: by how much the frame that the host sees, and that is in use after the ``hlt``, is a
        copy lower down.
    """
    offset = 0
    asked = False
    while offset < len(body):
        insn = decode(body[offset:], at + offset)
        assert insn is not None
        yield insn.addr, (depth, behind[asked])
        opcode = insn.opcode[0]
        if (
            opcode in _PUSHES
            or opcode == _PUSHF
            or (opcode == _GROUP_5 and insn.reg == _GROUP_5_PUSH)
        ):
            depth += 8
        elif opcode in _POPS or opcode == _POPF:
            depth -= 8
        elif opcode == _ADD_IMM8 and insn.mod == _REGISTER:
            depth -= insn.immediate
        elif opcode == _LEA and asked:
            depth = 0
        elif opcode == _HLT:
            depth -= gap
            asked = True
        offset += insn.length
