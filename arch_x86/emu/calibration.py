"""Where Unicorn keeps five numbers that its interface does not give, found by looking for them at
run time.

The instruction counter: a run that ends early does not say how far it came. The last exception:
Unicorn remembers it for the double-fault rule (SDM vol. 3, 6.15), but only delivery through an IDT,
which it does not have, would clear it. The page fault's error code: only it tells a fetch from a
load. Whether an ``int n`` raised an exception: it has the same vector as fault n. Whether STI or
MOV SS holds interrupts back for another instruction: it is us who deliver them. All are found by
content, checked by a second measurement, and done without where the check fails: counting falls
back on a callback an instruction, an exception is forgotten only with the instance, all text is
mapped from the start, ``int 13`` is taken for #GP, and interrupts come right after STI.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from ctypes import c_size_t, c_void_p

from arch_x86.emu.context import Context
from arch_x86.emu.private_offsets import PrivateOffsets
from arch_x86.emu.private_state import SHADOW
from arch_x86.emu.uc import NO_LIMIT, UcInstance

__all__ = ("calibrate",)

_PAGE_FAULT = 14
_DATA_SELECTOR = 16
_LOAD = b"\x8b\x04\x25\x00\x00\x10\x00\xf4"  # mov eax, [0x00100000], which is not mapped
_STORE = b"\x89\x04\x25\x00\x00\x10\x00\xf4"
_INT_14 = b"\xcd\x0e\xf4"
_JUMP = b"\xe9\xfb\x9f\x0f\x00\xf4"  # from 0x6000 to 0x100000


def calibrate() -> PrivateOffsets:
    """Measure one throw-away instance. Takes about 10 ms; deterministic for one build of
    Unicorn.
    """
    room = mmap.mmap(-1, 0x8000)
    host = ctypes.addressof(ctypes.c_char.from_buffer(room))
    instance = UcInstance(PrivateOffsets())
    try:
        instance.memory.map(0, 0x8000, host, room)
        counter = _find_counter(instance, room)
        _enter_paging(instance, room)
        return PrivateOffsets(
            counter=counter,
            exception=_find_exception(instance, room),
            # SDM vol. 3, 4.7
            error_code=_find_field(instance, room, {_LOAD: 0, _STORE: 2, _JUMP: 16}),
            software=_find_field(instance, room, {_LOAD: 0, _STORE: 0, _INT_14: 1}),
            shadow=_find_shadow(instance, room),
        )
    finally:
        instance.close()


def _allocation_size(pointer: int) -> int:
    """Bytes behind ``pointer`` that may be read; 0 where the C library does not say."""
    usable = getattr(ctypes.CDLL(None), "malloc_usable_size", None)
    if usable is None:
        return 0
    usable.restype, usable.argtypes = c_size_t, [c_void_p]
    return int(usable(pointer))


def _find_counter(instance: UcInstance, room: mmap.mmap) -> int | None:
    """The counter stands right before the requested count in uc_struct."""
    room[0x6000:0x6065] = b"\x90" * 100 + b"\xf4"
    instance.rip = 0x6000
    instance.start(NO_LIMIT)
    seen = ctypes.string_at(instance.handle, _allocation_size(instance.handle))
    at = seen.find(struct.pack("<Q", NO_LIMIT))
    if at < 8 or at % 8 or struct.unpack_from("<Q", seen, at - 8)[0] != 101:
        return None
    offset = at - 8
    instance.rip = 0x6000 + 40
    instance.start(NO_LIMIT)
    return offset if ctypes.c_uint64.from_address(instance.handle + offset).value == 61 else None


def _enter_paging(instance: UcInstance, room: mmap.mmap) -> None:
    """Page tables that map the 8 pages of ``room`` to themselves, and nothing else."""
    for level in range(3):
        struct.pack_into("<Q", room, 0x1000 * (level + 1), (0x1000 * (level + 2)) | 3)
    for page in range(8):
        struct.pack_into("<Q", room, 0x4000 + 8 * page, (0x1000 * page) | 3)
    struct.pack_into("<3Q", room, 0x7000, 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF)
    instance.enter_long_mode(0x1000, 0x7000, 0x17, 8, _DATA_SELECTOR)


def _find_exception(instance: UcInstance, room: mmap.mmap) -> int | None:
    """The one 32-bit field of the context that a page fault turns from -1 to 14."""
    before = instance.new_context()
    instance.save(before)
    after = _fault(instance, room, before, _LOAD)
    found = [
        i
        for i, (x, y) in enumerate(zip(_words(before), after, strict=False))
        if x == -1 and y == _PAGE_FAULT
    ]
    return found[0] * 4 if len(found) == 1 else None


def _find_field(instance: UcInstance, room: mmap.mmap, values: dict[bytes, int]) -> int | None:
    """The one 32-bit field of the context that has these values after these pieces of code, there
    and back.
    """
    before = instance.new_context()
    instance.save(before)
    order = (*values, *reversed(values))
    runs = [_fault(instance, room, before, code) for code in order]
    found = [
        i
        for i, seen in enumerate(zip(*runs, strict=False))
        if seen == tuple(values[code] for code in order)
    ]
    return found[0] * 4 if len(found) == 1 else None


def _find_shadow(instance: UcInstance, room: mmap.mmap) -> int | None:
    """The one 32-bit field that has one bit more, :data:`SHADOW`, right after ``sti`` and after
    ``mov ss``, and only then.
    """
    found: list[set[int]] = []
    for code in (b"\x90\xfb\x90\x90", b"\x90\x8e\xd0\x90\x90"):  # sti; mov ss, eax
        before = instance.new_context()
        instance.save(before)
        room[0x6000 : 0x6000 + len(code)] = code
        instance.flush_translations()
        instance.load()
        instance.gpr[0] = _DATA_SELECTOR
        instance.store()
        instance.rip = 0x6000
        seen: list[tuple[int, ...]] = []
        for _ in range(3):
            instance.start(1)
            after = instance.new_context()
            instance.save(after)
            seen.append(_words(after))
        instance.restore(before)
        plain, shadowed, later = seen
        found.append(
            {
                i
                for i, word in enumerate(plain)
                if not word & SHADOW and shadowed[i] == word | SHADOW and later[i] == word
            }
        )
    both = found[0] & found[1]
    return both.pop() * 4 if len(both) == 1 else None


def _fault(instance: UcInstance, room: mmap.mmap, before: Context, code: bytes) -> tuple[int, ...]:
    """What the context is when ``code``, run from the state ``before``, has ended in a page fault;
    empty when it has not.
    """
    room[0x6000 : 0x6000 + len(code)] = code
    instance.flush_translations()
    instance.rip = 0x6000
    instance.start(16)
    if instance.vector != _PAGE_FAULT:
        return ()
    after = instance.new_context()
    instance.save(after)
    instance.restore(before)
    return _words(after)


def _words(context: Context) -> tuple[int, ...]:
    size = context.size // 4 * 4
    return struct.unpack(f"<{size // 4}i", ctypes.string_at(context.pointer, size))
