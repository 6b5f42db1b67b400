"""Guest stubs: what the machine's traps, interrupts and calls run in guest code.

The module answers to arch/x86/entry/entry_64.S. The stubs are made of fixed templates. A ``hlt`` in
a stub is a hypercall: the run ends behind it, and the host knows by the address what is asked of
it.
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
"""The offset in the per-CPU area of the number of interrupts that the CPU's handler has taken."""
GS_NMIS: Final = 0xF08
"""The offset in the per-CPU area of the number of NMIs that the CPU's handler has taken."""
GS_JPROBE_SP: Final = 0xF10
"""The offset in the per-CPU area of RSP as it was when the CPU's jumper probe was hit."""
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
_ADD_IMM8, _HLT, _GROUP_5, _PUSHF, _POPF, _LEA = 0x83, 0xF4, 0xFF, 0x9C, 0x9D, 0x8D
_GROUP_5_PUSH: Final = 6
_ALIGNMENT: Final = 16
"""Each stub begins at a multiple of so many bytes."""
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
# The frame and the 16 words under it are pt_regs. The error code, or -1 where there is none, stands
# in the place of orig_ax.
_EXCEPTION: Final = f"{_PUSH_ALL}; hlt; {_POP_ALL}; add rsp, 8; iretq"
# Six words are copied down. That leaves a gap above the frame, where the handler of a breakpoint
# may emulate a push (since v5.2).
_GAP: Final = "; ".join(["push qword ptr [rsp + 40]"] * 6)
_GAP_SIZE: Final = 48
# A real handler saves what it uses, and leaves nothing under its stack pointer as it was. This one
# uses every register, sets flags that no code may rely on, writes over the 128 bytes under its
# stack pointer, and counts. The handler of NMIs does the same, and asks the host, too.
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
# The entry function of a jumper probe ends here, however deep its stack is: the frame of the
# breakpoint must not lie in the part of the stack that will be put back.
_JPROBE_RETURN: Final = f"mov ecx, {GS_JPROBE_SP}; mov rsp, qword ptr gs:[rcx]; int3; nop"
# A function with a return probe returns here. The word that its RET popped is the slot for the real
# return address: the host puts it there, and the RET of this stub pops it again. {skip} leads down
# to below that word, and below the red zone where there is one.
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
# answer is put there, and POPFQ and RET take it. orig_ax is 0: no direct call is asked for.
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
    """Return how far below the caller's RSP the return probes' trampoline ends its ``pt_regs``.

    The distance is in bytes.
    """
    return 128 if red_zone else 8


