"""This module is the machine code of ``optprobe litmus`` (SDM volume 3, cross-modifying code).

A writer on one CPU stores to the immediate of an instruction, and a caller on another CPU executes
that instruction. The module makes bytes only: it maps no memory and runs nothing.

The instruction is ``mov rax, imm64``. Store number n, of 1, 2, 4 or 8 bytes, puts the low byte of n
into each of the bytes that it writes. So whatever bytes the caller's CPU fetches, old, new or
mixed, they make a valid instruction, and RAX shows which store each byte came from. Behind each
store to the instruction, the writer stores n to a counter, its *publication*: who reads n there
knows that store n was visible to all CPUs.

There are 64 such instructions, the *sites*; the immediate of site k begins at offset k of a cache
line. The caller goes from site to site, and tells the writer by its *turn*; the writer follows, and
acknowledges the turn when its first store to the site is published.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from arch_x86.isa.assemble import assemble
from arch_x86.isa.constants import INT3

__all__ = (
    "COUNTERS_SIZE",
    "EVENT_SIZE",
    "FIELDS",
    "GENERATIONS",
    "LINE",
    "NO_TURN",
    "OPCODE_SIZE",
    "SITES_SIZE",
    "WIDTHS",
    "Counters",
    "Event",
    "caller_code",
    "cpuid_code",
    "read_counters",
    "read_events",
    "repeated",
    "site_at",
    "site_code",
    "writer_code",
)

WIDTHS: Final = (1, 2, 4, 8)
"""The widths of stores, in bytes."""
LINE: Final = 64
"""The size of a cache line, in bytes, and the number of sites."""
GENERATIONS: Final = 256
"""A byte of the instruction shows the number of its store modulo this."""
OPCODE_SIZE: Final = 2
"""The bytes of ``mov rax, imm64`` in front of its immediate."""
_IMMEDIATE_SIZE: Final = 8

_ROOM: Final = 4 * LINE
"""The bytes of memory for a site. The instruction lies around the second line of them."""
SITES_SIZE: Final = LINE * _ROOM
NO_TURN: Final = (1 << 64) - 1
"""An acknowledgement of no turn."""
_SPINS: Final = 1 << 22
"""The caller ends when the writer has not answered for so many looks, which take a second or so."""


@dataclass(frozen=True, slots=True)
class _Fields:
    """The offsets of the fields in the memory that the two loops share. Each has 8 bytes.

    What the writer writes, what the caller writes, and what each of them reads alone are in lines
    of their own, so the CPUs take no lines from each other but for those that carry a message.

    :ivar stop: both loops end when this is not 0.
    :ivar published: the number of the last store that was published.
    :ivar turn: the number of the site at which the caller is; it begins at the one behind.
    :ivar acknowledged: the number of the site that the writer has begun to store to.
    :ivar targets: the address that the writer stores to at site 0.
    :ivar delays: the longest delay of the writer between two stores, in iterations of a loop of two
        instructions; a power of two less one. The delays are drawn, short ones more often.
    :ivar stores_max: the writer ends behind the store of this number.
    :ivar sites: the address of the code of site 0.
    :ivar events: the address for the next event; it moves as events are written.
    :ivar events_end: the address behind the room for events; the caller ends when it is full.
    :ivar calls_left: the caller ends at the end of a turn when this is 0 or less.
    :ivar turn_calls: a turn ends after so many calls,
    :ivar turn_overlapped: or after so many calls during which a store was published.
    :ivar counters: the address of the :class:`Counters` of site 0, with those of the others behind.
    """

    stop: int = 0x00
    published: int = 0x40
    turn: int = 0x80
    acknowledged: int = 0xC0
    targets: int = 0x100
    delays: int = 0x108
    stores_max: int = 0x110
    sites: int = 0x140
    events: int = 0x148
    events_end: int = 0x150
    calls_left: int = 0x158
    turn_calls: int = 0x160
    turn_overlapped: int = 0x168
    counters: int = 0x170


FIELDS: Final = _Fields()

_EVENT: Final = struct.Struct("<5Q")
EVENT_SIZE: Final = _EVENT.size
_COUNTERS: Final = struct.Struct("<4Q")
COUNTERS_SIZE: Final = LINE * _COUNTERS.size
"""The bytes of the counters of all sites."""


@dataclass(frozen=True, slots=True)
class Event:
    """A call that is not plainly whole and current, as the caller's loop writes it down.

    :ivar before: the publication that the caller read in front of the call.
    :ivar published: how many stores were published from then until the caller read the publication
        again, behind the call.
    :ivar value: RAX behind the call: the immediate as it was fetched.
    :ivar newest: the newest store that a plain call of the same turn has fetched before.
    :ivar site: the number of the site.
    """

    before: int
    published: int
    value: int
    newest: int
    site: int


@dataclass(frozen=True, slots=True)
class Counters:
    """What the caller's loop counts at a site.

    :ivar calls: the calls.
    :ivar plain: the calls that made no event.
    :ivar overlapped: the calls during which a store was published.
    :ivar stores: the stores that were published during turns at the site.
    """

    calls: int
    plain: int
    overlapped: int
    stores: int


def read_events(memory: bytes) -> list[Event]:
    """Return the events in ``memory``, whose length is a multiple of :data:`EVENT_SIZE`."""
    return [Event(*fields) for fields in _EVENT.iter_unpack(memory)]


def read_counters(memory: bytes) -> list[Counters]:
    """Return the counters in ``memory``, by site."""
    return [Counters(*fields) for fields in _COUNTERS.iter_unpack(memory)]


def site_at(site: int) -> int:
    """Return the offset of the immediate of ``site`` in the memory of the sites."""
    return LINE + site * (_ROOM + 1)


def repeated(store: int, width: int) -> bytes:
    """Return what store number ``store`` puts into its ``width`` bytes."""
    return bytes((store % GENERATIONS,)) * width


def site_code(immediate: bytes) -> bytes:
    """Return a function that returns ``immediate``, of at most 8 bytes, with zeros behind it."""
    return b"".join(
        (
            b"\x48\xb8",  # mov rax, imm64: REX.W and opcode
            immediate.ljust(_IMMEDIATE_SIZE, b"\0"),  # its immediate
            b"\xc3",  # ret
            bytes(INT3),  # no instruction behind the return
        )
    )


def _ones(width: int) -> int:
    """Return a number whose ``width`` low bytes are 1: times a byte, it repeats the byte."""
    return int.from_bytes(b"\1" * width, "little")


def writer_code(width: int) -> bytes:
    """Return the writer's loop: a function whose argument is the address of the shared memory.

    It begins with the store behind the one that was published last.

    :param width: the width of its stores, in bytes; one of :data:`WIDTHS`.
    """
    register = {1: "al", 2: "ax", 4: "eax", 8: "rax"}[width]
    return assemble(
        f"""
        push rbx; push rbp
        mov rdx, [rdi + {FIELDS.delays}]
        mov rbp, {_ones(width)}
        mov rsi, 6364136223846793005    # the multiplier of a linear congruential generator
        mov r9, rsi
        mov r8, [rdi + {FIELDS.published}]
        mov rbx, {NO_TURN}              # the turn of the caller that is followed
    again:
        cmp dword ptr [rdi + {FIELDS.stop}], 0
        jne end
        cmp r8, [rdi + {FIELDS.stores_max}]
        jae end
        mov r11, [rdi + {FIELDS.turn}]
        cmp r11, rbx
        je same
        imul r10, r11, {_ROOM + 1}
        add r10, [rdi + {FIELDS.targets}]
    same:
        inc r8
        movzx eax, r8b
        imul rax, rbp
        mov [r10], {register}           # the store to the instruction
        mov [rdi + {FIELDS.published}], r8  # stores become visible in the order of the program
        cmp r11, rbx
        je pause
        mov rbx, r11
        mov [rdi + {FIELDS.acknowledged}], r11
    pause:
        imul r9, rsi                    # draw a number
        inc r9
        mov rax, r9
        shr rax, 24
        and rax, rdx                    # some of its bits are a delay
        mov rcx, r9
        shr rcx, 60
        shr rax, cl                     # others halve the delay 0 to 15 times
        je again
    wait:
        dec rax
        jne wait
        jmp again
    end:
        pop rbp; pop rbx
        ret
        """
    )


_ENTER_TURN: Final = f"""
turn:
    inc r14
    and r14d, {LINE - 1}
    mov [rdi + {FIELDS.turn}], r14
    mov ecx, {_SPINS}
