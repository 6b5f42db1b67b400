"""The hit path: int3, single step, detour callback, faults inside a step. Answers to kprobe_handler(), post_kprobe_handler(),
kprobe_fault_handler() and optimized_callback() in arch/x86/kernel/kprobes.c (2.6.38).

Runs between two guest instructions, on the pt_regs that a guest stub has pushed. IF is clear from the breakpoint to the end of the step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from arch_x86.isa.constants import ADDRESS_MASK, FLAG_TF, INT3_OPCODE
from arch_x86.probes.ptregs import PtRegs
from arch_x86.probes.records import Ainsn, OptInsn
from arch_x86.probes.stepping import KprobeCtlblk, Stepping
from engine.arch import ArchCallbacks
from engine.core.profiles import Profile
from engine.core.safety_steps import SafetyStep
from engine.errors import EngineBug
from engine.kprobe import AggrKprobe, Kprobe, KprobeStatus

__all__ = ("BreakpointHandler", "GuestMemory", "ReentryError")

_STEPPING: Final = (KprobeStatus.HIT_SS, KprobeStatus.REENTER)


class ReentryError(Exception):
    """A breakpoint was hit where this kernel can't take another hit, and stops for good. The message says where."""


class GuestMemory(Protocol):
    """Guest data by virtual address."""

    def read_u64(self, addr: int) -> int | None:
        """A quad word, or None when unmapped."""
        ...

    def write(self, addr: int, data: bytes) -> bool:
        """False when unmapped."""
        ...


