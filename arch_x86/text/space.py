"""The text of a machine and its one writer. Each write names its bytes, its CPU and its reason.

This module keeps the text as the architecture defines it. What other CPUs fetch after a write, the
fetch model decides (:class:`FetchPort`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from arch_x86.isa.constants import INT3, PAGE_SIZE
from arch_x86.text.text_version import TextStore, TextVersion
from engine.brief import count
from engine.errors import EngineBug

__all__ = ("STORE_SIZES", "FetchPort", "TextSpace", "TextWrite")

STORE_SIZES: Final = (1, 2, 4, 8, 16)
"""The bytes that one store instruction may have; SSE has stores of 16 bytes."""


@dataclass(frozen=True, slots=True)
class TextWrite:
    """One write of guest code: ``data`` at ``addr``.

    :ivar cpu: the vCPU that writes; None: a control task does, which runs on no vCPU.
    :ivar reason: why, in a few words, for a timeline.
    """

    addr: int
    data: bytes
    cpu: int | None
    reason: str


class FetchPort(Protocol):
    """The fetch model: it decides what each vCPU fetches after a write."""

    def text_written(self, write: TextWrite, version: TextVersion) -> None:
        """Take note that ``write`` has made ``version`` the text."""
        ...

    def require_fetched(self, version: TextVersion) -> None:
        """Raise EngineBug unless every vCPU fetches ``version``, or will when it runs."""
        ...


class TextSpace:
    """The text as it is now, over a :class:`TextStore`.

    :ivar store: makes the versions.
    :ivar current: the version that is the text now.
    :ivar writes: how many writes there were.
    :ivar unloaded: the end of each piece that was taken away, by its start.
    :ivar listeners: are called with each write after it was made.
    """

    def __init__(self, store: TextStore, port: FetchPort) -> None:
        self.store = store
        self.current = store.initial
        self.writes = 0
        self.unloaded: dict[int, int] = {}
        self.listeners: list[Callable[[TextWrite], None]] = []
        self._port = port

    def read(self, addr: int, size: int) -> bytes:
        """Return ``size`` bytes of the current text, or less where text ends."""
        return self.store.read(self.current, addr, size)

    def add_page(self, vpn: int, content: bytes) -> None:
        """Make one more page of text, such as a page of instruction slots: 4096 bytes at virtual
        page ``vpn``.
        """
        self.current = self.store.extend(self.current, vpn, content)
        self._port.text_written(
            TextWrite(vpn * PAGE_SIZE, content, None, "new text page"), self.current
        )

    def remove_page(self, vpn: int) -> None:
        """Take a page of text away: no vCPU can execute or read it any more."""
        self.current = self.store.remove(self.current, vpn)
        self._port.text_written(
            TextWrite(vpn * PAGE_SIZE, b"", None, "text page given back"), self.current
        )

    def covers(self, addr: int, size: int) -> bool:
        """Return whether all of the ``size`` bytes from ``addr`` are text now."""
        return self.store.covers(self.current, addr, size)

    def unload(self, start: int, size: int) -> None:
        """Take the ``size`` bytes of text from ``start`` away, as they go with the module that they
        belong to. Whole pages are removed. In a first and a last page that holds other text, too,
        the bytes become breakpoints.
        """
        self.unloaded[start] = start + size
        for vpn in range(start // PAGE_SIZE, -(-(start + size) // PAGE_SIZE)):
            low, high = max(start, vpn * PAGE_SIZE), min(start + size, (vpn + 1) * PAGE_SIZE)
            if not self.covers(low, 1):
                continue
            if high - low == PAGE_SIZE:
                self.remove_page(vpn)
            else:
                self.write(low, INT3 * (high - low), reason="unloaded")

    def load(self, start: int, data: bytes) -> None:
        """Put ``data`` at ``start``, where text was unloaded."""
        del self.unloaded[start]
        for vpn in range(start // PAGE_SIZE, -(-(start + len(data)) // PAGE_SIZE)):
            low, high = max(start, vpn * PAGE_SIZE), min(start + len(data), (vpn + 1) * PAGE_SIZE)
            if not self.covers(low, 1):
                self.add_page(vpn, INT3 * PAGE_SIZE)
            self.write(low, data[low - start : high - start], reason="loaded again")

    def is_unloaded(self, addr: int, size: int = 1) -> bool:
        """Return whether any of the ``size`` bytes from ``addr`` lies in text that was unloaded."""
        return any(start < addr + size and addr < end for start, end in self.unloaded.items())

    def write(self, addr: int, data: bytes, *, reason: str, cpu: int | None = None) -> None:
        """Change the text. A write that leaves the text as it is makes no new version, and
        listeners are told of it all the same.

        :raises EngineBug: not all of the bytes are text.
        """
        self._check(addr, data, reason)
        self._publish(
            self.store.write(self.current, addr, data), TextWrite(addr, data, cpu, reason)
        )

    def store_once(self, addr: int, data: bytes, *, reason: str) -> None:
        """Change the text by one store instruction of 1, 2, 4, 8 or 16 bytes.

        :raises EngineBug: not all of the bytes are text, or no store has as many bytes.
        """
        if len(data) not in STORE_SIZES:
            raise EngineBug(f"{reason}: a store of {len(data)} bytes; it has 1, 2, 4, 8 or 16")
        self._check(addr, data, reason)
        self._publish(
            self.store.write(self.current, addr, data), TextWrite(addr, data, None, reason)
        )

    def write_batch(self, writes: Sequence[TextWrite]) -> None:
        """Make one new version by several writes, while every CPU is parked: no vCPU fetches what
        a part of the writes leaves.

        :raises EngineBug: not all of the bytes are text.
        """
        for write in writes:
            self._check(write.addr, write.data, write.reason)
        version = self.store.write_many(
            self.current, ((write.addr, write.data) for write in writes)
        )
        self._publish(version, *writes)

    def require_written(self, writes: Sequence[tuple[int, bytes]], reason: str) -> None:
        """Raise EngineBug unless the text holds what ``writes`` (address, bytes), one after the
        other, leave, and every vCPU fetches the text as it is now. The kernel looks whether the
        bytes are there, too (__text_poke() in arch/x86/kernel/alternative.c).

        Two writes may overlap: probes that a kernel lets collide are for the oracles to find.
        """
        for addr, data in writes:
            if self.read(addr, len(data)) != data:
                self._require_overwritten(addr, data, writes, reason)
        self._port.require_fetched(self.current)

    def _require_overwritten(
        self, addr: int, data: bytes, writes: Sequence[tuple[int, bytes]], reason: str
    ) -> None:
        """Raise EngineBug unless later ones of ``writes`` have put other bytes over ``data``, and
        these are there.
        """
        left = {at + i: byte for at, some in writes for i, byte in enumerate(some)}
        expected = bytes([left[addr + i] for i in range(len(data))])
        found = self.read(addr, len(data))
        if found != expected:
            raise EngineBug(
                f"{reason}: {found.hex()} at {addr:#x} behind a poke of {expected.hex()}"
            )

    def require_breakpoint(self, addr: int, reason: str) -> None:
        """Raise EngineBug unless a breakpoint stands at ``addr``: the bytes behind it are about to
        change, and no CPU may come by there.
        """
        found = self.read(addr, 1)
        if found != INT3:
            raise EngineBug(f"{reason}: {found.hex()} at {addr:#x}, not a breakpoint")

    def _check(self, addr: int, data: bytes, reason: str) -> None:
        if not self.covers(addr, len(data)):
            size = count(len(data), "byte")
            raise EngineBug(f"text write outside text: {size} at {addr:#x} ({reason})")

    def _publish(self, version: TextVersion, *writes: TextWrite) -> None:
        self.current = version
        self.writes += len(writes)
        for write in writes:
            self._port.text_written(write, version)
            for listener in self.listeners:
                listener(write)
        if self.current is not version:
            raise EngineBug(f"text was written while a write was told of ({writes[0].reason})")
