"""An x86-64 machine, as an implementation of :class:`engine.patching.port.Port`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from arch_x86.emu.execute import Executor
from arch_x86.emu.machine import Machine
from arch_x86.explore.cpu_port import X86Cpus
from arch_x86.explore.hit_port import X86Hits
from arch_x86.explore.memory_port import X86Memory
from arch_x86.explore.text_port import X86Text
from arch_x86.explore.unprobed_port import X86Unprobed
from arch_x86.isa.constants import PAGE_SIZE
from arch_x86.lab.calls import CallFrame
from engine.patching.experiment import Experiment
from engine.patching.own_code import OwnCode
from engine.patching.planned_call import PlannedCall

__all__ = ("X86Port",)


_OWN: Final = OwnCode(frozenset({"engine", "arch_x86"}), "arch_x86.explore.scenarios")


class X86Port:
    """The port on ``machine``, which has been brought up.

    :param experiment: the experiment that happens on the machine.
    :param frames: the registers and buffers of each task's call.
    :param calls: how often each task makes its call.
    """

    def __init__(
        self,
        machine: Machine,
        executor: Executor,
        experiment: Experiment,
        frames: dict[int, CallFrame],
        calls: Mapping[int, PlannedCall],
    ) -> None:
        self.machine = machine
        self.own_code = _OWN
        size = machine.config.stack_pages * PAGE_SIZE
        stacks = {task: machine.allocate(size) + size for task in frames if task % 2}
        self.cpus = X86Cpus(machine, executor, frames, stacks)
        self.hits = X86Hits(executor)
        self.text = X86Text(machine, experiment.profile, experiment.poke)
        self.memory = X86Memory(machine, frames, stacks)
        self.unprobed = X86Unprobed(
            executor,
            frames=frames,
            times={task: call.times for task, call in calls.items()},
            stacks=stacks,
            limit=experiment.max_instructions,
            cpus=self.cpus,
            memory=self.memory,
        )

    def close(self) -> None:
        """Give the machine's emulators back to their pool."""
        self.machine.close()