class BreakpointHandler:
    """The traps of all CPUs.

    :param text_byte: reads one byte of the current text.
    :param stepping: how an instruction runs that is not boosted.
    """

    def __init__(self, cpus: int, stepping: Stepping, text_byte: Callable[[int], int | None], profile: Profile) -> None:
        self.ctlblk = [KprobeCtlblk() for _ in range(cpus)]
        self.stepping = stepping
        self.cpu = 0  # whose trap is being handled (smp_processor_id)
        self._returning = [False] * cpus  # whether a return probe's handler runs there
        self.tasks = list(range(cpus))  # which task runs on each CPU: without a scheduler each has one
        self._text_byte = text_byte
        self.profile = profile
        self._fault_handlers = profile.fault_handlers
        self._asks_for_removed = profile.has(SafetyStep.INT3_GONE)
        self._ends_handled = profile.has(SafetyStep.HANDLED_HIT_ENDS)
        self._asks_in_step = profile.has(SafetyStep.FAULT_IN_STEP)
        self._asks_for_disabled = profile.has(SafetyStep.DISABLED_CHECK)
        self._core: ArchCallbacks | None = None

    def attach(self, core: ArchCallbacks) -> None:
        """The core whose probes these are."""
        self._core = core

    @property
    def core(self) -> ArchCallbacks:
        """The attached core."""
        assert self._core is not None
        return self._core

    def save_state(self) -> Any:
        """For a snapshot."""
        return [block.saved() for block in self.ctlblk]

    def restore_state(self, state: Any) -> None:
        """From a snapshot."""
        for block, saved in zip(self.ctlblk, state, strict=True):
            block.restore(saved)

    def call_died(self, cpu: int) -> None:
        """Whatever hit was in progress on ``cpu`` never ends."""
        self.ctlblk[cpu].restore(KprobeCtlblk().saved())

    def hit_in_progress(self, cpu: int) -> Any:
        """For :meth:`resume_hit`."""
        return self.ctlblk[cpu].saved(), self.core.kretprobes.open_calls(self.tasks[cpu])

    def resume_hit(self, cpu: int, hit: Any) -> None:
        """What a handler on ``cpu`` has called since died."""
        saved, calls = hit
        self.ctlblk[cpu].restore(saved)
        self.core.kretprobes.drop_calls(self.tasks[cpu], calls)

    # int3 -------------------------------------------------------------------------------------------------------------

    def int3(self, cpu: int, regs: PtRegs) -> bool:
        """#BP. False: nobody's breakpoint.

        :raises ReentryError: a probe's, in the middle of a hit, where the kernel has no room for another one.
        """
        p = self.core.get_kprobe(regs.ip - 1)
        over = self.int3_found(cpu, regs, p)
        if over is not None:
            return over
        assert p is not None
        if not self.int3_handle(cpu, regs, p):
            self.int3_resume(cpu, regs, p)
        return True

    def int3_found(self, cpu: int, regs: PtRegs, p: Kprobe | None) -> bool | None:
        """``p`` is what the table had there. None: its handler is next; else the hit is over, and whether it was anybody's."""
        self.cpu = cpu
        addr = regs.ip - 1
        block = self.ctlblk[cpu]
        if p is None:
            running = block.current
            if running is not None and block.status in _STEPPING and self.stepping.step_ended(running.ainsn, regs, by_int3=True):
                self._after_step(block, running, regs)
                return True
            if not self._asks_for_removed or self._text_byte(addr) == INT3_OPCODE:
                if running is None or running.break_handler is None or not running.break_handler(running, regs):
                    return False
                self._setup_singlestep(block, running, regs, reenter=False)
                return True
            regs.ip = addr  # the breakpoint was removed after the hit: run what is there now
            return True
        if block.current is not None:
            self._reenter(block, p, regs)
            return True
        block.current = p
        block.status = KprobeStatus.HIT_ACTIVE
        return None

    def _reenter(self, block: KprobeCtlblk, p: Kprobe, regs: PtRegs) -> None:
        """A hit within a hit, in what a handler calls or in an NMI: a miss whose instruction runs, if the kernel can (reenter_kprobe)."""
        status = block.status
        if status not in self.profile.misses_in:
            first = block.current
            assert first is not None
            step = "a hit that was itself missed" if status is KprobeStatus.REENTER else "another hit"
            end = "reenter_kprobe() is BUG()" if status in self.profile.stops_in else "reenter_kprobe() takes it for nobody's breakpoint"
            raise ReentryError(f"a probe is hit in the single step of {step} (at {first.at:#x}): {end} in {self.profile.name}")
        self.core.kprobes_inc_nmissed_count(p)
        self._setup_singlestep(block, p, regs, reenter=True)

    def int3_handle(self, cpu: int, regs: PtRegs, p: Kprobe, child: Kprobe | None = None) -> bool:
        """Run the pre_handler. True: it has set ip itself, and the hit is over; if a break_handler is to end it, it goes on.

        :param child: run only that of this child of ``p``.
        """
        self.cpu = cpu
        block = self.ctlblk[cpu]
        handled = self.core.child_pre_handler(child, regs) if child is not None else p.pre_handler is not None and p.pre_handler(p, regs)
        if not handled:
            return False
        if self._ends_handled and (p.break_handler is None or (isinstance(p, AggrKprobe) and block.instance is None)):
            block.current = None
        return True

    def int3_resume(self, cpu: int, regs: PtRegs, p: Kprobe) -> None:
        """The handlers are done: run the probed instruction."""
        self._setup_singlestep(self.ctlblk[cpu], p, regs, reenter=False)

    def _setup_singlestep(self, block: KprobeCtlblk, p: Kprobe, regs: PtRegs, *, reenter: bool) -> None:
        """Send the CPU to the detour's copies, to the boosted copy, or to a single step."""
        if isinstance(p, AggrKprobe) and p.optimized:
            optinsn: OptInsn = p.optinsn
            regs.ip = optinsn.copied
            if not reenter:
                block.current = None
            return
        if p.ftrace:  # where ftrace was about to write, and nobody took its breakpoint: there is no copy, p->ainsn.insn is NULL
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
            block.prev = (*block.prev, (block.current, block.status, block.old_flags, block.saved_flags))
            block.current = p
            block.status = KprobeStatus.REENTER
        else:
            block.status = KprobeStatus.HIT_SS
        if self.stepping.begin(block, ainsn, regs):
            self._post_process(block, p, regs)

    # After the step ---------------------------------------------------------------------------------------------------

    def debug(self, cpu: int, regs: PtRegs) -> bool:
        """#DB. False: nobody was stepping."""
        self.cpu = cpu
        block = self.ctlblk[cpu]
        p = block.current
        if p is None or block.status not in _STEPPING or not self.stepping.step_ended(p.ainsn, regs, by_int3=False):
            return False
        self._after_step(block, p, regs)
        return True

    def _after_step(self, block: KprobeCtlblk, p: Kprobe, regs: PtRegs) -> None:
        self.stepping.resume(block, p.ainsn, regs)
        self._post_process(block, p, regs)

    def _post_process(self, block: KprobeCtlblk, p: Kprobe, regs: PtRegs) -> None:
        """The instruction is done: post_handler, then back to the hit that this one interrupted."""
        if block.status is not KprobeStatus.REENTER and p.post_handler is not None:
            block.status = KprobeStatus.HIT_SSDONE
            p.post_handler(p, regs, 0)
        self._leave(block)

    def _leave(self, block: KprobeCtlblk) -> None:
        if block.prev:
            block.current, block.status, block.old_flags, block.saved_flags = block.prev[-1]
            block.prev = block.prev[:-1]
        else:
            block.current = None

    # Faults -----------------------------------------------------------------------------------------------------------

    def fault(self, cpu: int, regs: PtRegs, vector: int) -> bool:
        """A fault. In a single step it is put back to the original instruction, and that hit is over. True: a fault_handler mended it.

        The header of the kernel promises fault_handler a fault in the probed instruction; its code keeps to that in handlers only.
        """
        self.cpu = cpu
        block = self.ctlblk[cpu]
        p = block.current
        if p is None:
            return False
        status = block.status
        if status in _STEPPING and self.stepping.step_faulted(p.ainsn, regs):
            regs.ip = p.at
            regs.flags = regs.flags & ~FLAG_TF | block.old_flags
            self._leave(block)
            if not self._asks_in_step:
                return False
            if status is KprobeStatus.REENTER:  # in what a handler of another probe called
                assert block.current is not None
                p, status = block.current, block.status
        if not self._fault_handlers:
            return False
        if status not in _STEPPING:
            self.core.kprobes_inc_nmissed_count(p)
        return p.fault_handler is not None and bool(p.fault_handler(p, regs, vector))

    # Optimized --------------------------------------------------------------------------------------------------------

    def optimized_callback(self, cpu: int, op_id: int, regs: PtRegs) -> None:
        """A detour buffer calls. Its probe may be disabled already, while the jump waits to be undone: then nothing runs."""
        op = self.optimized_found(cpu, op_id, regs)
        if op is not None:
            self.optimized_handle(cpu, regs, op)
            self.optimized_done(cpu)

    def optimized_found(self, cpu: int, op_id: int, regs: PtRegs) -> AggrKprobe | None:
        """The probe whose handlers are next; None: nobody's are."""
        op = self.core.find_optimized(op_id)
        if op is None or (op.disabled and self._asks_for_disabled):
            return None
        self.cpu = cpu
        block = self.ctlblk[cpu]
        if block.current is not None:
            self.core.kprobes_inc_nmissed_count(op)
            return None
        regs.ip = op.at + 1
        regs.orig_ax = ADDRESS_MASK
        block.current = op
        block.status = KprobeStatus.HIT_ACTIVE
        return op

    def optimized_handle(self, cpu: int, regs: PtRegs, op: AggrKprobe, child: Kprobe | None = None) -> None:
        """Run the pre_handlers, or that of one child only."""
        self.cpu = cpu
        if child is None:
            self.core.opt_pre_handler(op, regs)
        else:
            self.core.child_opt_pre_handler(child, regs)

    def optimized_done(self, cpu: int) -> None:
        """They are done."""
        self.ctlblk[cpu].current = None

    # Handlers ---------------------------------------------------------------------------------------------------------

    def arch_set_current_kprobe(self, p: Kprobe | None) -> None:
        """A handler of ``p`` runs on this CPU, outside of a hit; None: no more."""
        block = self.ctlblk[self.cpu]
        block.current = p
        block.status = KprobeStatus.HIT_ACTIVE

    def handler_takes_interrupts(self, cpu: int) -> bool:
        """Whether the handler that runs on ``cpu``, if not behind a breakpoint, has IF as the interrupted code has it; else it is clear."""
        return self.profile.return_handlers_take_interrupts or not self._returning[cpu]

    @property
    def kprobe_instance(self) -> Kprobe | None:
        """On this CPU: of an aggregator's hit in progress, the child whose handler runs."""
        return self.ctlblk[self.cpu].instance

    @kprobe_instance.setter
    def kprobe_instance(self, p: Kprobe | None) -> None:
        self.ctlblk[self.cpu].instance = p

    @property
    def current_task(self) -> int:
        """Whose trap is being handled."""
        return self.tasks[self.cpu]

    @property
    def possible_cpus(self) -> int:
        """How many there are."""
        return len(self.ctlblk)
