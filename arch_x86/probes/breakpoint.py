"""The hit path of breakpoints: int3, single step, faults inside a step. Answers to
kprobe_handler(), post_kprobe_handler() and kprobe_fault_handler() in arch/x86/kernel/kprobes.c
(2.6.38).

Runs between two guest instructions, on the pt_regs that a guest stub has pushed. IF is clear from
the breakpoint to the end of the step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from arch_x86.isa.constants import FLAG_TF, INT3_OPCODE
from arch_x86.probes.emulate import StackMemory, push
from arch_x86.probes.hit import Hit, Way
from engine.core.safety_steps import SafetyStep
from engine.errors import EngineBug
from engine.hit import HitPhase
from engine.kprobe import AggrKprobe, Kprobe, KprobeStatus

if TYPE_CHECKING:
    from arch_x86.probes.cpu_state import CpuState
    from arch_x86.probes.ptregs import PtRegs
    from arch_x86.probes.records import Ainsn, OptInsn
    from arch_x86.probes.stepping import KprobeCtlblk, Stepping
    from arch_x86.text.poke import PokeProtocol

__all__ = ("BreakpointHandler", "ReentryError")

# Looked up once: to look a member of an enumeration up takes as long as the rest of a piece of a
# hit.
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


class ReentryError(Exception):
    """A breakpoint was hit where this kernel can't take another hit, and stops for good. The
    message says where.
    """


class BreakpointHandler:
    """The pieces of a hit on a breakpoint, and what ends its single step.

    :param stepping: how an instruction runs that is not boosted.
    :param poke: the poke protocol, whose own breakpoint it may be.
    :param memory: where the stacks are.
    :param text_byte: reads one byte of the current text.
    """

    def __init__(
        self,
        cpus: CpuState,
        stepping: Stepping,
        poke: PokeProtocol,
        memory: StackMemory,
        text_byte: Callable[[int], int | None],
    ) -> None:
        self._cpus = cpus
        self.stepping = stepping
        self._poke = poke
        self._memory = memory
        self._text_byte = text_byte
        self.profile = profile = cpus.profile
        self._fault_handlers = profile.fault_handlers
        self._asks_for_removed = profile.has(SafetyStep.INT3_GONE)
        self._ends_handled = profile.has(SafetyStep.HANDLED_HIT_ENDS)
        self._asks_in_step = profile.has(SafetyStep.FAULT_IN_STEP)

    def way(self) -> Way:
        """The pieces."""
        return Way(
            trap=self.trap,
            poke=self.bp_resume,
            found=self.found,
            between=self.handle,
            handled=self.resume,
        )

    # int3 -----------------------------------------------------------------------------------------

    def trap(self, hit: Hit) -> HitPhase:
        """#BP: the poke protocol is asked first, whose breakpoint it may be, and then the table."""
        addr = hit.regs.ip - 1
        if self._poke.bp_holds(addr):
            return HitPhase.POKE
        hit.probe = self._cpus.core.get_kprobe(addr)
        return _FOUND

    def bp_resume(self, hit: Hit) -> HitPhase:
        """Go on where the poke protocol says."""
        regs = hit.regs
        poke = self._poke.bp_poke(regs.ip - 1)
        assert poke is not None
        assert poke.target is not None
        if poke.returns is not None:
            push(regs, self._memory, poke.returns)
        regs.ip = poke.target
        return _RESUMED

    def found(self, hit: Hit) -> HitPhase:
        """Run the handler of the probe that was found, or its first child's, unless the hit is
        over.

        :raises ReentryError: it was hit in the middle of another hit, where the kernel has no room
            for another one.
        """
        cpu, regs, p = hit.cpu, hit.regs, hit.probe
        self._cpus.cpu = cpu
        block = self._cpus.ctlblk[cpu]
        if p is None:
            return _RESUMED if self._nobodys(block, regs) else HitPhase.REFUSED
        if block.current is not None:
            self._reenter(block, p, regs)
            return _RESUMED
        block.current = p
        block.status = _HIT_ACTIVE
        return self.handle(hit)

    def _nobodys(self, block: KprobeCtlblk, regs: PtRegs) -> bool:
        """The table has no probe there. False: it is not the kprobes layer's."""
        running = block.current
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
        regs.ip = addr  # the breakpoint was removed after the hit: run what is there now
        return True

    def handle(self, hit: Hit) -> HitPhase:
        """Run the pre_handler of the next child; a probe that is alone in the table has none, and
        its own runs.

        One that returns non-zero has set ip itself, and the hit is over; if a break_handler is to
        end it, it goes on.
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
        block = cpus.ctlblk[hit.cpu]
        if self._ends_handled and (
            p.break_handler is None or (isinstance(p, AggrKprobe) and block.instance is None)
        ):
            block.current = None
        return _RESUMED

    def resume(self, hit: Hit) -> HitPhase:
        """The handlers are done: run the probed instruction."""
        assert hit.probe is not None
        self._setup_singlestep(self._cpus.ctlblk[hit.cpu], hit.probe, hit.regs, reenter=False)
        return _RESUMED

    def _reenter(self, block: KprobeCtlblk, p: Kprobe, regs: PtRegs) -> None:
        """A hit within a hit, in what a handler calls or in an NMI: a miss whose instruction runs,
        if the kernel can (reenter_kprobe).
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
        """Send the CPU to the detour's copies, to the boosted copy, or to a single step."""
        if isinstance(p, AggrKprobe) and p.optimized:
            optinsn: OptInsn = p.optinsn
            regs.ip = optinsn.copied
            if not reenter:
                block.current = None
            return
        # where ftrace was about to write, and nobody took its breakpoint: there is no copy,
        # p->ainsn.insn is NULL
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
        """#DB. False: nobody was stepping."""
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
        self.stepping.resume(block, p.ainsn, regs)
        self._post_process(block, p, regs)

    def _post_process(self, block: KprobeCtlblk, p: Kprobe, regs: PtRegs) -> None:
        """The instruction is done: post_handler, then back to the hit that this one interrupted."""
        if block.status is not _REENTER and p.post_handler is not None:
            block.status = _HIT_SSDONE
            p.post_handler(p, regs, 0)
        self._leave(block)

    def _leave(self, block: KprobeCtlblk) -> None:
        if block.prev:
            block.current, block.status, block.old_flags, block.saved_flags = block.prev[-1]
            block.prev = block.prev[:-1]
        else:
            block.current = None

    # Faults ---------------------------------------------------------------------------------------

    def fault(self, cpu: int, regs: PtRegs, vector: int) -> bool:
        """A fault. In a single step it is put back to the original instruction, and that hit is
        over. True: a fault_handler mended it.

        The header of the kernel promises fault_handler a fault in the probed instruction; its code
        keeps to that in handlers only.
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
            self._leave(block)
            if not self._asks_in_step:
                return False
            if status is _REENTER:  # in what a handler of another probe called
                assert block.current is not None
                p, status = block.current, block.status
        if not self._fault_handlers:
            return False
        if status not in _STEPPING:
            self._cpus.core.kprobes_inc_nmissed_count(p)
        return p.fault_handler is not None and bool(p.fault_handler(p, regs, vector))
