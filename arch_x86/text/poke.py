"""Poke protocols: how bytes get into text that CPUs may be running. Answers to
arch/x86/kernel/alternative.c (2.6.38 and 6.1).

A protocol is an object, and a user may give another one with the same methods: ``poke=`` of a
workbench, a check or a scenario takes the function that makes it (:data:`PokeFactory`). docs/api.md
has an example.

Before, between and behind its writes each protocol here checks what must hold, and raises EngineBug
where it does not: that is a fault of the protocol or of its caller, whatever the CPUs do. What must
stand at a place before a poke is the core's to know, and in kernels with a safety step left out it
is not always there: oracles look for that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, runtime_checkable

from arch_x86.isa.constants import INT3
from arch_x86.isa.onward import Onward
from arch_x86.text.space import TextSpace, TextWrite
from engine.control.sync import Freeze
from engine.core.safety_steps import SafetyStep
from engine.errors import EngineBug

__all__ = (
    "MAX_POKE_BATCH",
    "POKE_SIZE_MAX",
    "CoreSync",
    "HandlerCrashError",
    "KernelStopError",
    "PokeFactory",
    "PokeProtocol",
    "StopMachine",
    "StopMachinePoke",
    "TextControl",
    "TextPokeBp",
    "TextPokeParam",
    "require_sizes",
)

MAX_POKE_BATCH: Final = 256
"""Most text pokes that one stop_machine applies (MAX_OPTIMIZE_PROBES), or that share their core
syncs (TP_VEC_MAX).
"""
POKE_SIZE_MAX: Final = 6
"""Most bytes of one text poke: an indirect call, which ftrace writes."""


class KernelStopError(Exception):
    """The kernel stops for good in its handler of breakpoints. The message says why."""


class HandlerCrashError(KernelStopError):
    """A handler of breakpoints, a poke's or a probe's, reads memory that has nothing for it."""


class StopMachine(Protocol):
    """Runs a function while every CPU is parked."""

    def stop_machine(self, fn: Callable[[], None], why: str) -> None:
        """Park every vCPU at a quiescent point, run ``fn``, and let the vCPUs go on, which then
        fetch the text as it is.
        """
        ...


class CoreSync(Protocol):
    """Makes every CPU fetch the text as it is now."""

    def text_poke_sync(self, why: str) -> None:
        """Interrupt every vCPU, at an instruction boundary where IF is set."""
        ...

    def traps_over(self, why: str) -> None:
        """Wait until no CPU reads the descriptor of an earlier poke any more."""
        ...


class TextControl(StopMachine, CoreSync, Protocol):
    """The part of the control plane that a poke protocol may use."""

    def text_poke_sync_deferrable(self, why: str) -> None:
        """Interrupt every vCPU but those in user mode, which synchronize when they leave it."""
        ...

    def synchronize_sched(self, why: str) -> None:
        """Wait until every vCPU has passed a quiescent point that began after now."""
        ...

    def synchronize_rcu_tasks(self, why: str) -> None:
        """Wait until every task has called schedule(), or ended its call, after now."""
        ...

    def freeze_tasks(self, freeze: Freeze, why: str) -> None:
        """Suspend every task where it stands."""
        ...

    def thaw_tasks(self, why: str) -> None:
        """Let the tasks go on that were suspended."""
        ...

    def hide_code(self, code: range, why: str) -> None:
        """Let CPUs fault at ``code``, and wait there, once they have taken a core sync."""
        ...

    def show_code(self, why: str) -> None:
        """Let CPUs execute that code again."""
        ...

    def allocate(self, why: str) -> None:
        """Wait until no task holds the allocator's lock."""
        ...


@dataclass(frozen=True, slots=True)
class TextPokeParam:
    """One probe's jump, call or breakpoint going in or out (struct text_poke_param).

    :ivar data: the bytes for ``addr``, at most :data:`POKE_SIZE_MAX`.
    :ivar reason: why, in a few words, for a timeline.
    :ivar goes_on: where a CPU goes on that meets the breakpoint which stands there meanwhile; None:
        the handler of breakpoints decides.
    """

    addr: int
    data: bytes
    reason: str
    goes_on: Onward | None = None


