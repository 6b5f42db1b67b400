"""Machine code of the host's own processor, which Unicorn calls from its hooks.

It answers to no kernel file: these are the two hooks that run so often that Python would be too
slow for them. Each is called as a C function by the System V convention (psABI, 3.2.3), and finds
what it needs in an array of 64-bit words, whose address Unicorn hands over with each call. The
bytes are listed below with the instructions that they encode; they hold no address, so one copy
serves every instance.

``BLOCK`` is called before each block of guest code, as ``block(uc, address, size, words)``. It
looks the block up in a table by its address and size, and takes the number of the block's
instructions from the number of those that may still begin. Where so many are not left it takes
nothing, and stops the run in front of the block. A block that the table does not know goes to a
function of Python's, with the same arguments.

``EXCEPTION`` is called as ``exception(uc, number, words)`` when the guest raises an exception, and
``HYPERCALL`` as ``hypercall(uc, address, size, words)`` in front of an instruction. Both read a
batch of the guest's registers, call a function of Python's without arguments, and write as many
registers as that function asks for.

Other processors, operating systems with another convention, and systems that give no memory that
can be written and executed, have no host code: :meth:`HostCode.made` returns None there, and the
machine runs as it does without.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import struct
import sys
from typing import Final

__all__ = (
    "ANSWER_WORDS",
    "BLOCK_WORDS",
    "ENTRIES",
    "ENTRY_WORDS",
    "AnswerWord",
    "BlockWord",
    "HostCode",
    "block_key",
    "block_of",
    "entry_of",
)

_PROCESSORS: Final = frozenset({"x86_64", "amd64"})
_SYSTEMS: Final = ("linux", "freebsd", "darwin")
_HIGH: Final = 0xFFFF << 48


class BlockWord:
    """The indices of the words that ``BLOCK`` uses."""

    LEFT = 0
    """How many instructions may still begin."""
    LAST = 2
    """The key of the last block that has begun; 0 for none."""
    STOPPED = 3
    """The number 1, once the limit has stopped the run."""
    TABLE = 4
    """The host address of the table."""
    MISSED = 6
    """The host address of the function for blocks that the table does not know."""
    STOP = 7
    """The host address of ``uc_emu_stop``."""


BLOCK_WORDS: Final = 8
ENTRIES: Final = 1 << 16
"""How many entries the table has."""
ENTRY_WORDS: Final = 2
"""An entry of the table has two words: the block's key, and the number of its instructions."""


def block_key(address: int, size: int) -> int:
    """Return the key of the block of ``size`` bytes at ``address``, as ``BLOCK`` makes it."""
    return address ^ size << 48


def block_of(key: int) -> tuple[int, int]:
    """Return the address and the size of the block that has this key."""
    address = key & (1 << 48) - 1
    if address >> 47:
        address |= _HIGH
    return address, (key ^ address) >> 48


def entry_of(key: int) -> int:
    """Return the number of the table's entry that is for ``key``, as ``BLOCK`` finds it."""
    return key * 0x3779B97F >> 16 & ENTRIES - 1


class AnswerWord:
    """The indices of the words that ``EXCEPTION`` and ``HYPERCALL`` use."""

    READ_IDS = 0
    """The host address of the numbers of the registers to read."""
    READ_SLOTS = 1
    """The host address of the pointers to where their values go."""
    READ_COUNT = 2
    """How many registers to read."""
    ASK = 3
    """The host address of Python's function."""
    WRITE_IDS = 4
    """The host address of the numbers of the registers to write; with ``uc_reg_write`` the number
    of the one register.
    """
    WRITE_SLOTS = 5
    """The host address of the pointers to their values; with ``uc_reg_write`` that of the value."""
    WRITE_COUNT = 6
    """How many registers to write: 0 when Python's function is called, which may change it."""
    WHAT = 7
    """The exception's number, or the instruction's address."""
    READ = 8
    """The host address of ``uc_reg_read_batch``."""
    WRITE = 9
    """The host address of ``uc_reg_write_batch``, or of ``uc_reg_write``."""


ANSWER_WORDS: Final = 10

