"""The record of a site: an address that gets probes, with the instructions that a jump there may
replace.
"""

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
    :ivar jumps: jumps that were prepared for it so far; ``calls``: calls of ftrace.
    :ivar probes: numbers of the scenario's probes there.
    """

    addr: int
    insns: dict[int, bytes]
    patches: bytes
    jumps: set[bytes] = field(default_factory=set[bytes])
    probes: set[int] = field(default_factory=set[int])
    calls: set[bytes] = field(default_factory=set[bytes])

    @property
    def end(self) -> int:
        """The address behind its last instruction."""
        return max(addr + len(raw) for addr, raw in self.insns.items())

    def armed(self, fetched: bytes) -> bool:
        """``fetched`` at :attr:`addr`, as long as the longest patch, is a breakpoint, a jump, or a
        call of ftrace of a probe.
        """
        original = self.insns[self.addr]
        return not fetched.startswith(original[: len(fetched)]) and (
            fetched[0] in self.patches or self.calls_ftrace(fetched)
        )

    def calls_ftrace(self, fetched: bytes) -> bool:
        """``fetched`` begins with ftrace's call."""
        return any(map(fetched.startswith, self.calls))
