"""The vCPUs of an x86-64 machine, as :class:`engine.patching.port.CpuPort` has them."""

from __future__ import annotations

from typing import Any, Final

from arch_x86.emu.cpu import TRAPS, ExitReason, NmiPhase
from arch_x86.emu.entry import wrong_call
from arch_x86.emu.execute import Executor
from arch_x86.emu.fault import FaultKind
from arch_x86.emu.machine import Machine
from arch_x86.emu.nested import NestedCall
from arch_x86.emu.task import TaskState
from arch_x86.isa.constants import FLAG_IF
from arch_x86.lab.calls import CallFrame
from engine.patching.parked_task import Mode, ParkedTask
from engine.patching.port_records import Fault, Stop
from engine.patching.unprobed import CallOutcome

__all__ = ("X86Cpus",)

_NO_REGISTERS: Final = (0,) * 17
_HYPERCALLS: Final = {
    "exception:3": Stop.HIT,
    "optimized_callback": Stop.HIT,
    "ftrace_caller": Stop.HIT,
    "nmi": Stop.NMI,
    "nested_return": Stop.NESTED_RETURN,
    "trampoline": Stop.RETURN_PROBE,
    "exception:1": Stop.STEPPED,
    "schedule": Stop.SCHEDULE,
    "call_return": Stop.CALL_RETURN,
}
"""By name of the stub that has executed ``hlt``, what the run ended for."""


