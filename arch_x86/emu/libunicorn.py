"""Unicorn's C library and its constants. This is the only module that imports unicorn.

The methods of Unicorn's Python binding cost 3 to 30 us a call; the same C functions, called with
prebuilt ctypes arrays, cost 0.2 to 1 us.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import (
    byref,
    c_int,
    c_int64,
    c_size_t,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
    cast,
)
from typing import Any, Final

import unicorn.unicorn_py3.unicorn as _binding  # pyright: ignore[reportMissingTypeStubs]
from unicorn import unicorn_const as uc_const  # pyright: ignore[reportMissingTypeStubs]
from unicorn import x86_const as x86  # pyright: ignore[reportMissingTypeStubs]

from engine.errors import EngineBug

__all__ = (
    "ASK_CALLBACK",
    "BLOCK_CALLBACK",
    "CODE_CALLBACK",
    "INTR_CALLBACK",
    "MEMORY_CALLBACK",
    "SYSCALL_CALLBACK",
    "UC_ERR_INSN_INVALID",
    "UC_OK",
    "check",
    "context_alloc",
    "context_free",
    "context_restore",
    "context_save",
    "context_size",
    "emu_start",
    "emu_stop",
    "find_block",
    "flush_translations",
    "hook_add",
    "hook_del",
    "host_address",
    "instance_close",
    "instance_open",
    "mem_map_ptr",
    "mem_unmap",
    "reg_read",
    "reg_read_batch",
    "reg_write",
    "reg_write_batch",
    "uc_const",
    "x86",
)

_LIB: Final[Any] = _binding.uclib  # pyright: ignore[reportUnknownMemberType]

Function = Callable[..., int]
"""A function of the library; it returns one of Unicorn's error codes."""


def _function(name: str, *arguments: type[Any]) -> Function:
    """Return the library's function ``name``, which is called without releasing the GIL.

    To release it costs more than most of these calls take.
    """
    pointer = cast(getattr(_LIB, name), c_void_p).value
    assert pointer is not None
    return ctypes.PYFUNCTYPE(c_int, *arguments)(pointer)


emu_start: Final = _function("uc_emu_start", c_void_p, c_uint64, c_uint64, c_uint64, c_size_t)
emu_stop: Final = _function("uc_emu_stop", c_void_p)
reg_read: Final = _function("uc_reg_read", c_void_p, c_int, c_void_p)
reg_write: Final = _function("uc_reg_write", c_void_p, c_int, c_void_p)
reg_read_batch: Final = _function("uc_reg_read_batch", c_void_p, c_void_p, c_void_p, c_int)
reg_write_batch: Final = _function("uc_reg_write_batch", c_void_p, c_void_p, c_void_p, c_int)
context_alloc: Final = _function("uc_context_alloc", c_void_p, c_void_p)
context_free: Final = _function("uc_context_free", c_void_p)
context_save: Final = _function("uc_context_save", c_void_p, c_void_p)
context_restore: Final = _function("uc_context_restore", c_void_p, c_void_p)
mem_map_ptr: Final = _function("uc_mem_map_ptr", c_void_p, c_uint64, c_size_t, c_uint32, c_void_p)
mem_unmap: Final = _function("uc_mem_unmap", c_void_p, c_uint64, c_size_t)
_open: Final = _function("uc_open", c_int, c_int, c_void_p)
_close: Final = _function("uc_close", c_void_p)

INTR_CALLBACK: Final = ctypes.CFUNCTYPE(None, c_void_p, c_uint32, c_void_p)
"""The C type of a hook of exceptions and software interrupts."""
SYSCALL_CALLBACK: Final = ctypes.CFUNCTYPE(None, c_void_p, c_void_p)
"""The C type of a hook of ``syscall`` and ``sysenter``."""
CODE_CALLBACK: Final = ctypes.CFUNCTYPE(None, c_void_p, c_uint64, c_uint32, c_void_p)
"""The C type of a hook of instructions."""
BLOCK_CALLBACK: Final = CODE_CALLBACK
"""The C type of a hook of blocks."""
ASK_CALLBACK: Final = ctypes.CFUNCTYPE(None)
"""The C type of a function without arguments, which :mod:`arch_x86.emu.host_code` calls."""
MEMORY_CALLBACK: Final = ctypes.CFUNCTYPE(None, c_void_p, c_int, c_uint64, c_int, c_int64, c_void_p)
"""The C type of a hook of loads and stores."""

