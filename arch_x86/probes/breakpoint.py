"""This module handles a hit's traps, as arch/x86/kernel/kprobes.c does (2.6.38).

It answers to kprobe_handler(), post_kprobe_handler() and kprobe_fault_handler(), and to
kprobe_int3_handler() of v6.1. Its code runs between two guest instructions, on the pt_regs that a
guest stub has pushed. IF is clear from the breakpoint to the end of the single step, so no
interrupt comes between the two on this CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from arch_x86.isa.constants import FLAG_TF, INT3_OPCODE
from arch_x86.probes.emulate import StackMemory, go_on
from arch_x86.probes.hit import Hit, Way
from arch_x86.text.poke import HandlerCrashError, KernelStopError
from engine.core.safety_steps import SafetyStep
from engine.errors import EngineBug
from engine.hit_phases import HitPhase
from engine.kprobe import AggrKprobe, Kprobe, KprobeStatus

if TYPE_CHECKING:
    from arch_x86.probes.cpu_state import CpuState
    from arch_x86.probes.die_chain import DieChain
    from arch_x86.probes.ptregs import PtRegs
    from arch_x86.probes.records import Ainsn, OptInsn
    from arch_x86.probes.stepping import KprobeCtlblk, Stepping
    from arch_x86.text.poke import PokeProtocol

__all__ = ("BreakpointHandler", "ReentryError")

# These members are looked up once, since to look up a member of an enumeration takes as long as the
# rest of a piece of a hit.
_HIT_ACTIVE, _HIT_SS, _REENTER, _HIT_SSDONE = (
    KprobeStatus.HIT_ACTIVE,
    KprobeStatus.HIT_SS,
    KprobeStatus.REENTER,
    KprobeStatus.HIT_SSDONE,
)
_FOUND, _BETWEEN, _HANDLED, _RESUMED = (
    HitPhase.FOUND,
    HitPhase.BETWEEN,
    HitPhase.HANDLED,
    HitPhase.RESUMED,
)
_STEPPING: Final = (_HIT_SS, _REENTER)


class ReentryError(KernelStopError):
    """A breakpoint was hit where this kernel cannot take another hit, and stops for good.

    The message says where the hit was, and by which code the kernel stops.
    """


class BreakpointHandler:
    """This class has the pieces of a hit on a breakpoint, and what ends the hit's single step.

    :param cpus: what is known of each CPU.
    :param stepping: how an instruction runs that is not boosted.
    :param poke: the poke protocol, which puts breakpoints of its own into the text for a while.
    :param memory: the memory in which the guest's stacks lie.
    :param text_byte: reads one byte of the current text, None outside of the text.
    :param die_chain: the users of int3 that are neither kprobes nor the poke protocol.
    """

    def __init__(
        self,
        cpus: CpuState,
        stepping: Stepping,
        poke: PokeProtocol,
        memory: StackMemory,
        text_byte: Callable[[int], int | None],
        die_chain: DieChain,
    ) -> None:
        self._cpus = cpus
        self.stepping = stepping
        self._poke = poke
        self._memory = memory
        self._text_byte = text_byte
        self._die_chain = die_chain
        self.profile = profile = cpus.profile
        self._fault_handlers = profile.fault_handlers
        self._asks_for_removed = profile.has(SafetyStep.INT3_GONE)
        self._ends_handled = profile.has(SafetyStep.HANDLED_HIT_ENDS)
        self._asks_in_step = profile.has(SafetyStep.FAULT_IN_STEP)
        self._asks_status = profile.steps_by_int3
        self._ends_step = profile.has(SafetyStep.COMMIT_DEC8784C9088)

    def way(self) -> Way:
        """Return the pieces by the phase in which each runs."""
        return Way(
            trap=self.trap,
            poke=self.bp_resume,
            found=self.found,
            between=self.handle,
            handled=self.resume,
            notify=self.notify,
        )

    def holds(self, addr: int) -> bool:
        """Return whether the poke protocol keeps CPUs out of the instruction at ``addr``."""
        return self._poke.bp_holds(addr)

    # int3 -----------------------------------------------------------------------------------------

    def trap(self, hit: Hit) -> HitPhase:
        """Find out whose breakpoint trapped (#BP), and return the phase that follows.

        The poke protocol is asked before the table, as poke_int3_handler() is asked before
        kprobe_int3_handler(): while it writes at a probe's site, the breakpoint there is the
        protocol's, though the table has the probe. A debugger is asked before the table, too.
        """
        addr = hit.regs.ip - 1
        if self._poke.bp_holds(addr):
            return HitPhase.POKE
        if self._die_chain.asks_before_probes(addr) and self._die_chain.notify(hit.regs):
            return _RESUMED
        hit.probe = self._cpus.core.get_kprobe(addr)
        return _FOUND

    def bp_resume(self, hit: Hit) -> HitPhase:
        """Go on where the poke protocol says, as if its new instruction had been executed.

        Where the protocol finds no poke of its own at the address, the table is asked for a probe.

        :raises HandlerCrashError: the record of the protocol is gone, and the kernel stops.
        """
        regs = hit.regs
        poke = self._poke.bp_poke(regs.ip - 1)
        if poke is None:
            hit.probe = self._cpus.core.get_kprobe(regs.ip - 1)
            return _FOUND
        assert poke.goes_on is not None
        go_on(poke.goes_on, regs, self._memory)
        return _RESUMED

    def found(self, hit: Hit) -> HitPhase:
        """Begin the hit of the probe that was found, and run its first handler.

        :raises ReentryError: the CPU is in a phase of another hit in which the kernel has no room
            for one more.
        """
        phase = self._begin(hit.cpu, hit.regs, hit.probe)
        return self.handle(hit) if phase is _FOUND else phase

    def _begin(self, cpu: int, regs: PtRegs, p: Kprobe | None) -> HitPhase:
        """Begin the hit of ``p``, and return FOUND, or how the hit has ended.

        A trap at an address without a probe is the end of a single step, or the break_handler's, or
        nobody's. A hit within another hit is a miss.
        """
        self._cpus.cpu = cpu
        block = self._cpus.ctlblk[cpu]
        if p is None:
            if self._is_kprobes_own(block, regs):
                return _RESUMED
            return HitPhase.NOTIFY if self._die_chain else HitPhase.REFUSED
        if block.current is not None:
            self._reenter(block, p, regs)
            return _RESUMED
        block.current = p
        block.status = _HIT_ACTIVE
        return _FOUND

    def _is_kprobes_own(self, block: KprobeCtlblk, regs: PtRegs) -> bool:
        """Handle a breakpoint where the table has no probe; return False if it is not kprobes' own.

        The order of the questions matters. The end of a single step comes first: its breakpoint
        stands in a slot, which the table does not know. Then it is asked whether the text still has
        a breakpoint. A probe that was removed after the CPU had hit it leaves none, and the CPU
        executes the instruction that stands there now. If there is one, a break_handler is asked,
        which knows that of ``jprobe_return``.

        :raises HandlerCrashError: the status of the CPU's last hit says that a step is under way,
            though the hit is over.
        """
        running = block.current
        if block.left_stepping:
            raise HandlerCrashError(
                "kprobe_int3_handler() takes another user's breakpoint for the end of a single"
                " step, and reads the probe of a hit that is over: current_kprobe is NULL"
            )
        if (
            running is not None
            and block.status in _STEPPING
            and self.stepping.step_ended(running.ainsn, regs, by_int3=True)
        ):
            self._after_step(block, running, regs)
            return True
        addr = regs.ip - 1
        if not self._asks_for_removed or self._text_byte(addr) == INT3_OPCODE:
            if (
                running is None
                or running.break_handler is None
                or not running.break_handler(running, regs)
            ):
                return False
            self._setup_singlestep(block, running, regs, reenter=False)
            return True
        regs.ip = addr  # The breakpoint was removed after the hit: execute what is there now.
        return True

    def notify(self, hit: Hit) -> HitPhase:
        """Ask the other users of int3 whose breakpoint was hit, and end the hit (notify_die())."""
        return _RESUMED if self._die_chain.notify(hit.regs) else HitPhase.REFUSED

    def handle(self, hit: Hit) -> HitPhase:
        """Run the pre_handler of the next child, and return the phase that follows.

        A probe that is alone in the table has no children, and its own pre_handler runs. The
        children are listed when the first one runs, so a probe that joins later is not called in
        this hit.

        A pre_handler that returns non-zero has set ``regs.ip`` itself, and the hit ends without the
        probed instruction. It stays open where a break_handler is to end it later.
        """
        cpus, p, regs = self._cpus, hit.probe, hit.regs
        assert p is not None
        cpus.cpu = hit.cpu
        children = hit.children
        if hit.phase is not _BETWEEN and isinstance(p, AggrKprobe):
            children = cpus.core.aggr.order(p)
        if children:
            handled = cpus.core.aggr.child_pre_handler(children[0], regs)
            hit.children = children = children[1:]
        else:
            handled = p.pre_handler is not None and p.pre_handler(p, regs)
        if not handled:
            return _BETWEEN if children else _HANDLED
        self._end_handled(cpus.ctlblk[hit.cpu], p)
        return _RESUMED

    def _end_handled(self, block: KprobeCtlblk, p: Kprobe) -> None:
        """End the hit of ``p``, whose pre_handler has returned non-zero."""
        if self._ends_handled and (
            p.break_handler is None or (isinstance(p, AggrKprobe) and block.instance is None)
        ):
            block.current = None

    def at_once(self, cpu: int, regs: PtRegs) -> bool:
        """Run all pieces of a hit, with nothing between them; return False if it is nobody's.

        The breakpoint is none of the poke protocol, and int3 has no users beside kprobes.

        :raises ReentryError: as in :meth:`found`.
        """
        cpus = self._cpus
        core = cpus.core
        p = core.get_kprobe(regs.ip - 1)
        phase = self._begin(cpu, regs, p)
        if phase is not _FOUND:
            return phase is _RESUMED
        assert p is not None
        aggr = core.aggr
        children = aggr.order(p) if isinstance(p, AggrKprobe) else ()
        handled: int | bool | None = False
        if children:
            for child in children:
                cpus.cpu = cpu
                if handled := aggr.child_pre_handler(child, regs):
                    break
        else:
            handled = p.pre_handler is not None and p.pre_handler(p, regs)
        if handled:
            self._end_handled(cpus.ctlblk[cpu], p)
        else:
            self._setup_singlestep(cpus.ctlblk[cpu], p, regs, reenter=False)
        return True

    def resume(self, hit: Hit) -> HitPhase:
        """Run the probed instruction, now that all handlers have run."""
        assert hit.probe is not None
        self._setup_singlestep(self._cpus.ctlblk[hit.cpu], hit.probe, hit.regs, reenter=False)
        return _RESUMED

    def _reenter(self, block: KprobeCtlblk, p: Kprobe, regs: PtRegs) -> None:
        """Handle a hit within a hit (reenter_kprobe), in what a handler calls or in an NMI.

        It is a miss: it is counted, its handlers do not run, and its instruction does.

        :raises ReentryError: the outer hit is in a phase in which this kernel stops.
        """
        status = block.status
        if status not in self.profile.misses_in:
            first = block.current
            assert first is not None
            step = "a hit that was itself missed" if status is _REENTER else "another hit"
            end = (
                "reenter_kprobe() is BUG()"
                if status in self.profile.stops_in
                else "reenter_kprobe() takes it for nobody's breakpoint"
            )
            raise ReentryError(
                f"a probe is hit in the single step of {step} (at {first.at:#x}): {end} in"
                f" {self.profile.name}"
            )
        self._cpus.core.kprobes_inc_nmissed_count(p)
        self._setup_singlestep(block, p, regs, reenter=True)

    def _setup_singlestep(
        self, block: KprobeCtlblk, p: Kprobe, regs: PtRegs, *, reenter: bool
    ) -> None:
        """Send the CPU to the detour buffer's copies, to the boosted copy, or to a single step.

        The order is that of setup_singlestep() in the kernel. Where no trap will tell of the hit's
        end, the hit is over at once, and the CPU's record is cleared. A miss (``reenter``) leaves
        the record alone, since its outer hit goes on.
        """
        # Behind the breakpoint's byte there may be the rest of a jump, or a jump may be written
        # there at any moment. The slot's copy would come back there, so the copies of all replaced
        # instructions run instead, and come back behind them (setup_detour_execution).
        if isinstance(p, AggrKprobe) and p.optimized:
            optinsn: OptInsn = p.optinsn
            regs.ip = optinsn.copied
            if not reenter:
                block.current = None
            return
        # The breakpoint was ftrace's, and the poke protocol did not take it. There is no copy to
        # run: in the kernel p->ainsn.insn is NULL, and the CPU goes on at address 0.
        if p.ftrace:
            regs.ip = 0
            block.current = block.current if reenter else None
            return
        ainsn: Ainsn = p.ainsn
        if self.stepping.boosts(p):
            if not reenter:
                block.current = None
            assert ainsn.boosted is not None
            regs.ip = ainsn.boosted
            return
        if reenter:
            if len(block.prev) == self.profile.saved_hits:
                raise EngineBug(f"{p!r} is hit in the middle of {len(block.prev) + 1} hits")
            block.prev = (
                *block.prev,
                (block.current, block.status, block.old_flags, block.saved_flags),
            )
            block.current = p
            block.status = _REENTER
        else:
            block.status = _HIT_SS
        if self.stepping.begin(block, ainsn, regs):
            self._post_process(block, p, regs)

    # After the step -------------------------------------------------------------------------------

    def debug(self, cpu: int, regs: PtRegs) -> bool:
        """Handle a trap by TF (#DB); return False if no single step on ``cpu`` waits for it.

        :param regs: the registers behind the step; they are put right.
        """
        self._cpus.cpu = cpu
        block = self._cpus.ctlblk[cpu]
        p = block.current
        if (
            p is None
            or block.status not in _STEPPING
            or not self.stepping.step_ended(p.ainsn, regs, by_int3=False)
        ):
            return False
        self._after_step(block, p, regs)
        return True

    def _after_step(self, block: KprobeCtlblk, p: Kprobe, regs: PtRegs) -> None:
        """Put right what the copy of ``p`` has left, and end the hit."""
        self.stepping.resume(block, p.ainsn, regs)
        self._post_process(block, p, regs)

    def _post_process(self, block: KprobeCtlblk, p: Kprobe, regs: PtRegs) -> None:
        """Run the post_handler and end the hit, now that the instruction is done.

        A hit that this one interrupted goes on. A miss (REENTER) has no post_handler run.
        """
        if block.status is not _REENTER and (self._ends_step or p.post_handler is not None):
            block.status = _HIT_SSDONE
            if p.post_handler is not None:
                p.post_handler(p, regs, 0)
        self._leave(block)

    def _leave(self, block: KprobeCtlblk) -> None:
        """Go back to the hit that this one has interrupted, or to none.

        Kernels that step by TF ask for the status of a hit only while the hit lasts.
        """
        if block.prev:
            block.current, block.status, block.old_flags, block.saved_flags = block.prev[-1]
            block.prev = block.prev[:-1]
        else:
            block.current = None
            if not self._asks_status:
                block.status = _HIT_SSDONE

    # Faults ---------------------------------------------------------------------------------------

    def fault(self, cpu: int, regs: PtRegs, vector: int) -> bool:
        """Handle a fault of the guest; return True if a fault_handler mended it.

        A fault in a single step is put back to the original instruction, so that the exception
        table and the guest see the original's address, and the hit is over. The kernel's header
        promises a fault_handler faults of the probed instruction, but the code of 2.6.38 asks it in
        handlers only; the mend ``fault-in-step`` keeps the promise.

        :param vector: the number of the exception.
        """
        self._cpus.cpu = cpu
        block = self._cpus.ctlblk[cpu]
        p = block.current
        if p is None:
            return False
        status = block.status
        if status in _STEPPING and self.stepping.step_faulted(p.ainsn, regs):
            regs.ip = p.at
            regs.flags = regs.flags & ~FLAG_TF | block.old_flags
            if status is _HIT_SS and self.profile.ends_faulted_step:
                block.status = _HIT_SSDONE
            self._leave(block)
            if not self._asks_in_step:
                return False
            # The step was that of a miss, in what a handler of another probe called. That probe's
            # fault_handler is asked.
            if status is _REENTER:
                assert block.current is not None
                p, status = block.current, block.status
        if not self._fault_handlers:
            return False
        if status not in _STEPPING:
            self._cpus.core.kprobes_inc_nmissed_count(p)
        return p.fault_handler is not None and bool(p.fault_handler(p, regs, vector))
