"""What the machine asks of the kprobes layer: traps, detour buffers, ftrace's trampoline, that of
return probes.

:class:`arch_x86.emu.machine.TrapHandler` says what each method is asked for. Which piece of a hit
runs when is the business of
:mod:`arch_x86.probes.hit`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from arch_x86.probes.breakpoint import BreakpointHandler
from arch_x86.probes.ftrace import FtraceHandler
from arch_x86.probes.hit import Hit, HitPath
from arch_x86.probes.kretprobe import return_from_trampoline
from arch_x86.probes.optimized_hit import OptimizedHandler
from engine.core.safety_steps import SafetyStep
from engine.hit import HitKind

if TYPE_CHECKING:
    from arch_x86.probes.copies import Copies
    from arch_x86.probes.cpu_state import CpuState
    from arch_x86.probes.emulate import StackMemory
    from arch_x86.probes.ptregs import PtRegs
    from arch_x86.probes.stepping import Stepping
    from arch_x86.text.poke import PokeProtocol

__all__ = ("ProbeTraps",)

_INT3, _OPTIMIZED, _FTRACE = HitKind.INT3, HitKind.OPTIMIZED, HitKind.FTRACE


class ProbeTraps:
    """The traps of all CPUs.

    :param text_byte: reads one byte of the current text.
    :param trampoline: where functions with a return probe return to.
    :ivar hits: takes hits through their pieces.
    """

    def __init__(
        self,
        cpus: CpuState,
        stepping: Stepping,
        poke: PokeProtocol,
        memory: StackMemory,
        copies: Copies,
        trampoline: int,
        text_byte: Callable[[int], int | None],
    ) -> None:
        self._cpus = cpus
        self._memory = memory
        self._trampoline = trampoline
        self.breakpoints = BreakpointHandler(cpus, stepping, poke, memory, text_byte)
        self.hits = HitPath(
            self.breakpoints.way(),
            OptimizedHandler(cpus, cpus.profile).way(),
            FtraceHandler(cpus, self.breakpoints.handle).way(),
        )
        self._copies = copies

    # Hits -----------------------------------------------------------------------------------------

    def int3(self, cpu: int, regs: PtRegs) -> bool:
        """#BP. False: nobody's breakpoint.

        :raises ReentryError: a probe's, in the middle of a hit, where the kernel has no room for
            another one.
        """
        return self.hits.run(Hit(_INT3, cpu, regs))

    def optimized_callback(self, cpu: int, op_id: int, regs: PtRegs) -> None:
        """The detour buffer with this number calls."""
        self.hits.run(Hit(_OPTIMIZED, cpu, regs, op_id))

    def ftrace_caller(self, cpu: int, regs: PtRegs) -> None:
        """Ftrace's trampoline asks. ``regs.ip`` is where it will return to."""
        self.hits.run(Hit(_FTRACE, cpu, regs, regs.ip))

    def debug(self, cpu: int, regs: PtRegs) -> bool:
        """#DB. False: nobody was stepping."""
        return self.breakpoints.debug(cpu, regs)

    def fault(self, cpu: int, regs: PtRegs, vector: int) -> bool:
        """A fault. True: a fault_handler mended it."""
        return self.breakpoints.fault(cpu, regs, vector)

    def hit_in_progress(self, cpu: int) -> Any:
        """For :meth:`resume_hit`."""
        return self._cpus.hit_in_progress(cpu)

    def resume_hit(self, cpu: int, hit: Any) -> None:
        """What a handler on ``cpu`` has called since died."""
        self._cpus.resume_hit(cpu, hit)

    def handler_takes_interrupts(self, cpu: int) -> bool:
        """Whether the handler that runs on ``cpu``, if not behind a breakpoint, has IF as the
        interrupted code has it; else it is clear.
        """
        return self._cpus.handler_takes_interrupts(cpu)

    def original_ip(self, ip: int) -> int:
        """The probed instruction whose slot or detour buffer holds ``ip``; ``ip`` itself where none
        does.
        """
        return self._copies.original_ip(ip)

    # Return probes, and the ends of calls ---------------------------------------------------------

    def return_trampoline(self, cpu: int, regs: PtRegs) -> bool:
        """The trampoline asks. False: no call is open there."""
        cpus = self._cpus
        cpus.cpu = cpu
        cpus.returning[cpu] = True
        try:
            return return_from_trampoline(
                cpus.core.kretprobes, regs, self._memory, self._trampoline
            )
        finally:
            cpus.returning[cpu] = False

    def pending_return(self, cpu: int) -> int | None:
        """Where the innermost probed call on ``cpu`` will return to."""
        return self._cpus.core.kretprobes.pending_return(self._cpus.tasks[cpu])

    def call_died(self, cpu: int) -> None:
        """Whatever hit was in progress on ``cpu`` never ends."""
        self._cpus.call_died(cpu)

    def call_ended(self, cpu: int) -> None:
        """The call on ``cpu`` is over: what is still open there never returns, and no hit is in
        progress.
        """
        cpus = self._cpus
        if cpus.profile.has(SafetyStep.HANDLED_HIT_ENDS):
            cpus.call_died(cpu)
        cpus.core.kretprobes.flush_task(cpus.tasks[cpu])