UC_OK: Final = 0
UC_ERR_INSN_INVALID: Final = uc_const.UC_ERR_INSN_INVALID
_CTL_FLUSH_TB: Final = uc_const.UC_CTL_TB_FLUSH | (uc_const.UC_CTL_IO_WRITE << 30)
_CTL_FIND_BLOCK: Final = (
    uc_const.UC_CTL_TB_REQUEST_CACHE | (2 << 26) | (uc_const.UC_CTL_IO_READ_WRITE << 30)
)


class _Block(ctypes.Structure):
    """What the library says of a translated block (struct uc_tb)."""

    _fields_ = (("pc", c_uint64), ("icount", c_uint16), ("size", c_uint16))


def check(code: int, what: str) -> None:
    """Check the answer to a call of the library.

    :param code: the error code that the call has returned.
    :param what: the name of the call, for the message.
    :raises EngineBug: ``code`` is an error code.
    """
    if code != UC_OK:
        raise EngineBug(f"{what} failed: Unicorn error {code}")


def host_address(name: str) -> int:
    """Return the address in this process of the library's function ``name``."""
    address = cast(getattr(_LIB, name), c_void_p).value
    assert address is not None
    return address


def instance_open() -> int:
    """Make a bare x86-64 instance and return its handle."""
    handle = c_void_p()
    check(_open(uc_const.UC_ARCH_X86, uc_const.UC_MODE_64, byref(handle)), "uc_open")
    assert handle.value is not None
    return handle.value


def instance_close(handle: int) -> None:
    """Free an instance, whose handle must not be used any more."""
    _close(handle)


def context_size(handle: int) -> int:
    """Return the size in bytes of a saved CPU state."""
    return _LIB.uc_context_size(c_void_p(handle))


def flush_translations(handle: int) -> None:
    """Drop every block that the instance has translated (17 us)."""
    check(_LIB.uc_ctl(c_void_p(handle), c_int(_CTL_FLUSH_TB)), "uc_ctl_flush_tb")


def find_block(handle: int, address: int) -> tuple[int, int]:
    """Return the size in bytes and the number of instructions of the block at ``address``.

    It is the block that the instance would execute there in its present state. It is translated if
    it has not been.
    """
    block = _Block()
    code = _LIB.uc_ctl(c_void_p(handle), c_int(_CTL_FIND_BLOCK), c_uint64(address), byref(block))
    check(code, "uc_ctl_request_cache")
    return block.size, block.icount


def hook_add(
    handle: int,
    kind: int,
    callback: object,
    instruction: int | None,
    begin: int,
    end: int,
    data: int | None = None,
) -> int:
    """Add a hook and return its handle, for :func:`hook_del`. The caller keeps ``callback`` alive.

    :param kind: which hook, one of Unicorn's ``UC_HOOK_...``.
    :param instruction: of a ``UC_HOOK_INSN``, which instruction.
    :param begin: the first address that the hook is for.
    :param end: the last address that the hook is for; one below ``begin`` means every address.
    :param data: the callback's last argument.
    """
    hook = c_size_t()
    extra = () if instruction is None else (c_int(instruction),)
    code = _LIB.uc_hook_add(
        c_void_p(handle),
        byref(hook),
        c_int(kind),
        callback,
        c_void_p(data),
        c_uint64(begin),
        c_uint64(end),
        *extra,
    )
    check(code, "uc_hook_add")
    return hook.value


def hook_del(handle: int, hook: int) -> None:
    """Remove the hook with this handle from the instance."""
    check(_LIB.uc_hook_del(c_void_p(handle), c_size_t(hook)), "uc_hook_del")
