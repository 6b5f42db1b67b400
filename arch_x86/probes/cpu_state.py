"""This module has what kprobes know of each CPU: per-CPU variables of kernel/kprobes.c.

They are the hit in progress, and the task that runs there. The module answers also to those of
arch/x86/kernel/kprobes.c (2.6.38).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from arch_x86.probes.stepping import KprobeCtlblk

if TYPE_CHECKING:
    from engine.arch import ArchCallbacks
    from engine.core.profiles import Profile

__all__ = ("CpuState",)


class CpuState:
    """This class is one record of all CPUs, which every module shares that handles their traps.

    :param cpus: how many there are.
    :ivar core: the core whose probes these are;
        :meth:`arch_x86.probes.x86_arch.X86Arch.attach` sets it.
    :ivar ctlblk: the hit in progress, by CPU.
    :ivar cpu: the CPU whose trap is being handled (smp_processor_id).
    :ivar tasks: the task that runs on each CPU; without a scheduler each CPU has one.
    :ivar returning: True for each CPU on which a return probe's handler runs.
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
        """Return the record of the CPU whose trap is being handled."""
        return self.ctlblk[self.cpu]

    def save_state(self) -> Any:
        """Return the hits in progress, for :meth:`restore_state`."""
        return [block.saved() for block in self.ctlblk]

    def restore_state(self, state: Any) -> None:
        """Go back to the hits in progress that :meth:`save_state` has returned."""
        for block, saved in zip(self.ctlblk, state, strict=True):
            block.restore(saved)

    def call_died(self, cpu: int) -> None:
        """Forget the hit in progress on ``cpu``, whose call has died, so that it never ends.

        The status that a hit has left which is over stays.
        """
        block = self.ctlblk[cpu]
        if not block.left_stepping:
            block.restore(KprobeCtlblk().saved())

    def hit_in_progress(self, cpu: int) -> Any:
        """Return the hit in progress on ``cpu`` and its open calls, for :meth:`resume_hit`.

        The open calls are those that return probes follow.
        """
        return self.ctlblk[cpu].saved(), self.core.kretprobes.open_calls(self.tasks[cpu])

    def resume_hit(self, cpu: int, hit: Any) -> None:
        """Go back to what :meth:`hit_in_progress` has returned.

        A guest function that a handler on ``cpu`` called has died, and with it all hits and calls
        that came since.
        """
        saved, calls = hit
        self.ctlblk[cpu].restore(saved)
        self.core.kretprobes.drop_calls(self.tasks[cpu], calls)

    def handler_takes_interrupts(self, cpu: int) -> bool:
        """Return True if the handler that runs on ``cpu`` has IF as the interrupted code has it.

        Otherwise IF is clear. The question is not asked of a handler behind a breakpoint, where IF
        is always clear.
        """
        return self.profile.return_handlers_take_interrupts or not self.returning[cpu]
