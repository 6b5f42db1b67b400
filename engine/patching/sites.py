"""The record of a site: an address that gets probes, with the instructions that a jump there may replace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ("Site", "Where")

Where = Callable[[int], str]
"""Names an address as people do."""


@dataclass(slots=True)
class Site:
    """An address that gets probes.

    :ivar insns: the original instructions from there to behind what a jump may replace, by address.
    :ivar patches: first bytes of what a probe may put there: of a breakpoint, and of a jump.
    :ivar jumps: every jump that was ever prepared for it.
    :ivar probes: numbers of the scenario's probes there.
    """

    addr: int
    insns: dict[int, bytes]
    patches: bytes
    jumps: set[bytes] = field(default_factory=set[bytes])
    probes: set[int] = field(default_factory=set[int])

    @property
    def end(self) -> int:
        """The address behind its last instruction."""
        return max(addr + len(raw) for addr, raw in self.insns.items())

    def armed(self, fetched: bytes) -> bool:
        """``fetched`` at :attr:`addr` is a breakpoint or a jump of a probe."""
        return fetched != self.insns[self.addr][: len(fetched)] and fetched[0] in self.patches
