"""The oracle of memory: what no unprobed call writes is at the end what it was at the start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.patching.oracles.oracle import Oracle
from engine.search.explorable import Violation, ViolationKind

__all__ = ("KeptMemory", "without")


class KeptMemory(Oracle):
    """Data in memory does not change, but for what calls may write.

    Calls may write their stacks and their buffers and, where they share data, what they were seen
    to write without probes. Where they share data and it is not known yet what they write, nothing
    is compared.
    """

    _kept: tuple[tuple[int, bytes], ...] = ()
    """The spans that have to stay as they are: the physical address and the content of each."""

    def start(self) -> None:
        """Work out which spans have to stay as they are."""
        now = self.now
        if now.unprobed.shares and now.orders is None:
            return
        written = now.orders.written if now.orders is not None else ()
        spans = [*(span for task in now.calls for span in now.port.memory.own(task)), *written]
        own = sorted((span.start, span.stop) for span in spans)
        self._kept = tuple(
            (begin, now.data.start[begin:end])
            for page in now.data.spans
            for begin, end in without(page, own)
        )

    def schedule_ended(self, waiting: Sequence[str]) -> Violation | None:
        """Report the first byte that has changed."""
        room = self.now.port.memory.room
        for begin, content in self._kept:
            if room[begin : begin + len(content)] != content:
                at = next(i for i, value in enumerate(content) if room[begin + i] != value)
                text = (
                    f"a byte that no unprobed call writes, at physical address {begin + at:#x}, has"
                    " changed"
                )
                return Violation(ViolationKind.WRONG_RESULT, None, None, text)
        return None


def without(page: tuple[int, int], own: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The parts of ``page`` that lie outside of the spans ``own``, which ascend."""
    at, end = page
    for begin, stop in own:
        if begin < end and stop > at:
            if begin > at:
                yield at, begin
            at = max(at, stop)
    if at < end:
        yield at, end