class X86Cpus:
    """The vCPUs of ``machine`` and their tasks.

    :param frames: of each task, its call; ``stacks``: ends of the stacks of those tasks that do not
        have their vCPU's.
    """

    def __init__(
        self,
        machine: Machine,
        executor: Executor,
        frames: dict[int, CallFrame],
        stacks: dict[int, int],
    ) -> None:
        self._machine = machine
        self._executor = executor
        self._frames = frames
        self._stacks = stacks
        self._cpus = machine.cpus
        self._ucs = [cpu.uc for cpu in machine.cpus]
        self._tasks = machine.tasks
        self._stub_frames = machine.stubs.frames
        self._stop_at = {
            at: _HYPERCALLS[name]
            for at, name in machine.stubs.hypercalls.items()
            if name in _HYPERCALLS
        }
        self._reasons = [ExitReason.BUDGET for _ in machine.cpus]
        self._handler_length = executor.handler_length(machine.cpus[0])

    @property
    def number(self) -> int:
        """How many vCPUs there are."""
        return len(self._cpus)

    # Running --------------------------------------------------------------------------------------

    def ip(self, cpu: int) -> int:
        """RIP."""
        return self._ucs[cpu].rip

    def run(self, cpu: int, budget: int) -> tuple[Stop, int]:
        """See :class:`CpuPort`. A faulting instruction is one step, also where the run did not
        begin with it: a schedule has to mean the same.
        """
        vcpu = self._cpus[cpu]
        reason, retired = vcpu.run(budget)
        if reason is ExitReason.WATCH:
            return Stop.WATCHED, retired or 1
        if reason is ExitReason.BUDGET:
            return Stop.BUDGET, retired or 1
        self._reasons[cpu] = reason
        if reason is ExitReason.HYPERCALL:
            return self._stop_at.get(vcpu.rip, Stop.OTHER), retired or 1
        if reason is ExitReason.EXCEPTION:
            return Stop.EXCEPTION, retired or 1 if vcpu.vector in TRAPS else retired + 1
        return Stop.OTHER, retired or 1

    def answer(self, cpu: int) -> None:
        """The executor does what has to be done."""
        self._executor.handle_exit(self._cpus[cpu], self._reasons[cpu])

    def begin_call(self, cpu: int, task: int) -> None:
        """See :class:`CpuPort`."""
        frame = self._frames[task]
        self._executor.begin_call(cpu, frame.addr, frame.integers, frame.floats)

    def spent(self, cpu: int) -> int:
        """See :class:`CpuPort`."""
        return self._cpus[cpu].retired - self._tasks[cpu].started

    def out_of_instructions(self, cpu: int, limit: int) -> None:
        """See :class:`CpuPort`."""
        self._executor.limit_reached(cpu, limit)

    def died(self, cpu: int) -> bool:
        """See :class:`CpuPort`."""
        return self._tasks[cpu].state is TaskState.FAULTED

    def fault(self, cpu: int) -> Fault | None:
        """See :class:`CpuPort`."""
        return self._tasks[cpu].fault

    def outcome(self, task: int) -> CallOutcome:
        """Registers and RFLAGS, vector registers, x87 registers, buffers, fault."""
        vcpu = self._cpus[task // 2]
        fault = self._tasks[task // 2].fault
        return (
            vcpu.registers(),
            vcpu.uc.extended.vector_state(),
            vcpu.uc.extended.fpu_state(),
            self._buffers(task),
            fault and fault.kind,
        )

    def _buffers(self, task: int) -> tuple[bytes | None, ...]:
        return tuple(
            self._machine.ram.read(addr, len(content))
            for addr, content in self._frames[task].buffers
        )

    def way_to_die(self, task: int) -> CallOutcome:
        """See :class:`CpuPort`."""
        fault = self._tasks[task // 2].fault
        assert fault is not None
        where = "" if fault.kind is FaultKind.INSTRUCTION_LIMIT else f" at {fault.place}"
        return ((), b"", b"", self._buffers(task), f"{fault.kind}{where}")

    # Tasks ----------------------------------------------------------------------------------------

    def park(self, cpu: int, *, in_call: bool) -> tuple[int, tuple[int, ...], bytes, int, Any]:
        """See :class:`CpuPort`."""
        vcpu, task = self._cpus[cpu], self._tasks[cpu]
        context = vcpu.uc.new_context()
        vcpu.uc.save(context)
        registers = vcpu.registers() if in_call else _NO_REGISTERS
        vectors = vcpu.uc.extended.vector_state() + vcpu.uc.extended.fpu_state() if in_call else b""
        return vcpu.rip, registers, vectors, task.stack_top, (context, task.save())

    def resume(self, cpu: int, parked: ParkedTask) -> None:
        """See :class:`CpuPort`."""
        vcpu, task = self._cpus[cpu], self._tasks[cpu]
        context, saved = parked.context
        vcpu.uc.restore(context)
        vcpu.rip = parked.rip
        task.stack_top = parked.stack_top
        task.restore(saved)

    def new_tasks(self, cpu: int) -> tuple[ParkedTask, ...]:
        """The second task has the registers that the vCPU has now."""
        task = 2 * cpu + 1
        if task not in self._stacks:
            return ()
        uc = self._cpus[cpu].uc
        context = uc.new_context()
        uc.save(context)
        kept = (context, self._tasks[cpu].save())
        return (
            ParkedTask(
                task, Mode.IDLE, 0, None, False, 0, 0, _NO_REGISTERS, b"", self._stacks[task], kept
            ),
        )

    # Interrupts -----------------------------------------------------------------------------------

    def takes_interrupt(self, cpu: int) -> bool:
        """IF is set, and the last instruction was neither STI nor MOV SS."""
        vcpu = self._cpus[cpu]
        return bool(vcpu.rflags & FLAG_IF) and not vcpu.in_shadow

    def interrupt(self, cpu: int, *, whole: bool) -> None:
        """See :class:`CpuPort`."""
        self._executor.interrupt(cpu)
        if whole:
            self._cpus[cpu].run(self._handler_length)

    def interrupt_up_to_return(self, cpu: int) -> None:
        """See :class:`CpuPort`."""
        self._executor.interrupt(cpu)
        self._cpus[cpu].run(self._handler_length - 1)

    def takes_nmi(self, cpu: int) -> bool:
        """See :class:`CpuPort`."""
        return not self._executor.traps.nmi_is_blocked(self._cpus[cpu])

    def deliver_nmi(self, cpu: int, *, in_call: bool) -> bytes | None:
        """See :class:`CpuPort`."""
        vcpu = self._cpus[cpu]
        if not in_call:
            vcpu.rip = self._machine.stubs.call_return
            vcpu.uc.set_stack_and_flags(self._tasks[cpu].stack_top - 64, FLAG_IF)
        vcpu.nmi = NmiPhase.NONE
        vectors = vcpu.uc.extended.vector_state() + vcpu.uc.extended.fpu_state() if in_call else b""
        return vectors if self._executor.deliver_nmi(cpu) else None

    def enter_nmi_function(self, cpu: int, task: int) -> tuple[NestedCall, str | None]:
        """See :class:`CpuPort`."""
        vcpu, frame = self._cpus[cpu], self._frames[task]
        nested = NestedCall(self._machine, vcpu)
        nested.enter(frame.addr, frame.integers)
        return nested, wrong_call(vcpu)

    def leave_nmi(self, cpu: int, token: object) -> None:
        """See :class:`CpuPort`."""
        assert isinstance(token, NestedCall)
        vcpu = self._cpus[cpu]
        token.leave(died=False)
        vcpu.run(sum(addr >= vcpu.rip for addr in self._stub_frames))
        vcpu.nmi = NmiPhase.NONE
