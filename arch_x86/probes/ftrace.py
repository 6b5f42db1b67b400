"""The hit path of probes on ftrace locations. Answers to kprobe_ftrace_handler() (arch/x86/kernel/kprobes/ftrace.c, v6.1).

The site calls a trampoline, the stub ``ftrace_caller`` (:mod:`arch_x86.emu.stubs`), which saves everything as a struct pt_regs, asks for
the handlers, and returns behind the site, or to where a handler has set ``ip``. There is one for all sites, as kprobe_ftrace_ops has one,
and it is never freed: ftrace_shutdown() frees those of FTRACE_OPS_FL_DYNAMIC only, which what the kernel is built with is not. So a CPU or
a preempted task may be in it at any time; it looks its probe up when it asks, by where it will return to, and finds none, or a disabled
one, where that has gone meanwhile.

Handlers run as behind a jump: no trap, IF as in the interrupted code. For a pre_handler ``regs.ip`` is the address of the site plus 1, as
behind a breakpoint; for a post_handler it is behind the site. A pre_handler that returns 1 has set ``regs.ip`` itself, and no post_handler
runs. A change of ``sp`` has no effect. A hit in what a handler calls is missed and counted: of the recursion that
ftrace_test_recursion_trylock() refuses without a count, it lets one level pass, and there is no second one, as no handler runs in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from arch_x86.probes.breakpoint import BreakpointHandler
from arch_x86.probes.ftrace_site import FtraceInsn
from engine.kprobe import KprobeStatus

if TYPE_CHECKING:
    from arch_x86.probes.ptregs import PtRegs
    from engine.kprobe import Kprobe

__all__ = ("FtraceHandler",)

_SIZES: Final = (5, 6)
_INT3_SIZE: Final = 1


class FtraceHandler(BreakpointHandler):
    """All ways in which a CPU comes to a probe's handlers."""

    def ftrace_caller(self, cpu: int, regs: PtRegs) -> None:
        """The trampoline asks. ``regs.ip`` is where it will return to."""
        end = regs.ip
        p = self.ftrace_found(cpu, regs)
        if p is not None and not self.ftrace_handle(cpu, regs, p):
            self.ftrace_done(cpu, regs, p, end)

    def ftrace_found(self, cpu: int, regs: PtRegs) -> Kprobe | None:
        """The probe whose handlers are next; None: nobody's are."""
        p = self._probe_before(regs.ip)
        if p is None or p.disabled:
            return None
        self.cpu = cpu
        block = self.ctlblk[cpu]
        if block.current is not None:
            self.core.kprobes_inc_nmissed_count(p)
            return None
        regs.ip = p.at + _INT3_SIZE
        block.current = p
        block.status = KprobeStatus.HIT_ACTIVE
        return p

    def _probe_before(self, end: int) -> Kprobe | None:
        """The probe whose call returns to ``end``."""
        for size in _SIZES:
            p = self.core.get_kprobe(end - size)
            if p is not None and isinstance(p.ainsn, FtraceInsn) and p.ainsn.end == end:
                return p
        return None

    def ftrace_handle(self, cpu: int, regs: PtRegs, p: Kprobe, child: Kprobe | None = None) -> bool:
        """Run the pre_handlers, or that of one child only. True: one has set ip itself, and the hit is over."""
        return self.int3_handle(cpu, regs, p, child)

    def ftrace_done(self, cpu: int, regs: PtRegs, p: Kprobe, end: int) -> None:
        """They are done: the post_handlers, as if the site were a no-op that was just executed, and on behind it."""
        self.cpu = cpu
        block = self.ctlblk[cpu]
        regs.ip = end
        if p.post_handler is not None:
            block.status = KprobeStatus.HIT_SSDONE
            p.post_handler(p, regs, 0)
            regs.ip = end
        block.current = None