wait:                               # until the writer has stored to this site
    cmp dword ptr [rdi + {FIELDS.stop}], 0
    jne end
    dec ecx
    je end
    pause
    cmp r14, [rdi + {FIELDS.acknowledged}]
    jne wait
    imul r12, r14, {_ROOM + 1}
    add r12, [rdi + {FIELDS.sites}]
    xor esi, esi                    # calls of this turn
    xor ebp, ebp                    # those during which a store was published
    xor r11d, r11d                  # plain calls
    xor r10d, r10d                  # the newest store that a plain call has fetched
    xor eax, eax
    cpuid                           # what is stale from here on became so in this turn
    mov rax, [rdi + {FIELDS.published}]
    mov [rsp], rax
"""
"""A part of the caller's loop: go to the next site, and begin to count."""

_SORT_OUT: Final = f"""
    movzx ecx, al
    imul rcx, r15
    cmp rax, rcx
    jne event                       # the bytes are not all of one store
    movzx edx, al
    sub edx, r8d
    movzx edx, dl                   # so many stores behind the publication, modulo 256
    cmp r9, {GENERATIONS - 2}
    ja event                        # more stores than a byte can tell apart
    lea rcx, [r9 + 1]
    cmp rcx, rdx
    jb event                        # older than the publication
    add rdx, r8                     # the number of the store
    cmp rdx, r10
    jb event                        # older than what was fetched before
    mov r10, rdx
    inc r11
    jmp again
event:
    mov [r13], r8
    mov [r13 + 8], r9
    mov [r13 + 16], rax
    mov [r13 + 24], r10
    mov [r13 + 32], r14
    add r13, {EVENT_SIZE}
    cmp r13, [rdi + {FIELDS.events_end}]
    jb again
"""
"""A part of the caller's loop: make an event of the call, unless it is plain.

RAX is what the call returned, R8 the publication in front of it, and R9 how many stores were
published meanwhile.
"""

