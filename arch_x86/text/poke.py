"""Poke protocols: how bytes get into text that CPUs may be running. Answers to arch/x86/kernel/alternative.c (2.6.38).

A protocol is an object; a user may hand in another one with the same methods.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from arch_x86.text.space import TextSpace, TextWrite

__all__ = ("MAX_POKE_BATCH", "PokeProtocol", "StopMachine", "StopMachinePoke", "TextPokeParam")

MAX_POKE_BATCH = 256
"""Most text pokes that one stop_machine applies (MAX_OPTIMIZE_PROBES)."""


class StopMachine(Protocol):
    """Runs a function while every other CPU is parked."""

    def stop_machine(self, fn: Callable[[], None], why: str) -> None:
        """Park every vCPU at a quiescent point, run ``fn``, let them go on with synchronized fetch views."""
        ...


@dataclass(frozen=True, slots=True)
class TextPokeParam:
    """One write of a batch (struct text_poke_param)."""

    addr: int
    data: bytes
    reason: str


class PokeProtocol(Protocol):
    """What arming, optimizing and unoptimizing ask for."""

    def text_poke(self, addr: int, data: bytes, reason: str) -> None:
        """Write one byte that every CPU may see at any time (an int3, or the first byte back)."""
        ...

    def text_poke_smp(self, addr: int, data: bytes, reason: str) -> None:
        """Write several bytes so that no CPU sees a mixture."""
        ...

    def text_poke_smp_batch(self, params: Sequence[TextPokeParam]) -> None:
        """Write many, so that no CPU sees a mixture of any."""
        ...


class StopMachinePoke:
    """The protocol of 2.6.38: one byte is written as it is, anything longer, or a batch, under one ``stop_machine``."""

    def __init__(self, text: TextSpace, stopper: StopMachine) -> None:
        self._text = text
        self._stopper = stopper

    def text_poke(self, addr: int, data: bytes, reason: str) -> None:
        """One byte (or bytes that nobody executes yet, such as a fresh slot): no CPU has to be stopped."""
        self._text.write(addr, data, reason=reason)

    def text_poke_smp(self, addr: int, data: bytes, reason: str) -> None:
        """Several bytes under a ``stop_machine`` of their own."""
        self.text_poke_smp_batch([TextPokeParam(addr, data, reason)])

    def text_poke_smp_batch(self, params: Sequence[TextPokeParam]) -> None:
        """All of ``params`` (at most :data:`MAX_POKE_BATCH`) under one ``stop_machine``."""
        if not params:
            return
        if len(params) > MAX_POKE_BATCH:
            raise ValueError(f"a batch of {len(params)} pokes; at most {MAX_POKE_BATCH} go into one stop_machine")

        writes = [TextWrite(param.addr, param.data, None, param.reason) for param in params]
        self._stopper.stop_machine(lambda: self._text.write_batch(writes), f"text_poke_smp_batch of {len(params)}")