# On entry rsi is the block's address, edx its size and rcx the words. Where a block is not in the
# table, rdi, rsi, edx and rcx are still as they were.
_BLOCK: Final = (
    b"\x89\xd0"  # mov eax, edx
    b"\x48\xc1\xe0\x30"  # shl rax, 48
    b"\x48\x31\xf0"  # xor rax, rsi                         the key
    b"\x4c\x69\xc0\x7f\xb9\x79\x37"  # imul r8, rax, 0x3779b97f
    b"\x49\xc1\xe8\x0c"  # shr r8, 12
    b"\x41\x81\xe0\xf0\xff\x0f\x00"  # and r8d, 0xffff0    16 times the number of the entry
    b"\x4c\x03\x41\x20"  # add r8, [rcx+32]                 TABLE
    b"\x49\x39\x00"  # cmp [r8], rax
    b"\x75\x18"  # jne missed
    b"\x48\x8b\x11"  # mov rdx, [rcx]                        LEFT
    b"\x49\x2b\x50\x08"  # sub rdx, [r8+8]                   less the block's instructions
    b"\x72\x08"  # jb stop
    b"\x48\x89\x11"  # mov [rcx], rdx                        LEFT
    b"\x48\x89\x41\x10"  # mov [rcx+16], rax                LAST
    b"\xc3"  # ret
    b"\x48\xff\x41\x18"  # stop: inc qword [rcx+24]         STOPPED
    b"\xff\x61\x38"  # jmp [rcx+56]                         STOP, which takes rdi
    b"\xff\x61\x30"  # missed: jmp [rcx+48]                 MISSED
)
# On entry rdi is the instance and rsi the number or the address. With three words pushed and the
# return address the stack is aligned for calls.
_SAVE: Final = (
    b"\x53"  # push rbx
    b"\x55"  # push rbp
    b"\x50"  # push rax
)
_WORDS_THIRD: Final = b"\x48\x89\xd3"  # mov rbx, rdx       the third argument: the words
_WORDS_FOURTH: Final = b"\x48\x89\xcb"  # mov rbx, rcx      the fourth argument: the words
_ANSWER: Final = (
    b"\x48\x89\xfd"  # mov rbp, rdi
    b"\x48\x89\x73\x38"  # mov [rbx+56], rsi                WHAT
    b"\x48\x83\x63\x30\x00"  # and qword [rbx+48], 0        WRITE_COUNT
    b"\x48\x8b\x33"  # mov rsi, [rbx]                       READ_IDS
    b"\x48\x8b\x53\x08"  # mov rdx, [rbx+8]                 READ_SLOTS
    b"\x8b\x4b\x10"  # mov ecx, [rbx+16]                    READ_COUNT
    b"\xff\x53\x40"  # call [rbx+64]                        READ
    b"\xff\x53\x18"  # call [rbx+24]                        ASK
    b"\x8b\x4b\x30"  # mov ecx, [rbx+48]                    WRITE_COUNT
    b"\x85\xc9"  # test ecx, ecx
    b"\x74\x0e"  # jz done
    b"\x48\x89\xef"  # mov rdi, rbp
    b"\x48\x8b\x73\x20"  # mov rsi, [rbx+32]                WRITE_IDS
    b"\x48\x8b\x53\x28"  # mov rdx, [rbx+40]                WRITE_SLOTS
    b"\xff\x53\x48"  # call [rbx+72]                        WRITE
    b"\x59"  # done: pop rcx
    b"\x5d"  # pop rbp
    b"\x5b"  # pop rbx
    b"\xc3"  # ret
)
_EXCEPTION: Final = _SAVE + _WORDS_THIRD + _ANSWER
_HYPERCALL: Final = _SAVE + _WORDS_FOURTH + _ANSWER
_ALIGNMENT: Final = 64


class HostCode:
    """A page of this process that holds the functions. It has to live as long as hooks call them.

    :ivar block: the host address of ``BLOCK``.
    :ivar exception: the host address of ``EXCEPTION``.
    :ivar hypercall: the host address of ``HYPERCALL``.
    """

    __slots__ = ("_page", "block", "exception", "hypercall")

    def __init__(self, page: mmap.mmap) -> None:
        self._page = page
        base = ctypes.addressof(ctypes.c_char.from_buffer(page))
        at = 0
        places: list[int] = []
        for code in (_BLOCK, _EXCEPTION, _HYPERCALL):
            page[at : at + len(code)] = code
            places.append(base + at)
            at += -(-len(code) // _ALIGNMENT) * _ALIGNMENT
        self.block, self.exception, self.hypercall = places

    @classmethod
    def made(cls) -> HostCode | None:
        """Return the functions in a page of their own, or None where this host can't have them."""
        if (
            platform.machine().lower() not in _PROCESSORS
            or not sys.platform.startswith(_SYSTEMS)
            or struct.calcsize("P") != 8
        ):
            return None
        try:
            page = mmap.mmap(
                -1,
                mmap.PAGESIZE,
                mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
                mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC,
            )
        except OSError:
            return None
        return cls(page)
