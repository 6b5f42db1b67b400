"""The contracts between the kprobes core, the arch layer and the machine. Answers to the arch_*
declarations of include/linux/kprobes.h and to what kernel/kprobes.c asks of the scheduler.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

from engine.kprobe import AggrKprobe, Kprobe
from engine.kretprobe import KretprobeInstance

__all__ = (
    "Arch",
    "ArchCallbacks",
    "ChildHandlers",
    "CurrentInstance",
    "MachinePort",
    "ReturnCalls",
)


class CurrentInstance(Protocol):
    """What is known of the CPU whose trap is being handled."""

    @property
    def kprobe_instance(self) -> Kprobe | None:
        """Of an aggregator's hit in progress, the child whose handler runs."""
        ...

    @kprobe_instance.setter
    def kprobe_instance(self, p: Kprobe | None) -> None: ...


class ReturnCalls(Protocol):
    """What the arch layer asks of the core about calls that return probes follow. ``task``: whose
    call it is.
    """

    def trampoline_handler(self, regs: Any, frame: int) -> int | None:
        """A probed function has returned into the trampoline: call the handlers of all probes on
        the call, newest first.

        :param frame: where on the stack its return address lay.
        :returns: where to go on; None when no call is open there.
        """
        ...

    def pending_return(self, task: Hashable) -> int | None:
        """Where the innermost open call will return to; None when none is open."""
        ...

    def open_calls(self, task: Hashable) -> int:
        """How many calls are open."""
        ...

    def drop_calls(self, task: Hashable, keep: int) -> None:
        """Of the open calls only the ``keep`` oldest will return."""
        ...

    def flush_task(self, task: Hashable) -> None:
        """The task is dead: its open calls never return."""
        ...

    def save_state(self) -> Any:
        """Which calls are open, for :meth:`restore_state`."""
        ...

    def restore_state(self, state: Any) -> None:
        """Go back to what :meth:`save_state` has returned."""
        ...


class ChildHandlers(Protocol):
    """The handlers of the probes under an aggregator, which a hit runs one by one."""

    def order(self, p: AggrKprobe) -> tuple[Kprobe, ...]:
        """The probes under ``p`` in the order in which a hit that comes now runs their handlers."""
        ...

    def child_pre_handler(self, child: Kprobe, regs: object) -> int:
        """Run the pre_handler of ``child``, unless it is disabled. Non-zero: it has set ip itself,
        and no other child's runs.
        """
        ...

    def child_opt_pre_handler(self, child: Kprobe, regs: object) -> None:
        """The same on the optimized path, where what it returns is ignored."""
        ...


class ArchCallbacks(Protocol):
    """What the arch layer asks the core on a hit."""

    def get_kprobe(self, addr: int) -> Kprobe | None:
        """The probe (or aggregator) in the table at ``addr``."""
        ...

    def find_optimized(self, op_id: int) -> AggrKprobe | None:
        """The aggregator whose detour buffer carries ``op_id``."""
        ...

    def kprobes_inc_nmissed_count(self, p: Kprobe) -> None:
        """Count a miss, on every child of an aggregator."""
        ...

    @property
    def aggr(self) -> ChildHandlers:
        """The handlers of the probes under an aggregator, one by one."""
        ...

    @property
    def kretprobes(self) -> ReturnCalls:
        """The calls that return probes follow."""
        ...


