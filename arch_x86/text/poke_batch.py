"""Pokes of a whole pass behind shared core syncs. Answers to text_poke_bp_batch() in
arch/x86/kernel/alternative.c (6.1).

Linux pokes static calls and jump labels so; its kprobes poke one probe at a time
(:class:`arch_x86.text.poke.TextPokeBp`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from arch_x86.isa.constants import INT3
from arch_x86.text.poke import MAX_POKE_BATCH, CoreSync, TextPokeParam, require_sizes
from arch_x86.text.space import TextSpace
from engine.core.safety_steps import SafetyStep
from engine.errors import EngineBug

__all__ = ("TextPokeBpBatch",)

Batch = tuple[TextPokeParam, ...]


def _addr(param: TextPokeParam) -> int:
    return param.addr


def _first_bytes(batch: Batch) -> list[tuple[int, bytes]]:
    return [(param.addr, param.data[:1]) for param in batch]


def _tails(batch: Batch) -> list[tuple[int, bytes]]:
    return [(param.addr + 1, param.data[1:]) for param in batch]


class TextPokeBpBatch:
    """The protocol of ``next``. The jumps of a batch go in together: all breakpoints, sync, all
    tails, sync, all first bytes, sync, and one wait until no CPU reads the vector of the batch.

    Jumps go out in two steps: all breakpoints, sync, all tails, sync. The kprobes layer handles the
    hits of these breakpoints: their probes are in the table with OPTIMIZED set, so a hit goes on at
    the detour's copies, whatever bytes lie behind the breakpoint. Single bytes share a sync, too.

    :param without: safety steps left out, as of ``TextPokeBp``. Without ``bp-refs`` the vector is
        used again while a CPU that found its poke in it has not read it yet, and that CPU reads the
        poke that stands in its place.
    :param most: most pokes in a batch.
    """

    def __init__(
        self,
        text: TextSpace,
        syncer: CoreSync,
        without: frozenset[SafetyStep] = frozenset(),
        most: int = MAX_POKE_BATCH,
    ) -> None:
        self._text = text
        self._syncer = syncer
        self._without = without
        self._most = most
        self._busy = False
        self._vector: Batch = ()

    def text_poke(self, addr: int, data: bytes, reason: str) -> None:
        """Write the bytes; no CPU has to be synchronized."""
        self._text.write(addr, data, reason=reason)
        self._text.require_written([(addr, data)], reason)

    def text_poke_bytes(self, params: Sequence[TextPokeParam]) -> None:
        """Write the bytes, with one core sync behind each batch."""
        require_sizes(params, most=1)
        for batch in self._batches(params):
            for param in batch:
                self._text.write(param.addr, param.data, reason=param.reason)
            self._sync(batch, "bytes")
            self._require_written([(param.addr, param.data) for param in batch])

    def text_poke_jumps(self, params: Sequence[TextPokeParam]) -> None:
        """Write the jumps, with three core syncs a batch."""
        require_sizes(params)
        for batch in self._batches(params):
            if self._busy and SafetyStep.TEXT_MUTEX not in self._without:
                raise EngineBug(f"{batch[0].reason}: another batch of pokes is under way")
            self._vector, self._busy = batch, True
            if SafetyStep.BP_INT3_FIRST in self._without:
                for param in batch:
                    self._text.write(param.addr, param.data, reason=param.reason)
            else:
                for param in batch:
                    self._text.write(param.addr, INT3, reason=f"{param.reason}: breakpoint")
                self._sync(batch, "breakpoints", SafetyStep.BP_SYNC_1)
                for param in batch:
                    self._text.write(param.addr + 1, param.data[1:], reason=f"{param.reason}: tail")
                self._sync(batch, "tails", SafetyStep.BP_SYNC_2)
                for param in batch:
                    self._text.write(
                        param.addr, param.data[:1], reason=f"{param.reason}: first byte"
                    )
            self._sync(batch, "first bytes", SafetyStep.BP_SYNC_3)
            self._busy = False
            if SafetyStep.BP_REFS not in self._without:
                self._syncer.traps_over(f"text_poke_bp_batch of {len(batch)}: references")
                self._vector = ()
            self._require_written([*_tails(batch), *_first_bytes(batch)])

    def text_poke_breakpoints(self, params: Sequence[TextPokeParam]) -> None:
        """Write the breakpoints and the bytes behind them, with two core syncs a batch."""
        require_sizes(params)
        for batch in self._batches(params):
            for param in batch:
                self._text.write(param.addr, param.data[:1], reason=f"{param.reason}: breakpoint")
            self._sync(batch, "breakpoints", SafetyStep.UNOPT_SYNC_1)
            for param in batch:
                self._text.write(param.addr + 1, param.data[1:], reason=f"{param.reason}: tail")
            self._sync(batch, "tails", SafetyStep.UNOPT_SYNC_2)
            self._require_written([*_first_bytes(batch), *_tails(batch)])

    def bp_holds(self, addr: int) -> bool:
        """Return whether a jump of the batch under way is going in at ``addr``."""
        if not self._busy or SafetyStep.BP_HANDLER in self._without:
            return False
        index = self._place(addr)
        return index < len(self._vector) and self._vector[index].addr == addr

    def bp_poke(self, addr: int) -> TextPokeParam | None:
        """Return the poke at ``addr``; where the vector is another batch's by now, the poke that
        stands in its place.
        """
        return self._vector[min(self._place(addr), len(self._vector) - 1)] if self._vector else None

    @property
    def state(self) -> tuple[object, ...]:
        """The vector, and whether its batch is under way."""
        return (self._busy, self._vector)

    def _batches(self, params: Sequence[TextPokeParam]) -> list[Batch]:
        """Return ``params`` in batches, in the order of their addresses."""
        ordered = sorted(params, key=_addr)
        return [
            tuple(ordered[start : start + self._most])
            for start in range(0, len(ordered), self._most)
        ]

    def _place(self, addr: int) -> int:
        return bisect_left(self._vector, addr, key=_addr)

    def _require_written(self, writes: Sequence[tuple[int, bytes]]) -> None:
        self._text.require_written(writes, f"text_poke_bp_batch of {len(writes)} writes")

    def _sync(self, batch: Batch, what: str, step: SafetyStep | None = None) -> None:
        if step not in self._without:
            self._syncer.text_poke_sync(f"text_poke_bp_batch of {len(batch)}: {what}")
