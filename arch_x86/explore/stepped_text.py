"""The text of one control state, in which each byte that is written to live code is one step.

What the vCPUs fetch of it is decided by the fetch model (:mod:`engine.patching.fetches`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from arch_x86.text.space import TextSpace, TextWrite
from arch_x86.text.text_version import TextStore, TextVersion

__all__ = ("SteppedText",)


class _Nobody:
    """The receiver of text writes in an exploration, which does nothing.

    What the vCPUs fetch changes when a control state is chosen, not when it is made.
    """

    def text_written(self, write: TextWrite, version: TextVersion) -> None:
        """Ignore the write: the vCPUs fetch ``version`` once its control state is chosen."""

    def require_fetched(self, version: TextVersion) -> None:
        """Check nothing: the vCPUs will fetch the state's text once the state is chosen."""


class SteppedText(TextSpace):
    """A text space that stops before it writes a byte that a vCPU might fetch.

    :param private: whether an address belongs to slots and detour buffers. These are written whole,
        since no vCPU runs there before the write ends.
    :param whole_batches: what ``stop_machine`` writes is one step, since no vCPU runs meanwhile. It
        is not one step where NMIs can come.
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
        """Write ``data`` in ascending order, with a point before each byte of live code."""
        if self._private(addr):
            super().write(addr, data, reason=reason, cpu=cpu)
            return
        for offset in range(len(data)):
            part = f" (byte {offset + 1} of {len(data)})" if len(data) > 1 else ""
            self._point(f"write {reason}{part}")
            super().write(addr + offset, data[offset : offset + 1], reason=reason, cpu=cpu)

    def store_once(self, addr: int, data: bytes, *, reason: str) -> None:
        """Write ``data`` by one store, with a point before it where it is live code."""
        if not self._private(addr):
            size = f" ({len(data)} bytes at once)" if len(data) > 1 else ""
            self._point(f"write {reason}{size}")
        super().store_once(addr, data, reason=reason)

    def write_batch(self, writes: Sequence[TextWrite]) -> None:
        """Write all of ``writes`` in one step, or one by one if batches are not whole."""
        if self._whole:
            super().write_batch(writes)
            return
        for write in writes:
            self.write(write.addr, write.data, reason=write.reason, cpu=write.cpu)
