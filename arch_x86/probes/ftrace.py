"""This module handles hits on ftrace locations: arch/x86/kernel/kprobes/ftrace.c (v6.1).

It answers to kprobe_ftrace_handler(). The site calls a trampoline, the stub ``ftrace_caller``
(:mod:`arch_x86.emu.stubs`). The stub saves all registers as a struct pt_regs, asks the host for the
handlers, and returns behind the site, or to where a handler has set ``ip``.

There is one trampoline for all sites, as the kernel has one kprobe_ftrace_ops, and it is never
freed: ftrace_shutdown() frees only trampolines of FTRACE_OPS_FL_DYNAMIC, which ops that are built
into the kernel are not. So a CPU or a preempted task may be in the trampoline at any time. It looks
its probe up only when it asks, by the address to which it will return, and finds none, or a
disabled one, where the probe has gone meanwhile.

Handlers run as behind a jump: there is no trap, and IF is as in the interrupted code. For a
pre_handler ``regs.ip`` is the address of the site plus 1, as behind a breakpoint; for a
post_handler it is behind the site. A pre_handler that returns 1 has set ``regs.ip`` itself, and no
post_handler runs. A change of ``sp`` has no effect.

A hit in what a handler calls is a miss and is counted. The kernel also has
ftrace_test_recursion_trylock(), which refuses a hit without counting it, but only from the second
level of recursion on. That level is never reached here, since no handler runs in a hit that is
missed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from arch_x86.isa.constants import INT3_SIZE
from arch_x86.isa.encode import CALL32_SIZE
from arch_x86.probes.ftrace_site import FTRACE_SIZE_MAX, FtraceInsn
from arch_x86.probes.hit import Hit, Piece, Way
from engine.hit_phases import HitPhase
from engine.kprobe import KprobeStatus

if TYPE_CHECKING:
    from arch_x86.probes.cpu_state import CpuState
    from engine.kprobe import Kprobe

__all__ = ("FtraceHandler",)

_SIZES: Final = (CALL32_SIZE, FTRACE_SIZE_MAX)
"""The call at a site has one of these sizes in bytes."""


class FtraceHandler:
    """This class has the pieces of a hit that ftrace's trampoline brings.

    :param cpus: what is known of each CPU.
    :param pre_handler: the piece that runs a pre_handler; it is the one that a hit on a breakpoint
        has.
    """

    def __init__(self, cpus: CpuState, pre_handler: Piece) -> None:
        self._cpus = cpus
        self._pre_handler = pre_handler

    def way(self) -> Way:
        """Return the pieces by the phase in which each runs."""
        return Way(
            trap=self.found, found=self._pre_handler, between=self._pre_handler, handled=self.done
        )

    def found(self, hit: Hit) -> HitPhase:
        """Look up the probe of the site, and return the phase that follows.

        The hit is over where the probe has gone or is disabled, or where it is a miss. A miss is
        asked for after that, so that it is only counted on a probe that would have run.
        """
        cpus, cpu = self._cpus, hit.cpu
        p = self._probe_before(hit.argument)
        if p is None or p.disabled:
            return HitPhase.RESUMED
        cpus.cpu = cpu
        block = cpus.ctlblk[cpu]
        if block.current is not None:
            cpus.core.kprobes_inc_nmissed_count(p)
            return HitPhase.RESUMED
        hit.regs.ip = p.at + INT3_SIZE
        hit.probe = block.current = p
        block.status = KprobeStatus.HIT_ACTIVE
        return HitPhase.FOUND

    def _probe_before(self, end: int) -> Kprobe | None:
        """Return the probe whose call returns to ``end``, or None.

        The call's size is not known from its end, so each size is tried, and the probe's record
        must say the same.
        """
        for size in _SIZES:
            p = self._cpus.core.get_kprobe(end - size)
            if p is not None and isinstance(p.ainsn, FtraceInsn) and p.ainsn.end == end:
                return p
        return None

    def done(self, hit: Hit) -> HitPhase:
        """Run the post_handler and end the hit.

        The post_handler sees the site as a no-op that was just executed.
        """
        p, regs = hit.probe, hit.regs
        assert p is not None
        self._cpus.cpu = hit.cpu
        block = self._cpus.ctlblk[hit.cpu]
        regs.ip = hit.argument
        if p.post_handler is not None:
            block.status = KprobeStatus.HIT_SSDONE
            p.post_handler(p, regs, 0)
            regs.ip = hit.argument
        block.current = None
        return HitPhase.RESUMED
