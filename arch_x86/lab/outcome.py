"""This module compares what two calls have left behind; no kernel file answers to it.

``verify`` rests on it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from arch_x86.emu.machine import Machine
from arch_x86.emu.uc import GPR_NAMES
from arch_x86.isa.constants import PAGE_SIZE
from arch_x86.lab.pushed import Dead

__all__ = ("Outcome", "OutcomeReader")


_FPU_NAMES = (
    *(f"x87 register {i}" for i in range(8)),
    "x87 control word",
    "x87 status word",
    "x87 tag word",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """This record is what a call has left behind.

    The dead stack below the final RSP, and the machine's own per-CPU page, are left out.

    :ivar registers: the 16 general registers, then RFLAGS.
    :ivar vectors: the vector registers and MXCSR.
    :ivar fpu: the x87 state.
    :ivar memory: the memory that the call could write and its caller may read.
    :ivar fault: the fault in which the call ended, in words, or None.
    """

    registers: tuple[int, ...]
    vectors: bytes
    fpu: bytes
    memory: tuple[bytes, ...]
    fault: str | None


class OutcomeReader:
    """This class reads the outcomes of calls on one CPU of one machine.

    It is made when all buffers of the call are allocated.
    """

    def __init__(self, machine: Machine, cpu: int) -> None:
        self._machine = machine
        self._cpu = cpu
        own = {machine.layout.gs_base(i) // PAGE_SIZE for i in range(len(machine.cpus))}
        stack_top = machine.tasks[cpu].stack_top
        low = stack_top // PAGE_SIZE - machine.config.stack_pages
        own |= set(range(low, stack_top // PAGE_SIZE))
        self._spans = _merge(machine, own)
        top = machine.ram.physical(machine.tasks[cpu].base_rsp)
        assert top is not None
        self._spans.append((top, top + stack_top - machine.tasks[cpu].base_rsp))

    def read(self) -> Outcome:
        """Return the outcome of the call that has just ended."""
        machine = self._machine
        fault = machine.tasks[self._cpu].fault
        vcpu = machine.cpus[self._cpu]
        room = machine.ram.room
        return Outcome(
            registers=vcpu.registers(),
            vectors=vcpu.uc.extended.vector_state(),
            fpu=vcpu.uc.extended.fpu_state(),
            memory=tuple(room[start:stop] for start, stop in self._spans),
            fault=f"{fault.place}: {fault.kind}: {fault.explain}" if fault is not None else None,
        )

    def without_pushes(self, got: Outcome, want: Outcome, dead: Dead) -> Outcome:
        """Return ``got`` with what the machine pushed below RSP taken back.

        A byte in ``dead`` that is as the machine left it becomes what ``want`` has there, if the
        code had that there when it was overwritten. A byte that the code has written since, or
        should have written, stays.

        :param want: the outcome of the unprobed run.
        :param dead: the bytes that the machine has overwritten.
        """
        if not dead or got.memory == want.memory:
            return got
        memory = list(got.memory)
        for addr, (left, had) in dead.items():
            phys = self._machine.ram.physical(addr)
            for index, (start, stop) in enumerate(self._spans):
                if phys is not None and start <= phys < stop:
                    at = phys - start
                    if memory[index][at] == left and want.memory[index][at] in had:
                        memory[index] = (
                            memory[index][:at]
                            + want.memory[index][at : at + 1]
                            + memory[index][at + 1 :]
                        )
        return replace(got, memory=tuple(memory))

    def explain(self, got: Outcome, want: Outcome) -> str | None:
        """Return the first difference between ``got`` and ``want`` in one line, or None."""
        if got == want:
            return None
        if got.fault != want.fault:
            return (
                f"guest fault at {got.fault}"
                if got.fault
                else f"no guest fault, though the unprobed run had one at {want.fault}"
            )
        for name, new, old in zip(
            (*GPR_NAMES, "rflags"), got.registers, want.registers, strict=True
        ):
            if new != old:
                return f"{name} is {new:#x}, without the probe {old:#x}"
        if got.vectors != want.vectors:
            at = next(
                i for i, (x, y) in enumerate(zip(got.vectors, want.vectors, strict=True)) if x != y
            )
            return f"{'mxcsr' if at >= 256 else f'xmm{at // 16}'} differs"
        for index, name in enumerate(_FPU_NAMES):
            part = slice(16 * index, 16 * index + 16)
            if got.fpu[part] != want.fpu[part]:
                new, old = (int.from_bytes(state[part], "little") for state in (got.fpu, want.fpu))
                return f"{name} is {new:#x}, without the probe {old:#x}"
        for (start, _), new, old in zip(self._spans, got.memory, want.memory, strict=True):
            if new != old:
                at = next(i for i, (x, y) in enumerate(zip(new, old, strict=True)) if x != y)
                where = self._machine.ram.virtual(start + at)
                return f"memory at {where:#x} is {new[at]:#04x}, without the probe {old[at]:#04x}"
        return "the runs differ"


def _merge(machine: Machine, own: set[int]) -> list[tuple[int, int]]:
    """Return the physical spans (start, end) of all data pages except ``own``."""
    spans: list[tuple[int, int]] = []
    for vpn, phys in machine.ram.pages():
        if vpn in own:
            continue
        if spans and spans[-1][1] == phys:
            spans[-1] = (spans[-1][0], phys + PAGE_SIZE)
        else:
            spans.append((phys, phys + PAGE_SIZE))
    return spans
