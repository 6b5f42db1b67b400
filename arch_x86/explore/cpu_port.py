"""The vCPUs of an x86-64 machine, as an implementation of :class:`engine.patching.port.CpuPort`."""

from __future__ import annotations

from typing import Any, Final

from arch_x86.emu.cpu import TRAPS, ExitReason, NmiPhase
from arch_x86.emu.entry import wrong_call
from arch_x86.emu.execute import Executor
from arch_x86.emu.fault import FaultKind
from arch_x86.emu.machine import Machine
from arch_x86.emu.nested import NestedCall
from arch_x86.emu.task import TaskState
from arch_x86.emu.uc import GPR_NAMES
from arch_x86.isa.constants import FLAG_IF
from arch_x86.lab.calls import CallFrame
from engine.patching.parked_task import Mode, ParkedTask
from engine.patching.port_records import Fault, Stop
from engine.patching.unprobed import CallOutcome

__all__ = ("X86Cpus",)

_NO_REGISTERS: Final = (0,) * 17
_SP: Final = GPR_NAMES.index("rsp")
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
"""Why a run has ended, by the name of the stub that has executed ``hlt``."""


class X86Cpus:
    """The vCPUs of ``machine`` and their tasks.

    :param frames: the call of each task.
    :param stacks: the end of the stack of each task that does not use its vCPU's stack.
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
        """The machine has this number of vCPUs."""
        return len(self._cpus)

    # Running --------------------------------------------------------------------------------------

    def ip(self, cpu: int) -> int:
        """Return RIP, the address of the vCPU's next instruction."""
        return self._ucs[cpu].rip

    def run(self, cpu: int, budget: int) -> tuple[Stop, int]:
        """Run the vCPU up to a watched instruction, a stop that needs an answer, or ``budget``.

        A faulting instruction counts as one step, also where the run did not begin with this
        instruction. So a schedule means the same however its runs are cut.

        :returns: why the run has ended, and the number of its steps, at least 1.
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
        """Let the executor do what the vCPU's last stop requires, such as an exception."""
        self._executor.handle_exit(self._cpus[cpu], self._reasons[cpu])

    def begin_call(self, cpu: int, task: int) -> None:
        """Set the vCPU's registers and stack up for the call that ``task`` makes."""
        frame = self._frames[task]
        self._executor.begin_call(cpu, frame.addr, frame.integers, frame.floats)

    def spent(self, cpu: int) -> int:
        """Return how many instructions the vCPU's present call has retired."""
        return self._cpus[cpu].retired - self._tasks[cpu].started

    def out_of_instructions(self, cpu: int, limit: int) -> None:
        """End the vCPU's call with a fault, since it has retired ``limit`` instructions."""
        self._executor.limit_reached(cpu, limit)

    def died(self, cpu: int) -> bool:
        """Return whether the vCPU's last call has ended in a fault."""
        return self._tasks[cpu].state is TaskState.FAULTED

    def fault(self, cpu: int) -> Fault | None:
        """Return the fault of the vCPU's last call, or None if that call has not died."""
        return self._tasks[cpu].fault

    def outcome(self, task: int) -> CallOutcome:
        """Return what the call of ``task``, which has its vCPU, has left.

        These are the registers and RFLAGS, the vector registers, the x87 registers, the buffers,
        and the kind of the fault, if there is one.
        """
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
        """Return what the call of ``task``, which has died, has left.

        Registers count for nothing here, and neither does the place at which the instructions of an
        endless loop ran out.
        """
        fault = self._tasks[task // 2].fault
        assert fault is not None
        where = "" if fault.kind is FaultKind.INSTRUCTION_LIMIT else f" at {fault.place}"
        return ((), b"", b"", self._buffers(task), f"{fault.kind}{where}")

    # Tasks ----------------------------------------------------------------------------------------

    def park(self, cpu: int, *, in_call: bool) -> tuple[int, tuple[int, ...], bytes, int, Any]:
        """Return the task that has the vCPU as it stands, so that :meth:`resume` can go on with it.

        :param in_call: the task is in a call; else its registers and vectors are reported as zero.
        :returns: RIP, the registers, the vector and x87 state, the end of the stack, and a context
            for :meth:`resume`.
        """
        vcpu, task = self._cpus[cpu], self._tasks[cpu]
        context = vcpu.uc.new_context()
        vcpu.uc.save(context)
        registers = vcpu.registers() if in_call else _NO_REGISTERS
        vectors = vcpu.uc.extended.vector_state() + vcpu.uc.extended.fpu_state() if in_call else b""
        return vcpu.rip, registers, vectors, task.stack_top, (context, task.save())

    def resume(self, cpu: int, parked: ParkedTask) -> None:
        """Give the vCPU to ``parked``, with the registers and stack that this task had."""
        vcpu, task = self._cpus[cpu], self._tasks[cpu]
        context, saved = parked.context
        vcpu.uc.restore(context)
        vcpu.rip = parked.rip
        task.stack_top = parked.stack_top
        task.restore(saved)

    def move(self, cpu: int, ip: int) -> None:
        """Let the vCPU, which stands in the program's own code, go on at ``ip``."""
        self._cpus[cpu].rip = ip

    def move_parked(self, parked: ParkedTask, ip: int) -> None:
        """Let the task ``parked``, which was interrupted, go on at ``ip`` behind the interrupt.

        The frame of the interrupt is on the task's stack.
        """
        depth, _ = self._stub_frames[parked.rip]
        sp = parked.registers[_SP] + depth
        self._machine.ram.write(sp, ip.to_bytes(8, "little"))

    def new_tasks(self, cpu: int) -> tuple[ParkedTask, ...]:
        """Return the vCPU's second task before its first call, or nothing if there is no such task.

        That task begins with the registers that the vCPU has now.
        """
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
        """Return whether the vCPU would take an external interrupt before its next instruction.

        It would if IF is set and the last instruction was neither STI nor MOV SS.
        """
        vcpu = self._cpus[cpu]
        return bool(vcpu.rflags & FLAG_IF) and not vcpu.in_shadow

    def interrupt(self, cpu: int, *, whole: bool) -> None:
        """Let the vCPU take an external interrupt.

        :param whole: run the handler to its end; else the vCPU only enters the handler.
        """
        self._executor.interrupt(cpu)
        if whole:
            self._cpus[cpu].run(self._handler_length)

    def interrupt_up_to_return(self, cpu: int) -> None:
        """Let the vCPU take an external interrupt, and run the handler up to its IRET."""
        self._executor.interrupt(cpu)
        self._cpus[cpu].run(self._handler_length - 1)

    def takes_nmi(self, cpu: int) -> bool:
        """Return whether the vCPU would take an NMI before its next instruction."""
        return not self._executor.traps.nmi_is_blocked(self._cpus[cpu])

    def deliver_nmi(self, cpu: int, *, in_call: bool) -> bytes | None:
        """Deliver an NMI to the vCPU.

        :param in_call: the vCPU is in a call; else the NMI comes on the empty stack between two
            calls.
        :returns: the vector and x87 state that the NMI interrupts, empty outside of a call; None:
            the NMI was not delivered.
        """
        vcpu = self._cpus[cpu]
        if not in_call:
            vcpu.rip = self._machine.stubs.call_return
            vcpu.uc.set_stack_and_flags(self._tasks[cpu].stack_top - 64, FLAG_IF)
        vcpu.nmi = NmiPhase.NONE
        vectors = vcpu.uc.extended.vector_state() + vcpu.uc.extended.fpu_state() if in_call else b""
        return vectors if self._executor.deliver_nmi(cpu) else None

    def enter_nmi_function(self, cpu: int, task: int) -> tuple[NestedCall, str | None]:
        """Let the handler of an NMI call the function that ``task`` calls.

        :returns: a token for :meth:`leave_nmi`; and a sentence on what a function may expect at its
            entry and does not find, or None if nothing is amiss.
        """
        vcpu, frame = self._cpus[cpu], self._frames[task]
        nested = NestedCall(self._machine, vcpu)
        nested.enter(frame.addr, frame.integers)
        return nested, wrong_call(vcpu)

    def leave_nmi(self, cpu: int, token: object) -> None:
        """Leave the function that the NMI's handler has called, and run the handler to its end."""
        assert isinstance(token, NestedCall)
        vcpu = self._cpus[cpu]
        token.leave(died=False)
        vcpu.run(sum(addr >= vcpu.rip for addr in self._stub_frames))
        vcpu.nmi = NmiPhase.NONE