@runtime_checkable
class PokeProtocol(Protocol):
    """Writes text for those who fill slots, and arm, optimize and unoptimize probes."""

    def text_poke(self, addr: int, data: bytes, reason: str) -> None:
        """Write bytes that no CPU executes yet, or any more."""
        ...

    def text_poke_bytes(self, params: Sequence[TextPokeParam]) -> None:
        """Write single bytes that every CPU may see at any time: breakpoints, or the first bytes of
        the instructions under them.
        """
        ...

    def text_poke_jumps(self, params: Sequence[TextPokeParam]) -> None:
        """Turn breakpoints into jumps, or whole instructions into other ones, so that no CPU runs a
        mixture of the two.
        """
        ...

    def text_poke_breakpoints(self, params: Sequence[TextPokeParam]) -> None:
        """Turn jumps back into breakpoints with the original bytes behind them, so that no CPU runs
        a mixture of the two.
        """
        ...

    def bp_holds(self, addr: int) -> bool:
        """Return whether the protocol is at work at ``addr``, and the breakpoint there its own."""
        ...

    def bp_poke(self, addr: int) -> TextPokeParam | None:
        """Return the poke that says how a CPU goes on that hit its breakpoint at ``addr``.

        :returns: None, where the breakpoint turns out to be none of this protocol's.
        :raises HandlerCrashError: the handler reads what is not there, and the kernel stops.
        """
        ...

    @property
    def state(self) -> tuple[object, ...]:
        """Everything that these two answers depend on. An exploration takes two states for one
        where this prints alike (``repr``).
        """
        ...


PokeFactory: TypeAlias = Callable[[TextSpace, TextControl, frozenset[SafetyStep]], PokeProtocol]
"""Makes a protocol: ``factory(text, plane, without)``, where ``text.write`` stores bytes, ``plane``
stops or synchronizes the CPUs, and ``without`` are the safety steps to leave out. The class of a
protocol is such a factory. An exploration makes a protocol for each control state.
"""


def require_sizes(params: Sequence[TextPokeParam], most: int = POKE_SIZE_MAX) -> None:
    """Raise EngineBug where one of ``params`` has no bytes, or more than ``most``."""
    for param in params:
        if not 1 <= len(param.data) <= most:
            raise EngineBug(
                f"{param.reason}: a poke of {len(param.data)} bytes; it takes 1 to {most}"
            )


class StopMachinePoke:
    """The protocol of 2.6.38: a single byte is written while the CPUs run, and a batch of at most
    :data:`MAX_POKE_BATCH` jumps under one ``stop_machine``.

    :param without: safety steps left out. Without ``stop-machine`` jumps are written while the CPUs
        run.
    """

    def __init__(
        self, text: TextSpace, stopper: StopMachine, without: frozenset[SafetyStep] = frozenset()
    ) -> None:
        self._text = text
        self._stopper = stopper
        self._stops = SafetyStep.STOP_MACHINE not in without

    def text_poke(self, addr: int, data: bytes, reason: str) -> None:
        """Write the bytes; no CPU has to be stopped."""
        self._text.write(addr, data, reason=reason)
        self._text.require_written([(addr, data)], reason)

    def text_poke_bytes(self, params: Sequence[TextPokeParam]) -> None:
        """Write the bytes; no CPU has to be stopped, since the old byte and the new one each make a
        whole instruction.
        """
        require_sizes(params, most=1)
        for param in params:
            self._text.write(param.addr, param.data, reason=param.reason)
            self._text.require_written([(param.addr, param.data)], param.reason)

    def text_poke_jumps(self, params: Sequence[TextPokeParam]) -> None:
        """Write all of ``params`` under one ``stop_machine``."""
        self._text_poke_smp_batch(params)

    def text_poke_breakpoints(self, params: Sequence[TextPokeParam]) -> None:
        """Write all of ``params`` under one ``stop_machine``."""
        self._text_poke_smp_batch(params)

    def bp_holds(self, addr: int) -> bool:
        """Return False: no CPU runs while the bytes change, so none meets a breakpoint of this
        protocol.
        """
        del addr
        return False

    def bp_poke(self, addr: int) -> TextPokeParam | None:
        """Return None: no breakpoint is this protocol's."""
        del addr
        return None

    @property
    def state(self) -> tuple[object, ...]:
        """The protocol keeps nothing."""
        return ()

    def _text_poke_smp_batch(self, params: Sequence[TextPokeParam]) -> None:
        if not params:
            return
        if len(params) > MAX_POKE_BATCH:
            raise ValueError(
                f"a batch of {len(params)} pokes; at most {MAX_POKE_BATCH} go into one stop_machine"
            )
        require_sizes(params)
        writes = [TextWrite(param.addr, param.data, None, param.reason) for param in params]
        if self._stops:
            self._stopper.stop_machine(
                lambda: self._text.write_batch(writes), f"text_poke_smp_batch of {len(params)}"
            )
        else:
            for write in writes:
                self._text.write(write.addr, write.data, reason=write.reason)
        self._text.require_written(
            [(write.addr, write.data) for write in writes], f"text_poke_smp_batch of {len(params)}"
        )


