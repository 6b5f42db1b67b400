"""The record of a site: its address, and the instructions that a jump there may replace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ("Site", "Where")

Where = Callable[[int], str]
"""Such a function returns the name of an address for people."""


@dataclass(slots=True)
class Site:
    """A site is an address that gets probes.

    :ivar addr: the address.
    :ivar insns: the original instructions from there to behind what a jump may replace, by
        address.
    :ivar patches: the first bytes of what a probe may put there: those of a breakpoint and of a
        jump.
    :ivar jumps: the jumps that were prepared for the site so far.
    :ivar probes: the numbers of the scenario's probes there.
    :ivar calls: the calls of ftrace that were prepared for the site so far.
    """

    addr: int
    insns: dict[int, bytes]
    patches: bytes
    jumps: set[bytes] = field(default_factory=set[bytes])
    probes: set[int] = field(default_factory=set[int])
    calls: set[bytes] = field(default_factory=set[bytes])

    @property
    def end(self) -> int:
        """Return the address behind the site's last instruction."""
        return max(addr + len(raw) for addr, raw in self.insns.items())

    def armed(self, fetched: bytes) -> bool:
        """Return whether ``fetched`` is a probe's breakpoint, its jump, or its call of ftrace.

        :param fetched: as many bytes from the site as the longest patch has.
        """
        original = self.insns[self.addr]
        return not fetched.startswith(original[: len(fetched)]) and (
            fetched[0] in self.patches or self.calls_ftrace(fetched)
        )

    def calls_ftrace(self, fetched: bytes) -> bool:
        """Return whether ``fetched`` begins with a call of ftrace."""
        return any(map(fetched.startswith, self.calls))