class Arch(CurrentInstance, Protocol):
    """The arch layer. Errors are KprobeError with the kernel's errno."""

    def attach(self, core: ArchCallbacks) -> None:
        """Called once by the core."""
        ...

    def arch_check_text(self, addr: int) -> None:
        """Refuse an address where no probe may go (outside of text, blacklisted, reserved). Raises
        KprobeError.

        No lock is held that keeps the text as it is, so this does not read it.
        """
        ...

    def arch_adjust_kprobe_addr(self, addr: int) -> int:
        """Where a probe that was asked for at ``addr`` goes: further on where a function's first
        instruction is not to be touched.
        """
        ...

    def arch_ftrace_location(self, addr: int) -> bool:
        """``addr`` is where ftrace can put a call (ftrace_location). As ``arch_check_text``, this
        does not read the text.
        """
        ...

    def arch_prepare_kprobe(self, p: Kprobe) -> None:
        """With text_mutex held: check the instruction at ``p.addr`` and copy it to a single-step
        slot. One with FTRACE set gets none, and what is checked is that ftrace can put its call
        there (arch_prepare_kprobe_ftrace). Raises KprobeError.
        """
        ...

    def arch_remove_kprobe(self, p: Kprobe) -> None:
        """Free the slot."""
        ...

    def arch_arm_kprobes(self, ps: Sequence[Kprobe]) -> None:
        """Write the breakpoints (arch_arm_kprobe), in one batch where the kernel has such; where
        FTRACE is set, ftrace's calls (arm_kprobe_ftrace).
        """
        ...

    def arch_disarm_kprobes(self, ps: Sequence[Kprobe]) -> None:
        """Write the original first bytes back (arch_disarm_kprobe), likewise."""
        ...

    def arch_prepare_optimized_kprobe(self, op: AggrKprobe) -> None:
        """Set ``op.optinsn`` to a prepared detour buffer, or leave it None where the site can't be
        optimized.
        """
        ...

    def arch_remove_optimized_kprobe(self, op: AggrKprobe) -> None:
        """Free the detour buffer."""
        ...

    def arch_check_optimized_kprobe(self, op: AggrKprobe) -> bool:
        """False while another probe sits inside the bytes that the jump would replace (whose bytes
        are int3 or jump there).
        """
        ...

    def arch_within_optimized_kprobe(self, op: AggrKprobe, addr: int) -> bool:
        """True when ``addr`` lies inside the bytes that the jump replaces."""
        ...

    def arch_optimize_kprobes(self, ops: Sequence[AggrKprobe]) -> None:
        """Breakpoints into jumps, one batch."""
        ...

    def arch_unoptimize_kprobes(self, ops: Sequence[AggrKprobe]) -> None:
        """Jumps back into breakpoints, one batch."""
        ...

    def arch_unoptimize_kprobe(self, op: AggrKprobe) -> None:
        """One jump back into a breakpoint, at once."""
        ...

    def arch_prepare_kretprobe(self, ri: KretprobeInstance, regs: Any) -> bool:
        """At a function's entry: note the return address and its place in ``ri``, and put the
        trampoline there. False: can't be read.
        """
        ...

    def arch_setjmp(self, entry: int, regs: Any) -> None:
        """Keep ``regs`` and the top of the stack of this CPU's hit, and make ``regs`` go on at
        ``entry``.
        """
        ...

    def arch_longjmp(self, regs: Any) -> bool:
        """This breakpoint is that of ``jprobe_return``: put them back. False: it is not."""
        ...

    def arch_set_current_kprobe(self, p: Kprobe | None) -> None:
        """From now on a handler of ``p`` runs on this CPU, and other probes that it hits are
        missed; None: no more.
        """
        ...

    @property
    def trampoline(self) -> int:
        """Where functions with a return probe return to."""
        ...

    @property
    def current_task(self) -> Hashable:
        """Whose trap is being handled."""
        ...

    @property
    def possible_cpus(self) -> int:
        """num_possible_cpus()."""
        ...

    @property
    def max_optimized_len(self) -> int:
        """Most bytes that a jump can replace (MAX_OPTIMIZED_LENGTH)."""
        ...


class MachinePort(Protocol):
    """What control code asks of the machine. Waits return when the machine has come so far; the
    vCPUs run meanwhile.
    """

    def synchronize_sched(self, why: str) -> None:
        """Until every vCPU has passed a quiescent point that began after now."""
        ...

    def synchronize_rcu_tasks(self, why: str) -> None:
        """Until every task has passed a voluntary schedule() or ended its call since now."""
        ...

    def schedule_delayed_work(self, work: Callable[[], None], delay: int, name: str) -> None:
        """Run ``work`` as a control task ``delay`` jiffies from now."""
        ...

    def wait_until(self, ready: Callable[[], bool], why: str) -> None:
        """Until ``ready()``; raises Deadlock when nothing left in the machine can bring it
        about.
        """
        ...
