"""Tasks off their CPU: a register context, a stack, and where each goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from arch_x86.emu.cpu import Cpu
from arch_x86.emu.machine import Machine
from arch_x86.emu.uc import RSP, Context
from arch_x86.explore.lane import Lane, Mode
from arch_x86.explore.lives import Lives
from arch_x86.explore.passes import Pass, pass_key

__all__ = ("Parked", "live_stack", "new_task", "park", "switch_to")

RED_ZONE_SIZE: Final = 128


@dataclass(frozen=True, slots=True)
class Parked:
    """One task that is not running. Nothing in it changes.

    :ivar task: its number: 2 * vCPU, and one more for the second.
    :ivar rip: where the CPU goes on; ``resume``: the instruction that was interrupted.
    """

    task: int
    mode: Mode
    calls: int
    passing: Pass | None
    quiet: bool
    rip: int
    resume: int
    registers: tuple[int, ...]
    vectors: bytes
    stack_top: int
    saved: tuple[Any, ...]
    context: Context

    @property
    def in_call(self) -> bool:
        """Neither between calls nor in ``schedule()``."""
        return self.mode is Mode.CALL and not self.quiet

    def key(self, lives: Lives) -> tuple[Any, ...]:
        """For a state's hash; its stack is hashed with the memory."""
        if self.mode is not Mode.CALL:
            return (self.task, self.calls)
        passing = pass_key(self.passing, lives)
        return (self.task, self.calls, passing, self.quiet, self.rip, self.registers, self.vectors)

    def stack(self, machine: Machine) -> memoryview | bytes:
        """What is live on its stack."""
        return b"" if self.mode is not Mode.CALL else live_stack(machine, self.registers[RSP], self.stack_top)


def live_stack(machine: Machine, rsp: int, top: int) -> memoryview | bytes:
    """What is live on a stack that ends at ``top``: what lies below, but for the red zone, was left by who has gone."""
    red_zone = RED_ZONE_SIZE if machine.image.red_zone else 0
    low, last = machine.ram.physical(rsp - red_zone), machine.ram.physical(top - 1)
    return machine.ram.room[low : last + 1] if low is not None and last is not None else b""


def new_task(task: int, cpu: Cpu, stack_top: int, saved: tuple[Any, ...]) -> Parked:
    """A task that has not begun its first call, with the registers of ``cpu``."""
    context = cpu.uc.new_context()
    cpu.uc.save(context)
    return Parked(task, Mode.IDLE, 0, None, False, 0, 0, (0,) * 17, b"", stack_top, saved, context)


def park(machine: Machine, lane: Lane, resume: int) -> Parked:
    """The task that runs on the lane's vCPU, as it stands."""
    cpu, task = machine.cpus[lane.index], machine.tasks[lane.index]
    context = cpu.uc.new_context()
    cpu.uc.save(context)
    registers = cpu.registers() if lane.mode is Mode.CALL else (0,) * 17
    return Parked(
        task=lane.task,
        mode=lane.mode,
        calls=lane.calls,
        passing=lane.passing,
        quiet=lane.quiet,
        rip=cpu.rip,
        resume=resume,
        registers=registers,
        vectors=cpu.uc.vector_state() + cpu.uc.fpu_state() if lane.mode is Mode.CALL else b"",
        stack_top=task.stack_top,
        saved=task.save(),
        context=context,
    )


def switch_to(machine: Machine, lane: Lane, parked: Parked) -> None:
    """Let ``parked`` run on the lane's vCPU."""
    cpu, task = machine.cpus[lane.index], machine.tasks[lane.index]
    cpu.uc.restore(parked.context)
    cpu.rip = parked.rip
    task.stack_top = parked.stack_top
    task.restore(parked.saved)
    lane.task, lane.mode, lane.calls = parked.task, parked.mode, parked.calls
    lane.passing, lane.quiet = parked.passing, parked.quiet
