"""This module steps the unprobed run that ``verify`` compares with; no kernel file answers to it.

The run says which instructions the call passes, how often, and with which registers.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from arch_x86.emu.fault import GuestFault
from arch_x86.emu.uc import GPR_NAMES, RCX, RSP
from arch_x86.lab.bench import Workbench
from arch_x86.lab.pushed import is_own_stack, under
from arch_x86.lab.stack_use import StackUse
from arch_x86.probes.ptregs import PtRegs

__all__ = ("Golden", "PassLog", "saw", "step_through")

# The registers of this many passes of an instruction are kept, so that a message can name the one
# that differs. Of further passes a hash is kept, which tells only that some register differs.
_IN_FULL: Final = 64
_REPORT_EVERY: Final = 4096
_NAMES: Final = (*GPR_NAMES, "rflags")
_REPEATS: Final = (0xF2, 0xF3)
_STRING_OPCODES: Final = frozenset(
    {0xA4, 0xA5, 0xA6, 0xA7, 0xAA, 0xAB, 0xAC, 0xAD, 0xAE, 0xAF, 0x6C, 0x6D, 0x6E, 0x6F}
)

Registers = tuple[int, ...]
"""These are the 16 general registers in the order of their encoding, then RFLAGS."""


def saw(regs: PtRegs) -> Registers:
    """Return the registers that a handler was shown."""
    return (
        regs.ax, regs.cx, regs.dx, regs.bx, regs.sp, regs.bp, regs.si, regs.di,
        regs.r8, regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15, regs.flags,
    )  # fmt: skip


class PassLog:
    """This class has the registers at each pass of one instruction.

    The first 64 passes are kept in full, and of the others, which may be millions, a hash of each.

    :ivar under: the bytes below RSP at the last pass with an RSP outside of the task's own stack,
        by RSP.
    """

    __slots__ = ("_first", "_hashes", "under")

    def __init__(self) -> None:
        self.under: dict[int, bytes] = {}
        self._first: list[Registers] = []
        self._hashes = array("q")

    def __len__(self) -> int:
        return len(self._hashes)

    def add(self, registers: Registers) -> None:
        """Note one more pass with these registers."""
        if len(self._first) < _IN_FULL:
            self._first.append(registers)
        self._hashes.append(_hash(registers))

    def explain(self, number: int, seen: Registers) -> str | None:
        """Return in one clause how ``seen`` differs from the registers at pass ``number``.

        It is None where they are equal. Passes count from 0.
        """
        if number >= len(self._hashes):
            return None  # There is no such pass. The hits are one too many, which verify reports.
        if number >= len(self._first):
            return (
                None
                if self._hashes[number] == _hash(seen)
                else f"at pass {number + 1} other registers than the site had"
            )
        had = self._first[number]
        if had == seen:
            return None
        for name, new, old in zip(_NAMES, seen, had, strict=True):
            if new != old:
                return f"at pass {number + 1} {name} = {new:#x}, where the site had {old:#x}"
        return None


def _hash(registers: Registers) -> int:
    # The tuple's own hash() would not do: that of an int is taken modulo 2^61 - 1, so that
    # different registers, such as 7 and 2^64 - 1, have the same.
    return hash(array("Q", registers).tobytes())


@dataclass(frozen=True, slots=True)
class Golden:
    """This record is the unprobed run.

    :ivar passes: the instructions of the image that it executed, in the order of their first
        execution.
    :ivar steps: REP string instructions, with each iteration a pass: a single step ends after each
        iteration and comes back to the breakpoint, as it does on Linux.
    :ivar instructions: how many instructions it retired.
    :ivar fault: how it ended, if in a fault.
    :ivar reads_stale: it reads what an interrupt may change, as :mod:`arch_x86.lab.stack_use` says.
    """

    passes: dict[int, PassLog]
    steps: dict[int, PassLog]
    instructions: int
    fault: GuestFault | None
    reads_stale: bool = True

    def hits(self, addr: int, *, by_step: bool) -> PassLog:
        """Return what the handler of a probe at ``addr`` should see.

        :param by_step: the instruction is single-stepped by TF.
        """
        # At a site that the call does not execute, the handler should see nothing.
        log = self.passes.get(addr) or PassLog()
        return self.steps.get(addr, log) if by_step else log


def step_through(
    bench: Workbench, instructions: int, progress: Callable[[int, int], None]
) -> Golden:
    """Step a call that has just begun to its end, and return what it passed.

    :param instructions: how many instructions it retires at full speed; the stepping stops there in
        any case.
    :param progress: is told how many instructions are done, and how many there are.
    """
    machine, executor = bench.machine, bench.executor
    vcpu, task = machine.cpus[0], machine.tasks[0]
    passes: dict[int, PassLog] = {}
    steps: dict[int, PassLog] = {}
    end = task.started + instructions
    report_at = vcpu.retired
    use = StackUse(machine, vcpu.registers()[RSP])
    use.begin()
    while executor.running(0) and vcpu.retired < end:
        if vcpu.retired >= report_at:
            progress(vcpu.retired - task.started, instructions)
            report_at = vcpu.retired + _REPORT_EVERY
        rip, registers = vcpu.rip, vcpu.registers()
        use.boundary(registers[RSP])
        if not bench.image.is_text(rip):
            executor.advance(0, 1)
            continue
        log = passes.setdefault(rip, PassLog())
        log.add(registers)
        if not is_own_stack(machine, registers[RSP]):
            log.under[registers[RSP]] = under(machine, registers[RSP])
        executor.advance(0, 1)
        if not _is_rep(bench, rip):
            continue
        iterations = [registers]
        while vcpu.rip == rip and executor.running(0) and vcpu.retired < end:
            iterations.append(vcpu.registers())
            use.boundary(registers[RSP])
            executor.advance(0, 1)
        # The emulator takes one more step where RCX is 0 already; the CPU does not.
        count = max(1, registers[RCX] - vcpu.registers()[RCX])
        each = steps.setdefault(rip, PassLog())
        for one in iterations[:count]:
            each.add(one)
    use.end()
    if executor.running(0):
        executor.limit_reached(0, instructions)
    return Golden(
        passes, steps, vcpu.retired - task.started, task.fault, reads_stale=use.reads_stale
    )


def _is_rep(bench: Workbench, addr: int) -> bool:
    function = bench.arch.code.function_at(addr)
    insn = function.insn_at(addr) if function is not None else None
    return (
        insn is not None
        and any(byte in insn.prefixes for byte in _REPEATS)
        and insn.opcode[0] in _STRING_OPCODES
    )
