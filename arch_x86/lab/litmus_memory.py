"""This module maps host memory that can be written and executed, for ``optprobe litmus``.

It answers to mm/mmap.c, as mmap(2) shows it. One mapping is both writable and executable where the
system allows that; elsewhere two mappings show the same memory, one of them writable and the other
executable, as the kernel itself pokes its text.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from engine.errors import InputError

__all__ = ("CodeMemory", "code_memory")

_FAILED: Final = ctypes.c_void_p(-1).value
_WORD: Final = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class CodeMemory:
    """Memory of this process that holds machine code.

    :ivar bytes: the memory, for reading and writing.
    :ivar written_at: the address at which the memory can be written.
    :ivar run_at: the address at which the memory can be executed.
    """

    bytes: memoryview
    written_at: int
    run_at: int

    @property
    def mappings(self) -> int:
        """1: one mapping is writable and executable; 2: each of two mappings is one of both."""
        return 1 if self.written_at == self.run_at else 2

    def write(self, offset: int, content: bytes) -> None:
        """Write ``content`` at ``offset`` bytes from the start of the memory."""
        self.bytes[offset : offset + len(content)] = content

    def write_word(self, offset: int, word: int) -> None:
        """Write 8 bytes at ``offset``."""
        _WORD.pack_into(self.bytes, offset, word)

    def word(self, offset: int) -> int:
        """Return the 8 bytes at ``offset``, as an unsigned number."""
        return _WORD.unpack_from(self.bytes, offset)[0]

    def call(self, offset: int, *arguments: int) -> None:
        """Call the function whose code is at ``offset``, with integers as its arguments.

        Other Python threads go on meanwhile.
        """
        kinds = [ctypes.c_uint64] * len(arguments)
        ctypes.CFUNCTYPE(None, *kinds)(self.run_at + offset)(*arguments)


@contextmanager
def code_memory(size: int) -> Generator[CodeMemory]:
    """Map ``size`` bytes of memory for machine code, and unmap it in the end.

    No thread may be executing in the memory when the body of the ``with`` statement ends.

    :raises InputError: the system allows this process no such memory.
    """
    libc = _libc()
    addresses: list[int] = []
    try:
        try:
            addresses.append(_map_one(libc, size))
        except OSError:
            _map_two(libc, size, addresses)
    except OSError as error:
        for address in addresses:
            libc.munmap(address, size)
        raise InputError(
            "litmus: the system allows this process no memory that it can write and execute"
            f" ({error.strerror}), by one mapping or by two; run it where no policy (SELinux,"
            " seccomp) forbids executable memory"
        ) from None
    buffer = (ctypes.c_char * size).from_address(addresses[0])
    view = memoryview(buffer).cast("B")
    try:
        yield CodeMemory(view, addresses[0], addresses[-1])
    finally:
        view.release()
        for address in addresses:
            libc.munmap(address, size)


def _libc() -> Any:
    """Return the C library of this process, with the types of what is called in it."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    )
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    return libc


def _map_one(libc: Any, size: int) -> int:
    """Map memory that is writable and executable, and return its address.

    :raises OSError: the system refuses.
    """
    protection = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    return _map(libc, size, protection, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)


def _map_two(libc: Any, size: int, addresses: list[int]) -> None:
    """Map one memory twice, and append the writable address and the executable one.

    :raises OSError: the system refuses. The addresses that it gave are in ``addresses``.
    """
    file = os.memfd_create("optprobe-litmus")
    try:
        os.truncate(file, size)
        for protection in (mmap.PROT_WRITE, mmap.PROT_EXEC):
            address = _map(libc, size, mmap.PROT_READ | protection, mmap.MAP_SHARED, file)
            addresses.append(address)  # It is there to be unmapped if the next one is refused.
    finally:
        os.close(file)


def _map(libc: Any, size: int, protection: int, flags: int, file: int) -> int:
    address = libc.mmap(None, size, protection, flags, file, 0)
    if address is None or address == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(address)
