"""The text of one control state: each byte of a write to live code is a step of its own (fetch model ``coherent``)."""

from __future__ import annotations

from collections.abc import Callable

from arch_x86.text.space import TextSpace, TextWrite
from arch_x86.text.version import TextStore, TextVersion

__all__ = ("SteppedText",)


class _Nobody:
    """Fetch views follow when the state is chosen, not when it is made."""

    def text_written(self, write: TextWrite, version: TextVersion) -> None:
        """Nothing yet."""


class SteppedText(TextSpace):
    """A text space that stops before each byte that a vCPU might fetch.

    :param private: whether an address belongs to slots and detour buffers: written whole, since nobody runs there yet, or any more.
    :param point: called before each such byte with what is about to happen.
    :ivar log: the writes since it was last cleared.
    """

    def __init__(self, store: TextStore, private: Callable[[int], bool], point: Callable[[str], None]) -> None:
        super().__init__(store, _Nobody())
        self._private = private
        self._point = point
        self.log: list[TextWrite] = []
        self.listeners.append(self.log.append)

    def write(self, addr: int, data: bytes, *, reason: str, cpu: int | None = None) -> None:
        """Byte by byte, ascending, where code is live."""
        if self._private(addr):
            super().write(addr, data, reason=reason, cpu=cpu)
            return
        for offset in range(len(data)):
            part = f" (byte {offset + 1} of {len(data)})" if len(data) > 1 else ""
            self._point(f"write {reason}{part}")
            super().write(addr + offset, data[offset : offset + 1], reason=reason, cpu=cpu)
