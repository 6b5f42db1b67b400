"""Calibration: where Unicorn keeps five numbers that its interface does not give.

They are found at run time, by a search for their content:

* The instruction counter is needed because a run that ends early does not say how far it came. *
The last exception has to be cleared. Unicorn remembers it for the double-fault rule (SDM vol. 3,
  6.15), and only delivery through an IDT, which Unicorn does not have, would clear it.
* The page fault's error code is all that tells a fetch from a load. * Whether an ``int n`` raised
an exception matters because it has the same vector as fault n. * Whether STI or MOV SS holds
interrupts back for another instruction matters because this project
  delivers them, not Unicorn.

A second measurement checks each of them. Where that fails, the number is done without: counting
falls back on a callback for each instruction, an exception is forgotten only with the instance, all
text is mapped from the start, ``int 13`` is taken for #GP, and interrupts come right after STI.
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
_JUMP = b"\xe9\xfb\x9f\x0f\x00\xf4"  # jmp 0x100000 at 0x6000; nothing is mapped there


def calibrate() -> PrivateOffsets:
    """Measure one throw-away instance, and return the offsets that were found.

    This takes about 10 ms, and gives the same result each time for one build of Unicorn.
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
            # SDM vol. 3, 4.7: bit 1 is set for a write, bit 4 for a fetch.
            error_code=_find_field(instance, room, {_LOAD: 0, _STORE: 2, _JUMP: 16}),
            software=_find_field(instance, room, {_LOAD: 0, _STORE: 0, _INT_14: 1}),
            shadow=_find_shadow(instance, room),
        )
    finally:
        instance.close()


def _allocation_size(pointer: int) -> int:
    """Return how many bytes behind ``pointer`` may be read.

    :returns: 0 where the C library does not say.
    """
    usable = getattr(ctypes.CDLL(None), "malloc_usable_size", None)
    if usable is None:
        return 0
    usable.restype, usable.argtypes = c_size_t, [c_void_p]
    return int(usable(pointer))


def _find_counter(instance: UcInstance, room: mmap.mmap) -> int | None:
    """Return the offset of the instruction counter in uc_struct, or None if it is not found.

    The counter stands right before the requested count, whose value is known.
    """
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
    """Enter long mode with page tables that map only the 8 pages of ``room``, to themselves."""
    for level in range(3):
        struct.pack_into("<Q", room, 0x1000 * (level + 1), (0x1000 * (level + 2)) | 3)
    for page in range(8):
        struct.pack_into("<Q", room, 0x4000 + 8 * page, (0x1000 * page) | 3)
    struct.pack_into("<3Q", room, 0x7000, 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF)
    instance.enter_long_mode(0x1000, 0x7000, 0x17, 8, _DATA_SELECTOR)


def _find_exception(instance: UcInstance, room: mmap.mmap) -> int | None:
    """Return the offset of the last exception's number in the context, or None.

    It is the one 32-bit field that a page fault turns from -1 to 14.
    """
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
    """Return the offset of the one 32-bit field of the context that has the given values.

    :param values: the field's value after each piece of code. The pieces run in this order and then
        in the reverse order, and the field has to follow both times.
    :returns: None if there is no such field, or more than one.
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
    """Return the offset of the 32-bit field that shows an interrupt shadow, or None.

    It has one bit more, :data:`SHADOW`, right after ``sti`` and after ``mov ss``, and only then.
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
    """Run ``code`` from the state ``before`` into a page fault, and return the context behind it.

    :returns: the context's words; none when the code has not ended in a page fault.
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
