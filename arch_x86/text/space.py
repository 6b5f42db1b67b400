"""The text of a machine and its one writer. Each write names its bytes, its CPU and its reason.

What other CPUs fetch after a write is the fetch model's business (:class:`FetchPort`); this module
keeps the architectural text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from arch_x86.isa.constants import INT3, PAGE_SIZE
from arch_x86.text.version import TextStore, TextVersion
from engine.errors import EngineBug

__all__ = ("FetchPort", "TextSpace", "TextWrite")


@dataclass(frozen=True, slots=True)
class TextWrite:
    """One write of guest code: ``data`` at ``addr`` for ``reason``, by ``cpu`` (None: by a control
    task, on no vCPU).
    """

    addr: int
    data: bytes
    cpu: int | None
    reason: str


class FetchPort(Protocol):
    """Whoever decides what each vCPU fetches after a write."""

    def text_written(self, write: TextWrite, version: TextVersion) -> None:
        """``version`` is the architectural text from now on."""
        ...


class TextSpace:
    """Current text, over a :class:`TextStore`. ``writes`` counts them; ``listeners`` are called
    after each one.

    ``unloaded``: start and end of each piece that was taken away.
    """

    def __init__(self, store: TextStore, port: FetchPort) -> None:
        self.store = store
        self.current = store.initial
        self.writes = 0
        self.unloaded: dict[int, int] = {}
        self.listeners: list[Callable[[TextWrite], None]] = []
        self._port = port

    def read(self, addr: int, size: int) -> bytes:
        """``size`` bytes of the current text, ending early where text ends."""
        return self.store.read(self.current, addr, size)

    def add_page(self, vpn: int, content: bytes) -> None:
        """Make one page more of text, such as a page of instruction slots: 4096 bytes at virtual
        page ``vpn``.
        """
        self.current = self.store.extend(self.current, vpn, content)
        self._port.text_written(
            TextWrite(vpn * PAGE_SIZE, content, None, "new text page"), self.current
        )

    def remove_page(self, vpn: int) -> None:
        """Take a page of text away: nobody can execute or read it any more."""
        self.current = self.store.remove(self.current, vpn)
        self._port.text_written(
            TextWrite(vpn * PAGE_SIZE, b"", None, "text page given back"), self.current
        )

    def covers(self, addr: int, size: int) -> bool:
        """True when all of the ``size`` bytes from ``addr`` are text now."""
        return self.store.covers(self.current, addr, size)

    def unload(self, start: int, size: int) -> None:
        """The ``size`` bytes of text from ``start`` are gone, as with the module that they belong
        to: their pages, and what is left of the first and the last page, whose other part stays, is
        breakpoints.
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
        """``data`` is there again, at the ``start`` that was unloaded."""
        del self.unloaded[start]
        for vpn in range(start // PAGE_SIZE, -(-(start + len(data)) // PAGE_SIZE)):
            low, high = max(start, vpn * PAGE_SIZE), min(start + len(data), (vpn + 1) * PAGE_SIZE)
            if not self.covers(low, 1):
                self.add_page(vpn, INT3 * PAGE_SIZE)
            self.write(low, data[low - start : high - start], reason="loaded again")

    def is_unloaded(self, addr: int, size: int = 1) -> bool:
        """Any of the ``size`` bytes from ``addr`` lies in text that was unloaded."""
        return any(start < addr + size and addr < end for start, end in self.unloaded.items())

    def write(self, addr: int, data: bytes, *, reason: str, cpu: int | None = None) -> None:
        """Change the text. A write that leaves the text as it is makes no new version but is still
        an event.
        """
        self._check(addr, data, reason)
        self._publish(
            self.store.write(self.current, addr, data), TextWrite(addr, data, cpu, reason)
        )

    def write_batch(self, writes: Sequence[TextWrite]) -> None:
        """Many writes of which nobody fetches an intermediate state, because every CPU is parked:
        one new version.
        """
        for write in writes:
            self._check(write.addr, write.data, write.reason)
        version = self.store.write_many(
            self.current, ((write.addr, write.data) for write in writes)
        )
        self._publish(version, *writes)

    def _check(self, addr: int, data: bytes, reason: str) -> None:
        if not self.covers(addr, len(data)):
            raise EngineBug(f"text write outside text: {len(data)} bytes at {addr:#x} ({reason})")

    def _publish(self, version: TextVersion, *writes: TextWrite) -> None:
        self.current = version
        self.writes += len(writes)
        for write in writes:
            self._port.text_written(write, version)
            for listener in self.listeners:
                listener(write)
