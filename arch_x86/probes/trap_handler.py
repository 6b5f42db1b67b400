"""This module has what the machine asks of kprobes on a trap (arch/x86/kernel/traps.c).

The machine asks on traps, and for detour buffers, ftrace's trampoline, and the trampoline of return
probes. :class:`arch_x86.emu.machine.TrapHandler` specifies each method; :mod:`arch_x86.probes.hit`
decides which piece of a hit runs when.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from arch_x86.probes.breakpoint import BreakpointHandler
from arch_x86.probes.ftrace import FtraceHandler
from arch_x86.probes.hit import Hit, HitPath
from arch_x86.probes.kretprobe_trampoline import return_from_trampoline
from arch_x86.probes.optimized_hit import OptimizedHandler
from engine.core.safety_steps import SafetyStep
from engine.hit_phases import HitKind

if TYPE_CHECKING:
    from arch_x86.probes.copies import Copies
    from arch_x86.probes.cpu_state import CpuState
    from arch_x86.probes.die_chain import DieChain
    from arch_x86.probes.emulate import StackMemory
    from arch_x86.probes.ptregs import PtRegs
    from arch_x86.probes.stepping import Stepping
    from arch_x86.text.poke import PokeProtocol

__all__ = ("ProbeTraps",)

_INT3, _FTRACE = HitKind.INT3, HitKind.FTRACE


class ProbeTraps:
    """This class handles the traps of all CPUs.

    :param cpus: what is known of each CPU.
    :param stepping: how an instruction runs that is not boosted.
    :param poke: the poke protocol.
    :param memory: the memory in which the guest's stacks lie.
    :param copies: the slots and detour buffers.
    :param trampoline: the address that functions with a return probe return to.
    :param text_byte: reads one byte of the current text, None outside of the text.
    :param die_chain: the users of int3 that are neither kprobes nor the poke protocol.
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
        die_chain: DieChain,
    ) -> None:
        self._cpus = cpus
        self._memory = memory
        self._trampoline = trampoline
        self.breakpoints = BreakpointHandler(cpus, stepping, poke, memory, text_byte, die_chain)
        optimized = OptimizedHandler(cpus, cpus.profile)
        self.hits = HitPath(
            self.breakpoints.way(),
            optimized.way(),
            FtraceHandler(cpus, self.breakpoints.handle).way(),
        )
        self._copies = copies
        self._die_chain = die_chain
        self._bp_holds = poke.bp_holds
        self._breakpoint = self.breakpoints.at_once
        self._detour = optimized.at_once

    # Hits -----------------------------------------------------------------------------------------

    def int3(self, cpu: int, regs: PtRegs) -> bool:
        """Run all pieces of a hit on a breakpoint (#BP); return False if it is nobody's.

        :raises ReentryError: the hit came in a phase of another hit in which the kernel has no room
            for one more.
        """
        if self._bp_holds(regs.ip - 1) or self._die_chain:
            return self.hits.run(Hit(_INT3, cpu, regs))
        return self._breakpoint(cpu, regs)

    def optimized_callback(self, cpu: int, op_id: int, regs: PtRegs) -> None:
        """Run all pieces of a hit that the detour buffer with number ``op_id`` brings."""
        self._detour(cpu, op_id, regs)

    def ftrace_caller(self, cpu: int, regs: PtRegs) -> None:
        """Run all pieces of a hit that ftrace's trampoline brings.

        On entry ``regs.ip`` is the address to which the trampoline will return.
        """
        self.hits.run(Hit(_FTRACE, cpu, regs, regs.ip))

    def holds(self, addr: int) -> bool:
        """Return whether the poke protocol keeps CPUs out of the instruction at ``addr``."""
        return self.breakpoints.holds(addr)

    def debug(self, cpu: int, regs: PtRegs) -> bool:
        """Handle the end of a single step (#DB); return False if none waits for it."""
        return self.breakpoints.debug(cpu, regs)

    def fault(self, cpu: int, regs: PtRegs, vector: int) -> bool:
        """Handle a fault of the guest; return True if a fault_handler mended it."""
        return self.breakpoints.fault(cpu, regs, vector)

    def hit_in_progress(self, cpu: int) -> Any:
        """Return the hit in progress on ``cpu``, for :meth:`resume_hit`."""
        return self._cpus.hit_in_progress(cpu)

    def resume_hit(self, cpu: int, hit: Any) -> None:
        """Go back to what :meth:`hit_in_progress` has returned.

        A guest function that a handler on ``cpu`` called has died.
        """
        self._cpus.resume_hit(cpu, hit)

    def handler_takes_interrupts(self, cpu: int) -> bool:
        """Return True if the handler that runs on ``cpu`` has IF as the interrupted code has it.

        Otherwise IF is clear. The question is not asked of a handler behind a breakpoint, where IF
        is always clear.
        """
        return self._cpus.handler_takes_interrupts(cpu)

    def original_ip(self, ip: int) -> int:
        """Return the original address of the copy that holds ``ip``, or else ``ip`` itself."""
        return self._copies.original_ip(ip)

    # Return probes, and the ends of calls ---------------------------------------------------------

    def return_trampoline(self, cpu: int, regs: PtRegs) -> bool:
        """Run the return handlers of the call that has returned; return False if none is open."""
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
        """Return where the innermost call with a return probe will return to, or None."""
        return self._cpus.core.kretprobes.pending_return(self._cpus.tasks[cpu])

    def call_died(self, cpu: int) -> None:
        """Forget the hit in progress on ``cpu``, whose call has died, so that it never ends."""
        self._cpus.call_died(cpu)

    def call_ended(self, cpu: int) -> None:
        """Forget the calls with return probes that are still open on ``cpu``, whose call is over.

        They never return. The hit in progress there is forgotten, too, unless the mend
        ``handled-hit-ends`` is left out.
        """
        cpus = self._cpus
        if cpus.profile.has(SafetyStep.HANDLED_HIT_ENDS):
            cpus.call_died(cpu)
        cpus.core.kretprobes.flush_task(cpus.tasks[cpu])
