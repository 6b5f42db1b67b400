"""The text of one control state: each byte of a write to live code is a step of its own (fetch
model ``coherent``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from arch_x86.text.space import TextSpace, TextWrite
from arch_x86.text.text_version import TextStore, TextVersion

__all__ = ("SteppedText",)


class _Nobody:
    """Fetch views follow when the state is chosen, not when it is made."""

    def text_written(self, write: TextWrite, version: TextVersion) -> None:
        """Nothing yet."""

    def require_fetched(self, version: TextVersion) -> None:
        """The vCPUs will fetch the state's text once the state is chosen."""


class SteppedText(TextSpace):
    """A text space that stops before each byte that a vCPU might fetch.

    :param private: whether an address belongs to slots and detour buffers: written whole, since
        nobody runs there yet, or any more.
    :param whole_batches: what ``stop_machine`` writes is one step, since nobody can look; NMIs can.
    :param point: called before each such byte with what is about to happen.
    :ivar log: the writes since it was last cleared.
    """

    def __init__(
        self,
        store: TextStore,
        private: Callable[[int], bool],
        point: Callable[[str], None],
        *,
        whole_batches: bool,
    ) -> None:
        super().__init__(store, _Nobody())
        self._private = private
        self._point = point
        self._whole = whole_batches
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

    def write_batch(self, writes: Sequence[TextWrite]) -> None:
        """In one step, or as if each were written on its own."""
        if self._whole:
            super().write_batch(writes)
            return
        for write in writes:
            self.write(write.addr, write.data, reason=write.reason, cpu=write.cpu)
