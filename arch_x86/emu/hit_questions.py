"""What it takes to ask Python about a hit from the host's machine code, and to answer there.

It answers to arch/x86/entry/entry_64.S as :mod:`arch_x86.emu.hits_inside` does, which it is for:
the registers that are read and written, what the stubs would have done, and what the text says of
an exception.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import addressof, c_int, c_uint64, c_void_p, cast
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from arch_x86.emu.host_code import ANSWER_WORDS, AnswerWord
from arch_x86.emu.libunicorn import ASK_CALLBACK, host_address, x86
from arch_x86.isa.constants import MAX_INSN_SIZE
from arch_x86.isa.decode import decode
from arch_x86.isa.insn import Branch
from arch_x86.probes.held_regs import CS, FLAGS, IP, ORIG_AX, SP, SS
from arch_x86.probes.ptregs import PT_REGS_SIZE, PtRegs

if TYPE_CHECKING:
    from arch_x86.emu.machine import Machine

__all__ = ("BREAKPOINT", "WRITTEN", "Question", "Seen", "TrapStub", "number_of")

BREAKPOINT: Final = 3
_REGISTERS: Final = {
    "bp": "rbp",
    "bx": "rbx",
    "ax": "rax",
    "cx": "rcx",
    "dx": "rdx",
    "si": "rsi",
    "di": "rdi",
    "ip": "rip",
    "sp": "rsp",
    "flags": "eflags",
}
"""The registers whose names in pt_regs are not those of the emulator."""
_FIRST: Final = (IP, FLAGS, SP)
"""The words that are written first, since most hits write no others."""
WRITTEN: Final = (
    *_FIRST,
    *(i for i in range(PT_REGS_SIZE // 8) if i not in (*_FIRST, ORIG_AX, CS, SS)),
)


def number_of(word: int) -> int:
    """Return the emulator's number of the register in a word of pt_regs."""
    name = PtRegs.__slots__[word]
    number: int = getattr(x86, f"UC_X86_REG_{_REGISTERS.get(name, name).upper()}")
    return number


class Seen(Enum):
    """What the text says of an exception, by the value of RIP at which it came."""

    PLAIN = auto()
    """It is a breakpoint, or the end of a single step."""
    SHADOW = auto()
    """It is one, and the instruction before may be STI or MOV SS.

    Then the emulator still holds interrupts back for an instruction; those of a stub would end
    that.
    """
    OTHER = auto()
    """It may be something else, such as ``int 3`` in two bytes."""


class Batch:
    """Registers that the host's code reads or writes together.

    :ivar values: their values, by the number of the word.
    """

    __slots__ = ("_room", "ids", "slots", "values")

    def __init__(self, words: tuple[int, ...]) -> None:
        self._room = (c_uint64 * (PT_REGS_SIZE // 8))()
        self.values = memoryview(self._room).cast("B").cast("Q")
        base = addressof(self._room)
        self.ids = (c_int * len(words))(*[number_of(word) for word in words])
        self.slots = (c_void_p * len(words))(*[base + 8 * word for word in words])


class Question:
    """What the host's code needs to ask one function of this module.

    :ivar words: what the host's code works on, by :class:`AnswerWord`.
    :ivar at: their host address.
    """

    __slots__ = ("_keep", "at", "read", "words", "write")

    def __init__(
        self, read: tuple[int, ...], write: tuple[int, ...], ask: Callable[[], None]
    ) -> None:
        self.read, self.write = Batch(read), Batch(write)
        callback = ASK_CALLBACK(ask)
        words = (c_uint64 * ANSWER_WORDS)()
        words[AnswerWord.READ_IDS] = addressof(self.read.ids)
        words[AnswerWord.READ_SLOTS] = addressof(self.read.slots)
        words[AnswerWord.READ_COUNT] = len(read)
        words[AnswerWord.ASK] = cast(callback, c_void_p).value or 0
        words[AnswerWord.WRITE_IDS] = addressof(self.write.ids)
        words[AnswerWord.WRITE_SLOTS] = addressof(self.write.slots)
        words[AnswerWord.READ] = host_address("uc_reg_read_batch")
        words[AnswerWord.WRITE] = host_address("uc_reg_write_batch")
        self.at = addressof(words)
        self.words = memoryview(words).cast("B").cast("Q")
        self._keep = (words, callback)


class TrapStub:
    """What a trap's stub does, as far as it can be told from here.

    :ivar hlt: the address behind its hypercall.
    :ivar before: how many instructions retire up to the hypercall, with it.
    :ivar retired: how many retire in the whole stub.
    :ivar copied: how many bytes of pt_regs it leaves a second time, above the first.
    :ivar size: how many bytes it leaves on the stack.
    """

    __slots__ = ("before", "copied", "hlt", "retired", "size")

    def __init__(self, machine: Machine, vector: int) -> None:
        stubs = machine.stubs
        at = stubs.exceptions[vector]
        self.hlt = next(
            at for at, name in stubs.hypercalls.items() if name == f"exception:{vector}"
        )
        self.before = self.retired = 0
        while True:
            offset = at - machine.layout.stubs
            insn = decode(stubs.code[offset : offset + MAX_INSN_SIZE], at)
            assert insn is not None
            self.retired += 1
            at = insn.end
            if at == self.hlt:
                self.before = self.retired
            if insn.branch is Branch.IRET:
                break
        has_gap = vector == BREAKPOINT and machine.config.int3_gap
        self.copied = PT_REGS_SIZE - 8 * ORIG_AX if has_gap else 0
        self.size = PT_REGS_SIZE + self.copied
