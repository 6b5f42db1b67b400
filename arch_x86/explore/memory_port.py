"""The memory and saved states of an x86-64 machine, as :class:`engine.patching.port.MemoryPort`."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from mmap import mmap
from typing import Any

from arch_x86.emu.cpu import CpuState
from arch_x86.emu.machine import Machine
from arch_x86.emu.stubs import GS_END, GS_INTERRUPTS
from arch_x86.emu.uc import RSP
from arch_x86.isa.constants import PAGE_SIZE, RED_ZONE_SIZE
from arch_x86.lab.calls import CallFrame
from engine.patching.parked_task import Mode, ParkedTask

__all__ = ("X86Memory",)

_Saved = tuple[bytes, list[CpuState], list[tuple[Any, ...]]]


class X86Memory:
    """The memory of ``machine``, and the state of the whole machine.

    :param frames: the call of each task.
    :param stacks: the end of the stack of each task that does not use its vCPU's stack.
    """

    def __init__(
        self, machine: Machine, frames: dict[int, CallFrame], stacks: dict[int, int]
    ) -> None:
        self._machine = machine
        self._frames = frames
        self._stacks = stacks
        self._red_zone = RED_ZONE_SIZE if machine.image.red_zone else 0
        self._spare: list[list[CpuState]] = []

    # Data -----------------------------------------------------------------------------------------

    @property
    def room(self) -> mmap:
        """The machine's physical memory, from address 0."""
        return self._machine.ram.room

    def content(self) -> bytes:
        """Return a copy of all physical memory that is in use."""
        return self._machine.ram.room[: self._machine.ram.used]

    def data(self, *, per_cpu: bool) -> list[tuple[int, int]]:
        """Return the physical spans (begin, end) of the data, without the stacks.

        The counters that the machine's own handlers keep in a vCPU's area are left out.

        :param per_cpu: include each vCPU's own area.
        """
        machine = self._machine
        areas = {machine.layout.gs_base(cpu.index) >> 12 for cpu in machine.cpus}
        own = set[int]() if per_cpu else set(areas)
        for stack_top in (*(task.stack_top for task in machine.tasks), *self._stacks.values()):
            top = stack_top >> 12
            own |= set(range(top - machine.config.stack_pages, top))
        spans: list[tuple[int, int]] = []
        for vpn, phys in machine.ram.pages():
            if vpn in own:
                continue
            end = phys + PAGE_SIZE
            spans += (
                [(phys, phys + GS_INTERRUPTS), (phys + GS_END, end)]
                if vpn in areas
                else [(phys, end)]
            )
        return spans

    def own(self, task: int) -> Iterator[range]:
        """Yield the physical spans that belong to ``task`` alone: its stack and its buffers."""
        machine = self._machine
        size = PAGE_SIZE * machine.config.stack_pages
        top = self._stacks.get(task, machine.tasks[task // 2].stack_top)
        for addr, length in (
            (top - size, size),
            *((addr, len(content)) for addr, content in self._frames[task].buffers),
        ):
            at, end = addr, addr + length
            while at < end:
                stop = min(end, (at // PAGE_SIZE + 1) * PAGE_SIZE)
                phys = machine.ram.physical(at)
                if phys is not None:
                    yield range(phys, phys + stop - at)
                at = stop

    def name(self, phys: int) -> str:
        """Return a name for a physical address: symbol and offset, or else the virtual address."""
        addr = self._machine.ram.virtual(phys)
        symbol = next(
            (one for one in self._machine.image.symbols if one.addr <= addr < one.addr + one.size),
            None,
        )
        return f"{addr:#x}" if symbol is None else f"{symbol.name}+{addr - symbol.addr:#x}"

    # State ----------------------------------------------------------------------------------------

    def save(self) -> _Saved:
        """Return the state of the machine: its memory, its vCPUs and its tasks.

        The records of a released state are filled again, which is faster than making new ones.
        """
        machine = self._machine
        if self._spare:
            states = self._spare.pop()
            for cpu, state in zip(machine.cpus, states, strict=True):
                cpu.save_into(state)
        else:
            states = [cpu.save() for cpu in machine.cpus]
        return (
            machine.ram.room[: machine.ram.used],
            states,
            [(task.stack_top, *task.save()) for task in machine.tasks],
        )

    def restore(self, saved: _Saved) -> None:
        """Bring memory, vCPUs and tasks back to ``saved``, which can be restored again."""
        machine = self._machine
        ram, states, tasks = saved
        machine.ram.room[: len(ram)] = ram
        for cpu, state in zip(machine.cpus, states, strict=True):
            cpu.restore(state)
        for task, state in zip(machine.tasks, tasks, strict=True):
            task.stack_top = state[0]
            task.restore(state[1:])

    def require_restored(self, saved: _Saved) -> None:
        """Check that each vCPU stands where it stood in ``saved``.

        :raises EngineBug: a vCPU stands elsewhere.
        """
        self._machine.require_restored(saved[1])

    def release(self, saved: _Saved) -> None:
        """Reuse the records of ``saved``, which is not needed any more, in a later :meth:`save`."""
        self._spare.append(saved[1])

    # Names of states ------------------------------------------------------------------------------

    def add_cpu(self, cpu: int, digest: blake2b) -> None:
        """Add all that decides how the vCPU goes on to the hash of a state.

        That is its registers, vectors and x87 state, whether interrupts are held back behind STI or
        MOV SS, and the live part of its stack. What differs in none of these goes on in the same
        way.
        """
        vcpu = self._machine.cpus[cpu]
        uc = vcpu.uc
        uc.load()
        digest.update(uc.gpr)
        digest.update(uc.extended.vector_state())
        digest.update(uc.extended.fpu_state())
        digest.update(b"\1" if vcpu.in_shadow else b"\0")
        digest.update(self._live_stack(uc.gpr[RSP], self._machine.tasks[cpu].stack_top))

    def add_task(self, parked: ParkedTask, digest: blake2b) -> None:
        """Add the live stack of a task that does not run to the hash of a state.

        A task between two calls has nothing live on its stack. The record ``parked`` has the rest.
        """
        if parked.mode is Mode.CALL:
            digest.update(self._live_stack(parked.registers[RSP], parked.stack_top))

    def _live_stack(self, rsp: int, top: int) -> bytes:
        """Return the live bytes of a stack: from the red zone under ``rsp`` on up to ``top``.

        The bytes below were left by calls that have returned, and no code reads them. Two states
        that differ in nothing else count as one.
        """
        ram = self._machine.ram
        low, last = ram.physical(rsp - self._red_zone), ram.physical(top - 1)
        return ram.room[low : last + 1] if low is not None and last is not None else b""
