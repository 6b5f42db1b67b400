"""Poke protocols: how bytes get into text that CPUs may be running. Answers to arch/x86/kernel/alternative.c (2.6.38 and 6.1).

A protocol is an object; a user may hand in another one with the same methods.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from arch_x86.isa.encode import INT3
from arch_x86.text.space import TextSpace, TextWrite

__all__ = ("MAX_POKE_BATCH", "CoreSync", "PokeProtocol", "StopMachine", "StopMachinePoke", "TextPokeBp", "TextPokeParam")

MAX_POKE_BATCH: Final = 256
"""Most text pokes that one stop_machine applies (MAX_OPTIMIZE_PROBES)."""


class StopMachine(Protocol):
    """Runs a function while every other CPU is parked."""

    def stop_machine(self, fn: Callable[[], None], why: str) -> None:
        """Park every vCPU at a quiescent point, run ``fn``, let them go on with synchronized fetch views."""
        ...


class CoreSync(Protocol):
    """Makes every CPU fetch what the text is now."""

    def text_poke_sync(self, why: str) -> None:
        """Interrupt every vCPU, at a boundary with IF set."""
        ...


@dataclass(frozen=True, slots=True)
class TextPokeParam:
    """One probe's jump going in or out (struct text_poke_param): the ``data`` for ``addr``, at most 5 bytes.

    ``target``: where a CPU goes on that meets the breakpoint which stands there meanwhile; None: whoever handles breakpoints decides.
    """

    addr: int
    data: bytes
    reason: str
    target: int | None = None


class PokeProtocol(Protocol):
    """What slots, arming, optimizing and unoptimizing ask for."""

    def text_poke(self, addr: int, data: bytes, reason: str) -> None:
        """Write bytes that nobody executes yet, or any more."""
        ...

    def text_poke_byte(self, addr: int, data: bytes, reason: str) -> None:
        """Write one byte that every CPU may see at any time: a breakpoint, or the first byte of an instruction under it."""
        ...

    def text_poke_jumps(self, params: Sequence[TextPokeParam]) -> None:
        """Turn breakpoints into jumps, so that no CPU runs a mixture of any."""
        ...

    def text_poke_breakpoints(self, params: Sequence[TextPokeParam]) -> None:
        """Turn jumps back into breakpoints with the original bytes behind them, so that no CPU runs a mixture of any."""
        ...

    def bp_target(self, addr: int) -> int | None:
        """Where a CPU goes on that hit the breakpoint at ``addr`` while the protocol is at work there; None: it is not."""
        ...


class StopMachinePoke:
    """2.6.38: one byte is written as it is, a jump, or a batch of at most :data:`MAX_POKE_BATCH`, under one ``stop_machine``."""

    def __init__(self, text: TextSpace, stopper: StopMachine) -> None:
        self._text = text
        self._stopper = stopper

    def text_poke(self, addr: int, data: bytes, reason: str) -> None:
        """No CPU has to be stopped."""
        self._text.write(addr, data, reason=reason)

    def text_poke_byte(self, addr: int, data: bytes, reason: str) -> None:
        """No CPU has to be stopped: the old or the new byte, both are whole."""
        self._text.write(addr, data, reason=reason)

    def text_poke_jumps(self, params: Sequence[TextPokeParam]) -> None:
        """One ``stop_machine``."""
        self._text_poke_smp_batch(params)

    def text_poke_breakpoints(self, params: Sequence[TextPokeParam]) -> None:
        """One ``stop_machine``."""
        self._text_poke_smp_batch(params)

    def bp_target(self, addr: int) -> int | None:
        """No CPU runs while the bytes change."""
        del addr
        return None

    def _text_poke_smp_batch(self, params: Sequence[TextPokeParam]) -> None:
        if not params:
            return
        if len(params) > MAX_POKE_BATCH:
            raise ValueError(f"a batch of {len(params)} pokes; at most {MAX_POKE_BATCH} go into one stop_machine")
        writes = [TextWrite(param.addr, param.data, None, param.reason) for param in params]
        self._stopper.stop_machine(lambda: self._text.write_batch(writes), f"text_poke_smp_batch of {len(params)}")


class TextPokeBp:
    """6.1: each jump goes in behind a breakpoint, while the CPUs run (text_poke_bp): breakpoint, sync, tail, sync, first byte, sync.

    A jump goes out in two steps: breakpoint, sync, tail, sync. The kprobes layer handles the hits in between, since the probe is there.
    """

    def __init__(self, text: TextSpace, syncer: CoreSync) -> None:
        self._text = text
        self._syncer = syncer
        self._at: TextPokeParam | None = None

    def text_poke(self, addr: int, data: bytes, reason: str) -> None:
        """No CPU has to know."""
        self._text.write(addr, data, reason=reason)

    def text_poke_byte(self, addr: int, data: bytes, reason: str) -> None:
        """One byte, and one sync."""
        self._write(addr, data, reason)

    def text_poke_jumps(self, params: Sequence[TextPokeParam]) -> None:
        """Three syncs each."""
        for param in params:
            self._at = param
            self._write(param.addr, INT3, f"{param.reason}: breakpoint")
            self._write(param.addr + 1, param.data[1:], f"{param.reason}: tail")
            self._write(param.addr, param.data[:1], f"{param.reason}: first byte")
            self._at = None

    def text_poke_breakpoints(self, params: Sequence[TextPokeParam]) -> None:
        """Two syncs each."""
        for param in params:
            self._write(param.addr, param.data[:1], f"{param.reason}: breakpoint")
            self._write(param.addr + 1, param.data[1:], f"{param.reason}: tail")

    def bp_target(self, addr: int) -> int | None:
        """The jump's destination, while it is going in at ``addr``."""
        return self._at.target if self._at is not None and self._at.addr == addr else None

    def _write(self, addr: int, data: bytes, reason: str) -> None:
        self._text.write(addr, data, reason=reason)
        self._syncer.text_poke_sync(reason)