_LEAVE_TURN: Final = f"""
leave:
    mov rbx, r14
    shl rbx, 5                      # the size of the counters of a site is 32
    add rbx, [rdi + {FIELDS.counters}]
    add [rbx], rsi
    add [rbx + 8], r11
    add [rbx + 16], rbp
    mov rax, [rdi + {FIELDS.published}]
    sub rax, [rsp]
    add [rbx + 24], rax
    cmp r13, [rdi + {FIELDS.events_end}]
    jae end
    sub [rdi + {FIELDS.calls_left}], rsi
    jg turn
end:
    mov [rdi + {FIELDS.events}], r13
    pop rax; pop r15; pop r14; pop r13; pop r12; pop rbp; pop rbx
    ret
"""
"""A part of the caller's loop: add to the counters of the site, and go on or return."""


def caller_code(width: int, *, serialized: bool) -> bytes:
    """Return the caller's loop: a function whose argument is the address of the shared memory.

    The loop sorts out the calls that fetched one whole store, one that may be current: from the
    publication before the call to the store behind the publication after it. Such a call is plain
    if it also fetched no older store than an earlier plain call of its turn. Any other call is an
    event.

    :param width: the width of the writer's stores, in bytes; one of :data:`WIDTHS`.
    :param serialized: execute CPUID between reading the publication and calling.
    """
    serialize = "xor eax, eax; cpuid" if serialized else ""
    return assemble(
        f"""
        push rbx; push rbp; push r12; push r13; push r14; push r15; push rax
        mov r13, [rdi + {FIELDS.events}]
        mov r15, {_ones(width)}
        mov r14, [rdi + {FIELDS.turn}]
    {_ENTER_TURN}
    again:
        cmp dword ptr [rdi + {FIELDS.stop}], 0
        jne leave
        cmp rsi, [rdi + {FIELDS.turn_calls}]
        jae leave
        cmp rbp, [rdi + {FIELDS.turn_overlapped}]
        jae leave
        mov r8, [rdi + {FIELDS.published}]
        {serialize}
        call r12
        mov r9, [rdi + {FIELDS.published}]
        inc rsi
        sub r9, r8                      # how many stores were published in between
        cmp r9, 1
        sbb rbp, -1                     # count the call if any was
    {_SORT_OUT}
    {_LEAVE_TURN}
        """
    )


def cpuid_code() -> bytes:
    """Return a function that executes CPUID: its arguments are a leaf and an address.

    It writes EAX, EBX, ECX and EDX to the address, 4 bytes each.
    """
    return assemble(
        """
        push rbx
        mov eax, edi
        xor ecx, ecx
        cpuid
        mov [rsi], eax
        mov [rsi + 4], ebx
        mov [rsi + 8], ecx
        mov [rsi + 12], edx
        pop rbx
        ret
        """
    )