@dataclass(frozen=True, slots=True)
class Stubs:
    """The stub page, and addresses in it.

    Between ``trampoline`` and ``trampoline_asks`` the stack does not say where a call returns to:
    the owner of the return addresses does.

    :ivar code: the content of the page, without the padding at its end.
    :ivar exceptions: the stub of each vector.
    :ivar hypercalls: the name of each ``hlt``, by the address behind it.
    :ivar frames: where a stub that stands at an address was entered from: how many bytes above RSP
        the interrupted RIP (or the return address) lies, and how many bytes that RIP is behind the
        instruction in question.
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


class _StubPage:
    """The stub page as it grows.

    :param base: its address.
    :ivar code: the stubs so far.
    :ivar hypercalls: as in :class:`Stubs`.
    :ivar frames: as in :class:`Stubs`.
    """

    def __init__(self, base: int) -> None:
        self._base = base
        self.code = bytearray()
        self.hypercalls: dict[int, str] = {}
        self.frames: dict[int, tuple[int, int]] = {}

    @property
    def end(self) -> int:
        """The address behind the last stub."""
        return self._base + len(self.code)

    def add(
        self,
        name: str,
        text: str,
        *,
        depth: int = 0,
        behind: tuple[int, int] = (0, 0),
        gap: int = 0,
    ) -> int:
        """Assemble ``text`` behind the last stub and return its address.

        The other parameters are those of :func:`_frames`.
        """
        self.code.extend(INT3 * (-len(self.code) % _ALIGNMENT))
        at = self.end
        body = assemble(text, at)
        if "hlt" in text:
            # The one f4 byte of each template is its hlt: no other instruction here contains one.
            assert body.count(_HLT) == 1, name
            self.hypercalls[at + body.index(_HLT) + 1] = name
        self.frames.update(_frames(body, at, depth, behind, gap))
        self.code.extend(body)
        return at

    def add_exceptions(self, *, int3_gap: bool) -> dict[int, int]:
        """Add the stubs of all :data:`VECTORS` and return their addresses."""
        stubs: dict[int, int] = {}
        for vector, (_name, has_code) in VECTORS.items():
            name = f"exception:{vector}"
            if vector != _BREAKPOINT:
                text = _EXCEPTION if has_code else f"push -1; {_EXCEPTION}"
                stubs[vector] = self.add(name, text, depth=8 * has_code)
            elif int3_gap:
                text = f"push -1; {_GAP}; {_EXCEPTION}"
                stubs[vector] = self.add(name, text, behind=(1, 0), gap=_GAP_SIZE)
            else:
                stubs[vector] = self.add(name, f"push -1; {_EXCEPTION}", behind=(1, 0))
        return stubs

    def asks(self, name: str) -> int:
        """Return the address behind the ``hlt`` of the stub ``name``."""
        return next(at for at, asked in self.hypercalls.items() if asked == name)


def build_stubs(base: int, *, int3_gap: bool = False, red_zone: bool = False) -> Stubs:
    """Return the stub page for address ``base``: at most 4096 bytes, padded by the caller.

    :param int3_gap: leave room between the interrupted stack and the frame of a breakpoint, for
        emulated pushes.
    :param red_zone: leave the 128 bytes under RSP alone in the return probes' trampoline.
    """
    page = _StubPage(base)
    call_return = page.add("call_return", "hlt")
    nested_return = page.add("nested_return", "hlt")
    jprobe_return = page.add("jprobe_return", _JPROBE_RETURN)
    jprobe_return_end = page.end
    page.frames.clear()  # Nothing was interrupted to enter these three: a call is over.
    schedule = page.add("schedule", "hlt; ret", behind=(1, 1))
    callback = page.add("optimized_callback", "hlt; ret", behind=(1, 1))
    skip = return_skip(red_zone=red_zone)
    trampoline = page.add("trampoline", _TRAMPOLINE.format(skip=skip), depth=skip - 8)
    trampoline_asks = page.asks("trampoline")
    for at in [at for at in page.frames if trampoline <= at < trampoline_asks]:
        # Before the host has answered the stack does not say where the call returns to.
        del page.frames[at]
    ftrace_caller = page.add("ftrace_caller", _FTRACE_CALLER, behind=(1, 1))
    ftrace_caller_end = page.end
    exceptions = page.add_exceptions(int3_gap=int3_gap)
    interrupt = page.add("interrupt", _INTERRUPT)
    # The NMI's stub is the last one: everything behind its start belongs to it.
    nmi = page.add("nmi", _NMI)
    return Stubs(
        code=bytes(page.code),
        call_return=call_return,
        nested_return=nested_return,
        jprobe_return=jprobe_return,
        jprobe_return_end=jprobe_return_end,
        schedule=schedule,
        interrupt=interrupt,
        nmi=nmi,
        optimized_callback=callback,
        trampoline=trampoline,
        trampoline_asks=trampoline_asks,
        ftrace_caller=ftrace_caller,
        ftrace_caller_end=ftrace_caller_end,
        exceptions=exceptions,
        hypercalls=page.hypercalls,
        frames=page.frames,
    )


def _frames(
    body: bytes, at: int, depth: int, behind: tuple[int, int], gap: int
) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield the address of each instruction of a stub, and what :attr:`Stubs.frames` says of it.

    :param body: the stub's code.
    :param at: the stub's address.
    :param depth: bytes on the stack below the interrupted RIP when the stub is entered.
    :param behind: how many bytes the interrupted RIP is behind its instruction: before the ``hlt``,
        and after it, when the host has decided where to go on.
    :param gap: how many bytes below the pushed frame its copy lies that the host sees, and that is
        in use after the ``hlt``; 0: there is no copy.
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
