"""The contracts of core, architecture layer and machine. Answers to include/linux/kprobes.h.

They are the arch_* declarations there, and what kernel/kprobes.c asks of RCU and of the workqueues.
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
    """The per-CPU variable kprobe_instance of the CPU whose trap is being handled.

    An aggregator's handlers write it, so that a fault or a break handler finds the child that it
    belongs to. Answers to set_kprobe_instance() and reset_kprobe_instance() in kernel/kprobes.c.
    """

    @property
    def kprobe_instance(self) -> Kprobe | None:
        """The child of an aggregator whose handler this CPU runs; None between two handlers."""
        ...

    @kprobe_instance.setter
    def kprobe_instance(self, p: Kprobe | None) -> None: ...


class ReturnCalls(Protocol):
    """What the architecture layer asks of the core about the calls that return probes follow.

    In all methods ``task`` is the task whose calls are meant: a key that the architecture layer
    chooses (:attr:`Arch.current_task`).
    """

    def trampoline_handler(self, regs: Any, frame: int) -> int | None:
        """Handle a return of a probed function into the trampoline.

        The return handlers of all probes on the call run, that of the probe that was entered last
        first. Answers to trampoline_handler() in the kernel's arch code (6274de4984a6), and to
        rethook_trampoline_handler() in kernel/trace/rethook.c (v6.1).

        :param regs: the registers as the caller will have them; a handler may change them.
        :param frame: the address on the stack where the call's return address lay.
        :returns: the address at which the caller goes on; None when the task has no open call that
            would say so.
        """
        ...

    def pending_return(self, task: Hashable) -> int | None:
        """The address to which the innermost open call of ``task`` will return, or None.

        None means that the task has no open call.
        """
        ...

    def open_calls(self, task: Hashable) -> int:
        """The number of open calls of ``task``."""
        ...

    def drop_calls(self, task: Hashable, keep: int) -> None:
        """Forget all open calls of ``task`` but the ``keep`` oldest, since they never return."""
        ...

    def flush_task(self, task: Hashable) -> None:
        """Forget all open calls of ``task``, which has died (kprobe_flush_task)."""
        ...

    def save_state(self) -> Any:
        """The calls that are open now, as a value for :meth:`restore_state`."""
        ...

    def restore_state(self, state: Any) -> None:
        """Make the open calls those that they were when :meth:`save_state` returned ``state``."""
        ...


class ChildHandlers(Protocol):
    """The handlers of the probes under an aggregator, which a hit runs one at a time."""

    def order(self, p: AggrKprobe) -> tuple[Kprobe, ...]:
        """The probes under ``p`` in the order in which a hit that comes now runs their handlers."""
        ...

    def child_pre_handler(self, child: Kprobe, regs: object) -> int:
        """Run the pre_handler of ``child`` with ``regs``, unless the child is disabled.

        :returns: non-zero when the handler has set ``regs.ip`` itself. Then the hit goes on there,
            and the handlers of the children behind this one do not run.
        """
        ...

    def child_opt_pre_handler(self, child: Kprobe, regs: object) -> None:
        """Run the pre_handler of ``child`` in an optimized hit, which ignores its result."""
        ...


class ArchCallbacks(Protocol):
    """What the architecture layer asks the core while a CPU is in a hit."""

    def get_kprobe(self, addr: int) -> Kprobe | None:
        """The probe or aggregator in the table at ``addr``, or None (get_kprobe)."""
        ...

    def find_optimized(self, op_id: int) -> AggrKprobe | None:
        """The aggregator whose detour buffer passes ``op_id`` to the callback, or None."""
        ...

    def kprobes_inc_nmissed_count(self, p: Kprobe) -> None:
        """Count a miss of ``p`` in ``nmissed``; of an aggregator, on each of its children."""
        ...

    @property
    def aggr(self) -> ChildHandlers:
        """What runs the handlers of the probes under an aggregator, one at a time."""
        ...

    @property
    def kretprobes(self) -> ReturnCalls:
        """The record of the calls that return probes follow."""
        ...


class Arch(CurrentInstance, Protocol):
    """The architecture layer, as the core calls it.

    A method that refuses something raises KprobeError with the errno that the kernel returns.
    Addresses are those of guest memory.
    """

    def attach(self, core: ArchCallbacks) -> None:
        """Take ``core`` as the core that hits ask; the core calls this once, when it is built."""
        ...

    def arch_check_text(self, addr: int) -> None:
        """Refuse an address where no probe may go, whatever instruction is there.

        Such addresses are outside of text, on the blacklist, or reserved for jump labels and the
        like (check_kprobe_address_safe). The caller holds no lock that would keep the text as it
        is, so this method must not read text.

        :raises KprobeError: the address is refused.
        """
        ...

    def arch_adjust_kprobe_addr(self, addr: int) -> int:
        """The address at which a probe that was asked for at ``addr`` goes.

        It lies behind ``addr`` where the first instruction of a function must stay as it is, since
        indirect calls have to find it; else it is ``addr`` (arch_adjust_kprobe_addr).
        """
        ...

    def arch_ftrace_location(self, addr: int) -> bool:
        """Whether ftrace can put a call at ``addr`` (ftrace_location).

        As :meth:`arch_check_text`, this method must not read text.
        """
        ...

    def arch_prepare_kprobe(self, p: Kprobe) -> None:
        """Check the instruction at ``p.addr`` and copy it to a slot; the caller holds text_mutex.

        A probe with the flag FTRACE gets no slot. For it, this checks that ftrace can put its call
        there (arch_prepare_kprobe_ftrace).

        :raises KprobeError: the instruction can't be probed, or there is no free slot.
        """
        ...

    def arch_remove_kprobe(self, p: Kprobe) -> None:
        """Free the slot of ``p``."""
        ...

    def arch_arm_kprobes(self, ps: Sequence[Kprobe]) -> None:
        """Write the breakpoints of ``ps`` (arch_arm_kprobe).

        They are one batch, where the poke protocol has batches.

        A probe with the flag FTRACE gets a call of ftrace's trampoline instead (arm_kprobe_ftrace).
        """
        ...

    def arch_disarm_kprobes(self, ps: Sequence[Kprobe]) -> None:
        """Write the original first bytes of ``ps`` back (arch_disarm_kprobe), as one batch.

        A probe with the flag FTRACE gets the whole instruction back that its call replaced.
        """
        ...

    def arch_prepare_optimized_kprobe(self, op: AggrKprobe) -> None:
        """Set ``op.optinsn`` to a prepared detour buffer; leave it None where no jump can go."""
        ...

    def arch_remove_optimized_kprobe(self, op: AggrKprobe) -> None:
        """Free the detour buffer of ``op``, if it has one."""
        ...

    def arch_check_optimized_kprobe(self, op: AggrKprobe) -> bool:
        """Whether no other probe keeps a jump off the site of ``op``.

        A probe does so if it lies inside the bytes that the jump would replace, and is enabled or,
        where the profile has ``dying_blocks``, still waits on one of the optimizer's lists.
        """
        ...

    def arch_within_optimized_kprobe(self, op: AggrKprobe, addr: int) -> bool:
        """Whether ``addr`` lies inside the bytes that the jump of ``op`` replaces."""
        ...

    def arch_optimize_kprobes(self, ops: Sequence[AggrKprobe]) -> None:
        """Write jumps over the breakpoints of ``ops``, in one batch."""
        ...

    def arch_unoptimize_kprobes(self, ops: Sequence[AggrKprobe]) -> None:
        """Write breakpoints and the original bytes behind them over the jumps of ``ops``.

        All of them are one batch.
        """
        ...

    def arch_unoptimize_kprobe(self, op: AggrKprobe) -> None:
        """Write the breakpoint and the original bytes behind it over the jump of ``op``."""
        ...

    def arch_prepare_kretprobe(self, ri: KretprobeInstance, regs: Any) -> bool:
        """Make the call that ``regs`` has just entered return to the trampoline.

        ``ri`` gets the return address and the place on the stack where it lay
        (arch_prepare_kretprobe, or arch_rethook_prepare of v6.1).

        :returns: False when the return address can't be read or written; nothing is changed then.
        """
        ...

    def arch_setjmp(self, entry: int, regs: Any) -> None:
        """Let the entry of a jumper probe run behind this hit (setjmp_pre_handler).

        ``regs`` and the top of the stack are kept, and ``regs`` go on at ``entry``.
        """
        ...

    def arch_longjmp(self, regs: Any) -> bool:
        """End the entry of a jumper probe (longjmp_break_handler).

        The registers and the stack become what :meth:`arch_setjmp` has kept.

        :returns: False, with nothing changed, when the breakpoint that was hit is not the one of
            ``jprobe_return``.
        """
        ...

    def arch_set_current_kprobe(self, p: Kprobe | None) -> None:
        """Say that a handler of ``p`` runs on this CPU from now on, or, with None, that none does.

        While one runs, a hit of this CPU on another probe is a miss.
        """
        ...

    @property
    def trampoline(self) -> int:
        """The address to which functions with a return probe return."""
        ...

    @property
    def current_task(self) -> Hashable:
        """The task whose trap is being handled."""
        ...

    @property
    def possible_cpus(self) -> int:
        """The number of CPUs (num_possible_cpus)."""
        ...

    @property
    def max_optimized_len(self) -> int:
        """The largest number of bytes that a jump can replace (MAX_OPTIMIZED_LENGTH)."""
        ...


class MachinePort(Protocol):
    """What control code asks of the machine.

    The vCPUs run while a method waits. ``why`` names the reason of a wait, for messages and points.
    """

    def synchronize_sched(self, why: str) -> None:
        """Wait until every vCPU has passed a quiescent point that began after now."""
        ...

    def synchronize_rcu_tasks(self, why: str) -> None:
        """Wait until every task has passed a voluntary schedule() or ended its call since now."""
        ...

    def schedule_delayed_work(self, work: Callable[[], None], delay: int, name: str) -> None:
        """Run ``work`` as a control task called ``name``, ``delay`` jiffies from now."""
        ...

    def wait_until(self, ready: Callable[[], bool], why: str) -> None:
        """Wait until ``ready()`` is true.

        :raises Deadlock: nothing that is left in the machine can make it true.
        """
        ...
