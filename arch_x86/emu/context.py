"""Saved CPU states of Unicorn instances."""

from __future__ import annotations

from ctypes import byref, c_void_p

from arch_x86.emu.libunicorn import check, context_alloc, context_free, context_size

__all__ = ("Context",)


class Context:
    """Room for one saved CPU state of any instance, which is freed when the object is collected.

    :param handle: the instance that the room is asked of.
    :ivar pointer: the address of the room.
    :ivar size: the size of the room in bytes.
    """

    __slots__ = ("pointer", "size")

    def __init__(self, handle: int) -> None:
        pointer = c_void_p()
        check(context_alloc(handle, byref(pointer)), "uc_context_alloc")
        assert pointer.value is not None
        self.pointer: int = pointer.value
        self.size = context_size(handle)

    def __del__(self) -> None:
        if getattr(self, "pointer", 0):
            context_free(self.pointer)
            self.pointer = 0
