"""What the kprobes layer knows of each CPU: the hit in progress there and the task that runs.
Answers to the per-CPU variables of kernel/kprobes.c and arch/x86/kernel/kprobes.c (2.6.38).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from arch_x86.probes.stepping import KprobeCtlblk

if TYPE_CHECKING:
    from engine.arch import ArchCallbacks
    from engine.core.profiles import Profile

__all__ = ("CpuState",)


class CpuState:
    """One record of all CPUs, which whatever handles their traps shares.

    :ivar core: the core whose probes these are; :meth:`arch_x86.probes.arch.X86Arch.attach` sets
        it.
    :ivar ctlblk: the hit in progress, by CPU.
    :ivar cpu: whose trap is being handled (smp_processor_id).
    :ivar tasks: which task runs on each CPU: without a scheduler each CPU has one.
    :ivar returning: whether a return probe's handler runs there.
    """

    __slots__ = ("core", "cpu", "ctlblk", "profile", "returning", "tasks")

    core: ArchCallbacks

    def __init__(self, cpus: int, profile: Profile) -> None:
        self.ctlblk = [KprobeCtlblk() for _ in range(cpus)]
        self.cpu = 0
        self.tasks = list(range(cpus))
        self.returning = [False] * cpus
        self.profile = profile

    @property
    def current(self) -> KprobeCtlblk:
        """The record of the CPU whose trap is being handled."""
        return self.ctlblk[self.cpu]

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

    def handler_takes_interrupts(self, cpu: int) -> bool:
        """Whether the handler that runs on ``cpu``, if not behind a breakpoint, has IF as the
        interrupted code has it; else it is clear.
        """
        return self.profile.return_handlers_take_interrupts or not self.returning[cpu]
