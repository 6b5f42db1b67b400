"""An x86-64 machine, as :class:`engine.patching.port.Port` has it."""

from __future__ import annotations

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
from arch_x86.text.poke import PokeFactory
from engine.core.profiles import Profile
from engine.patching.own_code import OwnCode

__all__ = ("X86Port",)


_OWN: Final = OwnCode(frozenset({"engine", "arch_x86"}), "arch_x86.explore.scenarios")


class X86Port:
    """The port on ``machine``, which has been brought up.

    :param frames: of each task, its call; ``times``: how often it makes it.
    :param limit: most instructions of a call that runs without probes.
    :param poke: makes the poke protocol; None: the profile's.
    """

    def __init__(
        self,
        machine: Machine,
        executor: Executor,
        profile: Profile,
        frames: dict[int, CallFrame],
        times: dict[int, int],
        limit: int,
        poke: PokeFactory | None = None,
    ) -> None:
        self.machine = machine
        self.own_code = _OWN
        size = machine.config.stack_pages * PAGE_SIZE
        stacks = {task: machine.allocate(size) + size for task in frames if task % 2}
        self.cpus = X86Cpus(machine, executor, frames, stacks)
        self.hits = X86Hits(executor)
        self.text = X86Text(machine, profile, poke)
        self.memory = X86Memory(machine, frames, stacks)
        self.unprobed = X86Unprobed(
            executor,
            frames=frames,
            times=times,
            stacks=stacks,
            limit=limit,
            cpus=self.cpus,
            memory=self.memory,
        )

    def close(self) -> None:
        """Give the emulators back."""
        self.machine.close()
