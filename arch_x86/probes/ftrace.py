"""The hit path of probes on ftrace locations. Answers to kprobe_ftrace_handler()
(arch/x86/kernel/kprobes/ftrace.c, v6.1).

The site calls a trampoline, the stub ``ftrace_caller`` (:mod:`arch_x86.emu.stubs`), which saves
everything as a struct pt_regs, asks for the handlers, and returns behind the site, or to where a
handler has set ``ip``. There is one for all sites, as kprobe_ftrace_ops has one, and it is never
freed: ftrace_shutdown() frees those of FTRACE_OPS_FL_DYNAMIC only, which what the kernel is built
with is not. So a CPU or a preempted task may be in it at any time; it looks its probe up when it
asks, by where it will return to, and finds none, or a disabled one, where that has gone meanwhile.

Handlers run as behind a jump: no trap, IF as in the interrupted code. For a pre_handler ``regs.ip``
is the address of the site plus 1, as behind a breakpoint; for a post_handler it is behind the site.
A pre_handler that returns 1 has set ``regs.ip`` itself, and no post_handler runs. A change of
``sp`` has no effect. A hit in what a handler calls is missed and counted. The kernel also has
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
from engine.hit import HitPhase
from engine.kprobe import KprobeStatus

if TYPE_CHECKING:
    from arch_x86.probes.cpu_state import CpuState
    from engine.kprobe import Kprobe

__all__ = ("FtraceHandler",)

_SIZES: Final = (CALL32_SIZE, FTRACE_SIZE_MAX)
"""Bytes of the call at a site."""


class FtraceHandler:
    """The pieces of a hit that ftrace's trampoline brings.

    :param pre_handler: the piece that runs a pre_handler, which is that of a breakpoint.
    """

    def __init__(self, cpus: CpuState, pre_handler: Piece) -> None:
        self._cpus = cpus
        self._pre_handler = pre_handler

    def way(self) -> Way:
        """The pieces."""
        return Way(
            trap=self.found, found=self._pre_handler, between=self._pre_handler, handled=self.done
        )

    def found(self, hit: Hit) -> HitPhase:
        """Look the probe up whose handlers are next."""
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
        """The probe whose call returns to ``end``."""
        for size in _SIZES:
            p = self._cpus.core.get_kprobe(end - size)
            if p is not None and isinstance(p.ainsn, FtraceInsn) and p.ainsn.end == end:
                return p
        return None

    def done(self, hit: Hit) -> HitPhase:
        """They are done: the post_handlers, as if the site were a no-op that was just executed, and
        on behind it.
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
