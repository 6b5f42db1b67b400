"""The running of guest code: calls, turns, traps, injected interrupts, and faults.

Traps go to their stubs and handlers. What the host does between two guest instructions begins here,
outside of the emulator's callbacks.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from arch_x86.emu.bringup import bring_up
from arch_x86.emu.cpu import Cpu, ExitReason, NmiPhase
from arch_x86.emu.diagnose import diagnose, make_fault, original_place, unresolved_call
from arch_x86.emu.fast_run import FastRun
from arch_x86.emu.fault import FaultKind, GuestFault, GuestFaultError
from arch_x86.emu.interrupt_plan import InterruptPlan
from arch_x86.emu.machine import Machine
from arch_x86.emu.nested import INTEGER_ARGUMENTS, NestedCall
from arch_x86.emu.stubs import VECTORS
from arch_x86.emu.task import TaskState
from arch_x86.emu.traps import Traps
from arch_x86.emu.uc import RAX, RFLAGS, RSP
from arch_x86.isa.constants import ADDRESS_MASK, FLAG_IF, MAX_INSN_SIZE, PAGE_SIZE
from engine.errors import EngineBug

__all__ = ("INTEGER_ARGUMENTS", "Executor", "InterruptPlan")

_FLAGS_AT_CALL: Final = 0x202
"""RFLAGS where a call begins: IF, and the bit that is always set (SDM vol. 1, 3.4.3)."""
_FLOATS_MAX: Final = 8
_BELOW_STACK_TOP: Final = 64
"""The number of bytes that a call leaves unused at the top of its stack."""
_NESTED_MAX: Final = 100_000_000
_ENOSYS: Final = -38 & ADDRESS_MASK
_BREAKPOINT, _PAGE_FAULT = 3, 14
_WITHOUT_STUB: Final = {
    8: FaultKind.DOUBLE_FAULT,
    16: FaultKind.FLOATING_POINT,
    19: FaultKind.FLOATING_POINT,
}
_ERROR_PRESENT, _ERROR_WRITE, _ERROR_FETCH = 1, 2, 16


class Executor:
    """The executor, which runs the vCPUs of one machine.

    It brings the machine up first if that has not been done.

    :ivar machine: the machine.
    :ivar traps: answers traps.
    :ivar has_system: False while the machine comes up: a system call then fails by ENOSYS; at all
        other times it ends the call.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._exception_at = machine.stubs.exceptions
        names = machine.stubs.hypercalls.items()
        self._vector_of = {
            at: int(name.partition(":")[2]) for at, name in names if name.startswith("exception:")
        }
        self.traps = Traps(machine)
        self._handler_length: int | None = None
        self._plan: InterruptPlan | None = None
        self._handling: list[int] = []  # The vCPUs whose traps are being handled, innermost last.
        self._nested: list[NestedCall] = []
        self._nested_fault: GuestFault | None = None
        self.has_system = True
        for vcpu in machine.cpus:
            vcpu.fast = FastRun(machine, vcpu, self.traps, self._handling)
        bring_up(self)

    # Calls ----------------------------------------------------------------------------------------

    def begin_call(
        self, cpu: int, addr: int, integers: Sequence[int] = (), floats: Sequence[float] = ()
    ) -> None:
        """Set vCPU ``cpu`` up as if the function at ``addr`` had just been called.

        This is as the System V ABI says: DF is clear, the stack is aligned, x87 and MXCSR are as
        after reset.

        :param integers: at most 6 arguments.
        :param floats: at most 8 arguments.
        :raises EngineBug: there are more arguments, or ``cpu`` is in a call.
        """
        task = self.machine.tasks[cpu]
        if task.state is TaskState.RUNNING:
            raise EngineBug(f"CPU {cpu} is still in a call")
        if len(integers) > len(INTEGER_ARGUMENTS) or len(floats) > _FLOATS_MAX:
            raise EngineBug("more arguments than registers")
        vcpu = self.machine.cpus[cpu]
        uc = vcpu.uc
        top = task.stack_top - _BELOW_STACK_TOP
        for index in range(16):
            uc.gpr[index] = 0
        for register, value in zip(INTEGER_ARGUMENTS, integers, strict=False):
            uc.gpr[register] = value & ADDRESS_MASK
        uc.gpr[RAX] = len(floats)
        uc.gpr[RSP] = top - 8
        uc.gpr[RFLAGS] = _FLAGS_AT_CALL
        uc.store()
        uc.extended.reset()
        uc.extended.write_xmm(
            b"".join(struct.pack("<d8x", value) for value in floats).ljust(256, b"\0")
        )
        self.machine.ram.write(top - 8, struct.pack("<Q", self.machine.stubs.call_return))
        vcpu.rip = addr
        vcpu.nmi = NmiPhase.NONE
        task.base_rsp = top
        task.state = TaskState.RUNNING
        task.fault = None
        task.started = vcpu.retired
        if vcpu.fast is not None:
            vcpu.fast.call_begins()

    def running(self, cpu: int) -> bool:
        """Return whether a call is under way on ``cpu``."""
        return self.machine.tasks[cpu].state is TaskState.RUNNING

    @property
    def in_handler(self) -> bool:
        """A trap, or another exit from guest code, is being handled."""
        return bool(self._handling)

    @property
    def handling(self) -> int | None:
        """The vCPU whose trap is being handled now, or the innermost of several.

        It is None while no handler runs.
        """
        return self._handling[-1] if self._handling else None

    # Turns ----------------------------------------------------------------------------------------

    def advance(self, cpu: int, budget: int, plan: InterruptPlan | None = None) -> int:
        """Run ``cpu`` for ``budget`` retired instructions, or until its call ends.

        :param plan: when external interrupts come; None: none come.
        :returns: how many instructions retired.
        """
        machine = self.machine
        vcpu, task = machine.cpus[cpu], machine.tasks[cpu]
        left = budget
        self._plan = plan
        while left > 0 and task.state is TaskState.RUNNING:
            chunk = left
            if plan is not None:
                due = plan.due(cpu, vcpu.retired)
                if due == 0:
                    if self.interrupt(cpu):
                        plan.taken(cpu, vcpu.retired + self.handler_length(vcpu))
                        continue
                    due = 1  # IF holds the interrupt back: look again after each instruction.
                if due is not None:
                    chunk = min(left, due)
            before = vcpu.retired
            reason, retired = vcpu.run(chunk, fast=True)
            machine.clock += retired
            if reason is not ExitReason.BUDGET:
                self.handle_exit(vcpu, reason)
                if retired == 0 and task.state is TaskState.RUNNING:
                    # A fault that a handler mends without progress must not go on for ever.
                    left -= 1
            # Guest functions that handlers called have retired instructions, too.
            left -= vcpu.retired - before
        return budget - left

    def call_nested(self, cpu: int, addr: int, *integers: int, limit: int = _NESTED_MAX) -> int:
        """Call a guest function from a handler of ``cpu``, with integer arguments, and return RAX.

        The function at ``addr`` runs on the interrupted task's stack, below everything that is in
        use there; the interrupted registers are restored. The hits of probes in it are missed,
        since a handler is running. It takes interrupts where handlers do.

        :param limit: the most instructions that it may retire.
        :raises GuestFaultError: the function died. A handler that lets this through ends the call
            that it interrupted, by the same fault.
        :raises EngineBug: no trap of ``cpu`` is being handled, or there are more arguments than
            registers.
        """
        if not self._handling or self._handling[-1] != cpu:
            raise EngineBug(f"no handler runs on CPU {cpu}")
        if len(integers) > len(INTEGER_ARGUMENTS):
            raise EngineBug("more arguments than registers")
        vcpu = self.machine.cpus[cpu]
        nested = NestedCall(self.machine, vcpu)
        self._nested.append(nested)
        died = True
        try:
            if nested.enter(addr, integers):
                self._run_nested(nested, limit)
            else:
                self._stack_gone(vcpu)
            died = nested.fault is not None
            result = vcpu.registers()[RAX]
        finally:
            self._nested.pop()
            nested.leave(died=died)
        if nested.fault is not None:
            self._nested_fault = nested.fault
            raise GuestFaultError(nested.fault)
        return result

    def _run_nested(self, nested: NestedCall, limit: int) -> None:
        vcpu, plan = nested.vcpu, self._plan
        end = vcpu.retired + limit
        while not nested.over:
            left = end - vcpu.retired
            if left <= 0:
                self.limit_reached(vcpu.index, limit)
                break
            due = None if plan is None else plan.due(vcpu.index, vcpu.retired)
            if plan is not None and due == 0:
                if self.interrupt(vcpu.index):
                    plan.taken(vcpu.index, vcpu.retired + self.handler_length(vcpu))
                    continue
                due = 1
            reason, retired = vcpu.run(left if due is None else min(left, due))
            self.machine.clock += retired
            if reason is not ExitReason.BUDGET:
                self.handle_exit(vcpu, reason)
                end -= retired == 0

    def run_call(
        self, cpu: int, limit: int, plan: InterruptPlan | None = None
    ) -> GuestFault | None:
        """Run one vCPU to the end of its call, at most ``limit`` instructions.

        :returns: the fault that the call died of, or None.
        """
        self.advance(cpu, limit, plan)
        if self.running(cpu):
            self.limit_reached(cpu, limit)
        return self.machine.tasks[cpu].fault

    def limit_reached(self, cpu: int, limit: int) -> None:
        """End the call on ``cpu`` with an instruction-limit fault."""
        vcpu = self.machine.cpus[cpu]
        text = f"the call did not end within {limit} instructions (--max-instructions)"
        self.end(
            vcpu,
            make_fault(
                self.machine,
                cpu,
                original_place(self.machine, vcpu, vcpu.rip),
                FaultKind.INSTRUCTION_LIMIT,
                text,
            ),
        )

    def run_uncounted(self, cpu: int) -> GuestFault | None:
        """Run one vCPU to the end of its call, without a count, a limit or interrupts.

        This is as fast as the emulator goes.

        :returns: the fault that the call died of, or None.
        """
        vcpu, task = self.machine.cpus[cpu], self.machine.tasks[cpu]
        self._plan = None
        while task.state is TaskState.RUNNING:
            self.handle_exit(vcpu, vcpu.run_uncounted())
        return task.fault

    def interrupt(self, cpu: int) -> bool:
        """Deliver an external interrupt, if one can come here.

        One can come if IF is set and the last instruction was neither STI nor MOV SS.

        :returns: whether it was delivered.
        """
        vcpu = self.machine.cpus[cpu]
        vcpu.uc.load()
        if not vcpu.uc.gpr[RFLAGS] & FLAG_IF or vcpu.in_shadow:
            return False
        if not vcpu.push_frame(self.machine.stubs.interrupt):
            self._stack_gone(vcpu)
            return True
        vcpu.interrupts += 1
        return True

    def deliver_nmi(self, cpu: int) -> bool:
        """Deliver a non-maskable interrupt to ``cpu`` at the present boundary, whatever IF says.

        The vCPU has to be in a call.

        :returns: False, with nothing done, while the last NMI has not returned and right behind MOV
            SS: the caller tries again an instruction later.
        """
        vcpu = self.machine.cpus[cpu]
        if self.traps.nmi_is_blocked(vcpu):
            return False
        if vcpu.push_frame(self.machine.stubs.nmi):
            vcpu.nmi = NmiPhase.ENTERED
        else:
            self._stack_gone(vcpu)
        return True

    def handler_length(self, vcpu: Cpu) -> int:
        """Return how many instructions the interrupt handler retires.

        That is found by stepping through it once, on an empty stack, and going back.
        """
        if self._handler_length is None:
            machine = self.machine
            snap = machine.snapshot()
            vcpu.uc.set_stack_and_flags(machine.tasks[vcpu.index].stack_top, FLAG_IF)
            vcpu.push_frame(machine.stubs.interrupt)
            before = vcpu.retired
            while vcpu.run(1)[0] is ExitReason.BUDGET and not vcpu.rflags & FLAG_IF:
                pass
            self._handler_length = vcpu.retired - before
            machine.restore(snap)
            machine.release(snap)
        return self._handler_length

    # Exits ----------------------------------------------------------------------------------------

    def handle_exit(self, vcpu: Cpu, reason: ExitReason) -> None:
        """Do what has to be done before ``vcpu``, whose run ended for ``reason``, can go on."""
        if reason is ExitReason.EXCEPTION:  # No handler runs before the exception's stub asks.
            self._exception(vcpu)
            return
        self._handling.append(vcpu.index)
        try:
            self._handle(vcpu, reason)
        except GuestFaultError as error:
            if error.fault is not self._nested_fault:
                self._handler_raised(vcpu, reason, error)
                raise
            self.end(vcpu, error.fault)
        # As a rule a handler has raised this: its call can't go on, but the next call can begin.
        except BaseException as error:
            self._handler_raised(vcpu, reason, error)
            raise
        finally:
            self._handling.pop()

    def _handler_raised(self, vcpu: Cpu, reason: ExitReason, error: BaseException) -> None:
        text = f"{type(error).__name__} was raised while a trap was handled"
        rip = original_place(self.machine, vcpu, vcpu.rip - (reason is ExitReason.HYPERCALL))
        self.end(vcpu, make_fault(self.machine, vcpu.index, rip, FaultKind.HANDLER_ERROR, text))

    def _handle(self, vcpu: Cpu, reason: ExitReason) -> None:
        match reason:
            case ExitReason.HYPERCALL:
                self._hypercall(vcpu)
                if vcpu.watcher is not None:
                    vcpu.watcher.pushed(vcpu)
            case ExitReason.SOFTWARE:
                self.end(
                    vcpu, diagnose(self.machine, vcpu, vcpu.rip - 2, FaultKind.SOFTWARE_INTERRUPT)
                )
            case ExitReason.SYSCALL if not self.has_system:
                vcpu.uc.load()
                vcpu.uc.gpr[RAX] = _ENOSYS
                vcpu.uc.store()
            case ExitReason.SYSCALL:
                self.end(vcpu, diagnose(self.machine, vcpu, vcpu.rip - 2, FaultKind.SYSTEM_CALL))
            case ExitReason.STUCK:
                self.end(vcpu, diagnose(self.machine, vcpu, vcpu.rip, FaultKind.EMULATOR))
            case ExitReason.EXCEPTION | ExitReason.BUDGET | ExitReason.WATCH:
                pass

    def _exception(self, vcpu: Cpu) -> None:
        """Enter the guest's stub for the vector; an exception that has none ends the call."""
        handler = self._exception_at.get(vcpu.vector)
        if handler is None:
            kind = _WITHOUT_STUB.get(vcpu.vector, FaultKind.GENERAL_PROTECTION)
            self.end(vcpu, diagnose(self.machine, vcpu, vcpu.rip, kind))
            return
        code = None
        if VECTORS[vcpu.vector][1]:
            code = self._error_code(vcpu) if vcpu.vector == _PAGE_FAULT else 0
        if not vcpu.push_frame(handler, code):
            self._stack_gone(vcpu, behind=vcpu.vector == _BREAKPOINT)

    def _error_code(self, vcpu: Cpu) -> int:
        """Return the error code of #PF (SDM vol. 3, 4.7), which Unicorn does not give.

        A present page faults on writes and on fetches only.
        """
        addr, rip = vcpu.uc.cr2, vcpu.rip
        fetch = addr == rip or (rip < addr < rip + MAX_INSN_SIZE and addr % PAGE_SIZE == 0)
        present = self.machine.read(addr, 1) is not None
        if fetch:
            return _ERROR_FETCH | present
        return _ERROR_WRITE | _ERROR_PRESENT if present else 0

    def _stack_gone(self, vcpu: Cpu, *, behind: bool = False) -> None:
        """End the call, because its stack has no room for a frame.

        :param behind: RIP is behind a breakpoint, which is the place of the fault.
        """
        self.end(vcpu, diagnose(self.machine, vcpu, vcpu.rip - behind, FaultKind.DOUBLE_FAULT))

    def _hypercall(self, vcpu: Cpu) -> None:
        """Answer the ``hlt`` that RIP is behind."""
        machine = self.machine
        vector = self._vector_of.get(vcpu.rip)
        if vector is not None:
            fault = self.traps.trap(vcpu, vector)
            if fault is not None:
                self.end(vcpu, fault)
            return
        name = machine.stubs.hypercalls.get(vcpu.rip)
        if name == "call_return":
            machine.tasks[vcpu.index].state = TaskState.IDLE
            self._call_ended(vcpu)
        elif name == "optimized_callback":
            self.traps.optimized_callback(vcpu)
        elif name == "ftrace_caller":
            self.traps.ftrace_caller(vcpu)
        elif name == "trampoline":
            if not self.traps.trampoline(vcpu):
                text = "returned to the return probes' trampoline, though no probed call is open"
                self.end(vcpu, make_fault(machine, vcpu.index, vcpu.rip - 1, FaultKind.ABORT, text))
        elif name == "nested_return" and self._nested and self._nested[-1].vcpu is vcpu:
            self._nested[-1].end()
        elif name == "nested_return":
            self.end(vcpu, diagnose(machine, vcpu, vcpu.rip - 1, FaultKind.HALT))
        elif name == "nmi":
            self.traps.nmi(vcpu)
        elif name == "schedule":
            # There is no other task to run, but outside of handlers this is a quiescent point.
            machine.tasks[vcpu.index].passed += not self._nested
        elif machine.trap_handler is not None and machine.trap_handler.holds(vcpu.rip - 1):
            # A protocol has put the HLT there to keep CPUs out. Code that may not execute HLT
            # faults, and the protocol's handler is asked, as behind a breakpoint.
            vcpu.vector = _BREAKPOINT
            self._exception(vcpu)
        elif vcpu.rip - 1 in machine.import_at:
            self.end(vcpu, unresolved_call(machine, vcpu))
        else:
            self.end(vcpu, diagnose(machine, vcpu, vcpu.rip - 1, FaultKind.HALT))

    def end(self, vcpu: Cpu, fault: GuestFault) -> None:
        """End the innermost call on ``vcpu`` by ``fault``, be it one that a handler has made."""
        if self._nested and self._nested[-1].vcpu is vcpu:
            # The handler that has called the function decides what becomes of the call.
            self._nested[-1].end(fault)
            return
        task = self.machine.tasks[vcpu.index]
        task.state = TaskState.FAULTED
        task.fault = fault
        if self.machine.trap_handler is not None:
            self.machine.trap_handler.call_died(vcpu.index)
        self._call_ended(vcpu)

    def _call_ended(self, vcpu: Cpu) -> None:
        for listener in self.machine.call_ended:
            listener(vcpu.index)
