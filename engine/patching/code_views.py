"""What the port must offer of the code that vCPUs fetch (:mod:`engine.patching.fetches`).

It is a part of :class:`engine.patching.port.TextPort`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from engine.patching.control_side import TextVersion

__all__ = ("CodeViews",)


class CodeViews(Protocol):
    """This port offers the bytes of the text, and lets a vCPU fetch other ones."""

    def fetched(self, cpu: int, addr: int, size: int) -> bytes:
        """Return the bytes that the vCPU would fetch at ``addr``."""
        ...

    def fetch_as(self, cpu: int, addr: int, insn: bytes) -> None:
        """Let the vCPU fetch ``insn`` at ``addr`` in place of the text that is shown.

        Without bytes the vCPU fetches the text that is shown again.
        """
        ...

    def insn_size(self, data: bytes, addr: int) -> int:
        """Return the size in bytes of the instruction at ``addr`` that ``data`` begins with.

        It is 1 if no instruction begins so.
        """
        ...

    def is_synchronizing(self, data: bytes, addr: int) -> bool:
        """Return whether the instruction that ``data`` begins with synchronizes fetches."""
        ...

    def synchronizing(self) -> Iterable[int]:
        """Return the addresses of the instructions of the program that synchronize fetches."""
        ...

    def read(self, version: TextVersion, addr: int, size: int) -> bytes:
        """Return the bytes at ``addr`` in ``version``."""
        ...

    @property
    def slots(self) -> range:
        """Return the part of :attr:`buffers` that vCPUs enter by the return from a trap alone."""
        ...
