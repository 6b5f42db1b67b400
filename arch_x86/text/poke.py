"""Poke protocols: how bytes get into text that CPUs may be running. Answers to
arch/x86/kernel/alternative.c (2.6.38 and 6.1).

A protocol is an object, and a user may give another one with the same methods: ``poke=`` of a
workbench, a check or a scenario takes what makes it (:data:`PokeFactory`). docs/api.md has an
example.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, runtime_checkable

from arch_x86.isa.constants import INT3
from arch_x86.text.space import TextSpace, TextWrite
from engine.core.safety_steps import SafetyStep

__all__ = (
    "MAX_POKE_BATCH",
    "CoreSync",
    "PokeFactory",
    "PokeProtocol",
    "StopMachine",
    "StopMachinePoke",
    "TextControl",
    "TextPokeBp",
    "TextPokeParam",
)

MAX_POKE_BATCH: Final = 256
"""Most text pokes that one stop_machine applies (MAX_OPTIMIZE_PROBES), or that share their core
syncs (TP_VEC_MAX).
"""


class StopMachine(Protocol):
    """Runs a function while every other CPU is parked."""

    def stop_machine(self, fn: Callable[[], None], why: str) -> None:
        """Park every vCPU at a quiescent point, run ``fn``, let them go on with synchronized fetch
        views.
        """
        ...


class CoreSync(Protocol):
    """Makes every CPU fetch what the text is now."""

    def text_poke_sync(self, why: str) -> None:
        """Interrupt every vCPU, at a boundary with IF set."""
        ...

    def traps_over(self, why: str) -> None:
        """Wait until no CPU reads the descriptor of a poke any more."""
        ...


class TextControl(StopMachine, CoreSync, Protocol):
    """What of the control plane a poke protocol may use."""


@dataclass(frozen=True, slots=True)
class TextPokeParam:
    """One probe's jump, call or breakpoint going in or out (struct text_poke_param): the ``data``
    for ``addr``, at most 6 bytes.

    ``target``: where a CPU goes on that meets the breakpoint which stands there meanwhile; None:
    whoever handles breakpoints decides. ``returns``: what is pushed first, as the new instruction
    is a call; None: nothing.
    """

    addr: int
    data: bytes
    reason: str
    target: int | None = None
    returns: int | None = None


@runtime_checkable
class PokeProtocol(Protocol):
    """What slots, arming, optimizing and unoptimizing ask for."""

    def text_poke(self, addr: int, data: bytes, reason: str) -> None:
        """Write bytes that nobody executes yet, or any more."""
        ...

    def text_poke_bytes(self, params: Sequence[TextPokeParam]) -> None:
        """Write single bytes that every CPU may see at any time: breakpoints, or the first bytes of
        the instructions under them.
        """
        ...

    def text_poke_jumps(self, params: Sequence[TextPokeParam]) -> None:
        """Turn breakpoints into jumps, or other whole instructions into such, so that no CPU runs a
        mixture of any.
        """
        ...

    def text_poke_breakpoints(self, params: Sequence[TextPokeParam]) -> None:
        """Turn jumps back into breakpoints with the original bytes behind them, so that no CPU runs
        a mixture of any.
        """
        ...

    def bp_holds(self, addr: int) -> bool:
        """The protocol is at work at ``addr``, and the breakpoint there is its own."""
        ...

    def bp_poke(self, addr: int) -> TextPokeParam | None:
        """What says how a CPU goes on that hit the one at ``addr``."""
        ...

    @property
    def state(self) -> tuple[object, ...]:
        """All that these answers depend on. An exploration takes two states for one where this
        prints alike (``repr``).
        """
        ...


PokeFactory: TypeAlias = Callable[[TextSpace, TextControl, frozenset[SafetyStep]], PokeProtocol]
"""Makes a protocol: ``factory(text, plane, without)``, where ``text.write`` stores bytes, ``plane``
stops or synchronizes the CPUs, and ``without`` are the safety steps to leave out. The class of a
protocol is one. An exploration makes a protocol for each control state.
"""


class StopMachinePoke:
    """2.6.38: one byte is written as it is, a jump, or a batch of at most :data:`MAX_POKE_BATCH`,
    under one ``stop_machine``.

    :param without: safety steps left out: ``stop-machine``, the jump is written while the CPUs run.
    """

    def __init__(
        self, text: TextSpace, stopper: StopMachine, without: frozenset[SafetyStep] = frozenset()
    ) -> None:
        self._text = text
        self._stopper = stopper
        self._stops = SafetyStep.STOP_MACHINE not in without

    def text_poke(self, addr: int, data: bytes, reason: str) -> None:
        """No CPU has to be stopped."""
        self._text.write(addr, data, reason=reason)

    def text_poke_bytes(self, params: Sequence[TextPokeParam]) -> None:
        """No CPU has to be stopped: the old or the new byte, both are whole."""
        for param in params:
            self._text.write(param.addr, param.data, reason=param.reason)

    def text_poke_jumps(self, params: Sequence[TextPokeParam]) -> None:
        """One ``stop_machine``."""
        self._text_poke_smp_batch(params)

    def text_poke_breakpoints(self, params: Sequence[TextPokeParam]) -> None:
        """One ``stop_machine``."""
        self._text_poke_smp_batch(params)

    def bp_holds(self, addr: int) -> bool:
        """No CPU runs while the bytes change."""
        del addr
        return False

    def bp_poke(self, addr: int) -> TextPokeParam | None:
        """Nobody asks."""
        del addr
        return None

    @property
    def state(self) -> tuple[object, ...]:
        """Nothing is kept."""
        return ()

    def _text_poke_smp_batch(self, params: Sequence[TextPokeParam]) -> None:
        if not params:
            return
        if len(params) > MAX_POKE_BATCH:
            raise ValueError(
                f"a batch of {len(params)} pokes; at most {MAX_POKE_BATCH} go into one stop_machine"
            )
        writes = [TextWrite(param.addr, param.data, None, param.reason) for param in params]
        if self._stops:
            self._stopper.stop_machine(
                lambda: self._text.write_batch(writes), f"text_poke_smp_batch of {len(params)}"
            )
            return
        for write in writes:
            self._text.write(write.addr, write.data, reason=write.reason)


class TextPokeBp:
    """6.1: each jump goes in behind a breakpoint, while the CPUs run (text_poke_bp): breakpoint,
    sync, tail, sync, first byte, sync.

    A jump goes out in two steps: breakpoint, sync, tail, sync. The kprobes layer handles the hits
    in between, since the probe is there.

    :param without: safety steps left out: ``bp-int3-first``, ``bp-sync-1`` to ``-3``,
        ``bp-handler``, ``bp-refs`` (the descriptor of a poke is used for the next one while a CPU
        still reads it), ``unopt-sync-1``, ``unopt-sync-2``.
    """

    def __init__(
        self, text: TextSpace, syncer: CoreSync, without: frozenset[SafetyStep] = frozenset()
    ) -> None:
        self._text = text
        self._syncer = syncer
        self._without = without
        self._at: TextPokeParam | None = None
        self._last: TextPokeParam | None = None

    def text_poke(self, addr: int, data: bytes, reason: str) -> None:
        """No CPU has to know."""
        self._text.write(addr, data, reason=reason)

    def text_poke_bytes(self, params: Sequence[TextPokeParam]) -> None:
        """One sync each."""
        for param in params:
            self._write(param.addr, param.data, param.reason)

    def text_poke_jumps(self, params: Sequence[TextPokeParam]) -> None:
        """Three syncs each."""
        for param in params:
            self._at = self._last = param
            if SafetyStep.BP_INT3_FIRST in self._without:
                self._write(param.addr, param.data, param.reason, SafetyStep.BP_SYNC_3)
            else:
                self._write(param.addr, INT3, f"{param.reason}: breakpoint", SafetyStep.BP_SYNC_1)
                self._write(
                    param.addr + 1, param.data[1:], f"{param.reason}: tail", SafetyStep.BP_SYNC_2
                )
                self._write(
                    param.addr, param.data[:1], f"{param.reason}: first byte", SafetyStep.BP_SYNC_3
                )
            self._at = None
            if SafetyStep.BP_REFS not in self._without:
                self._syncer.traps_over(f"{param.reason}: references")

    def text_poke_breakpoints(self, params: Sequence[TextPokeParam]) -> None:
        """Two syncs each."""
        for param in params:
            self._write(
                param.addr, param.data[:1], f"{param.reason}: breakpoint", SafetyStep.UNOPT_SYNC_1
            )
            self._write(
                param.addr + 1, param.data[1:], f"{param.reason}: tail", SafetyStep.UNOPT_SYNC_2
            )

    def bp_holds(self, addr: int) -> bool:
        """A jump, or another whole instruction, is going in at ``addr``."""
        return (
            self._at is not None
            and self._at.addr == addr
            and SafetyStep.BP_HANDLER not in self._without
        )

    def bp_poke(self, addr: int) -> TextPokeParam | None:
        """The poke that has the descriptor now, or had it last, wherever that was."""
        del addr
        return self._last

    @property
    def state(self) -> tuple[object, ...]:
        """The descriptor, and the last one."""
        return (self._at, self._last)

    def _write(self, addr: int, data: bytes, reason: str, sync: SafetyStep | None = None) -> None:
        self._text.write(addr, data, reason=reason)
        if sync not in self._without:
            self._syncer.text_poke_sync(reason)
