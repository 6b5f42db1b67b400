"""The text of a machine and its one writer. Each write names its bytes, its CPU and its reason.

What other CPUs fetch after a write is the fetch model's business (:class:`FetchPort`); this module keeps the architectural text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from arch_x86.text.version import PAGE_SIZE, TextStore, TextVersion
from engine.errors import EngineBug

__all__ = ("FetchPort", "TextSpace", "TextWrite")


@dataclass(frozen=True, slots=True)
class TextWrite:
    """One write of guest code: ``data`` at ``addr`` for ``reason``, by ``cpu`` (None: by a control task, on no vCPU)."""

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
    """Current text, over a :class:`TextStore`. ``writes`` counts them; ``listeners`` are called after each one."""

    def __init__(self, store: TextStore, port: FetchPort) -> None:
        self.store = store
        self.current = store.initial
        self.writes = 0
        self.listeners: list[Callable[[TextWrite], None]] = []
        self._port = port

    def read(self, addr: int, size: int) -> bytes:
        """``size`` bytes of the current text, ending early where text ends."""
        return self.store.read(self.current, addr, size)

    def add_page(self, vpn: int, content: bytes) -> None:
        """Make one page more of text, such as a page of instruction slots: 4096 bytes at virtual page ``vpn``."""
        self.current = self.store.extend(self.current, vpn, content)
        self._port.text_written(TextWrite(vpn * PAGE_SIZE, content, None, "new text page"), self.current)

    def write(self, addr: int, data: bytes, *, reason: str, cpu: int | None = None) -> None:
        """Change the text. A write that leaves the text as it is makes no new version but is still an event."""
        self._check(addr, data, reason)
        self._publish(self.store.write(self.current, addr, data), TextWrite(addr, data, cpu, reason))

    def write_batch(self, writes: Sequence[TextWrite]) -> None:
        """Many writes of which nobody fetches an intermediate state, because every CPU is parked: one new version."""
        for write in writes:
            self._check(write.addr, write.data, write.reason)
        version = self.store.write_many(self.current, ((write.addr, write.data) for write in writes))
        self._publish(version, *writes)

    def _check(self, addr: int, data: bytes, reason: str) -> None:
        if not self.store.covers(addr, len(data)):
            raise EngineBug(f"text write outside text: {len(data)} bytes at {addr:#x} ({reason})")

    def _publish(self, version: TextVersion, *writes: TextWrite) -> None:
        self.current = version
        self.writes += len(writes)
        for write in writes:
            self._port.text_written(write, version)
            for listener in self.listeners:
                listener(write)