class TextPokeBp:
    """The protocol of 6.1: each jump goes in behind a breakpoint, while the CPUs run
    (text_poke_bp). The order is breakpoint, sync, tail, sync, first byte, sync.

    A jump goes out in two steps: breakpoint, sync, tail, sync. The kprobes layer handles the hits
    of that breakpoint, since the probe is in the table.

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
        """Write the bytes; no CPU has to be synchronized."""
        self._text.write(addr, data, reason=reason)
        self._text.require_written([(addr, data)], reason)

    def text_poke_bytes(self, params: Sequence[TextPokeParam]) -> None:
        """Write each byte, with one core sync behind it."""
        require_sizes(params, most=1)
        for param in params:
            self._write(param.addr, param.data, param.reason)
            self._text.require_written([(param.addr, param.data)], param.reason)

    def text_poke_jumps(self, params: Sequence[TextPokeParam]) -> None:
        """Write each jump with three core syncs."""
        require_sizes(params)
        for param in params:
            if self._at is not None and SafetyStep.TEXT_MUTEX not in self._without:
                raise EngineBug(f"{param.reason}: the poke at {self._at.addr:#x} is under way")
            self._at = self._last = param
            if SafetyStep.BP_INT3_FIRST in self._without:
                self._write(param.addr, param.data, param.reason, SafetyStep.BP_SYNC_3)
            else:
                self._write(param.addr, INT3, f"{param.reason}: breakpoint", SafetyStep.BP_SYNC_1)
                self._text.require_breakpoint(param.addr, param.reason)
                self._write(
                    param.addr + 1, param.data[1:], f"{param.reason}: tail", SafetyStep.BP_SYNC_2
                )
                self._write(
                    param.addr, param.data[:1], f"{param.reason}: first byte", SafetyStep.BP_SYNC_3
                )
            self._at = None
            self._text.require_written([(param.addr, param.data)], param.reason)
            if SafetyStep.BP_REFS not in self._without:
                self._syncer.traps_over(f"{param.reason}: references")

    def text_poke_breakpoints(self, params: Sequence[TextPokeParam]) -> None:
        """Write each breakpoint and the bytes behind it with two core syncs."""
        require_sizes(params)
        for param in params:
            self._write(
                param.addr, param.data[:1], f"{param.reason}: breakpoint", SafetyStep.UNOPT_SYNC_1
            )
            self._text.require_breakpoint(param.addr, param.reason)
            self._write(
                param.addr + 1, param.data[1:], f"{param.reason}: tail", SafetyStep.UNOPT_SYNC_2
            )
            self._text.require_written([(param.addr, param.data)], param.reason)

    def bp_holds(self, addr: int) -> bool:
        """Return whether a jump, or another whole instruction, is going in at ``addr``."""
        return (
            self._at is not None
            and self._at.addr == addr
            and SafetyStep.BP_HANDLER not in self._without
        )

    def bp_poke(self, addr: int) -> TextPokeParam | None:
        """Return the poke that has the descriptor now, or had it last, at whatever address."""
        del addr
        return self._last

    @property
    def state(self) -> tuple[object, ...]:
        """The poke that has the descriptor now, and the last one that had it."""
        return (self._at, self._last)

    def _write(self, addr: int, data: bytes, reason: str, sync: SafetyStep | None = None) -> None:
        self._text.write(addr, data, reason=reason)
        if sync not in self._without:
            self._syncer.text_poke_sync(reason)
