"""A vCPU: a Unicorn instance, its fetch view, and exceptions as frames on the guest stack.

:meth:`Cpu.run` returns an exit reason and the number of instructions retired, as the ioctl KVM_RUN
does; nothing is decided inside of a callback. Traps and interrupts are delivered as a CPU delivers
them (SDM vol. 3, 6.14): SS, RSP, RFLAGS, CS and RIP are pushed on a 16-byte aligned stack, an error
code where the vector has one, IF and TF are cleared, and a guest stub is entered.
"""

from __future__ import annotations

import struct
from enum import Enum, auto
from typing import Final, Protocol

from arch_x86.emu.answered import Answered
from arch_x86.emu.assisted_run import AssistedRun
from arch_x86.emu.context import Context
from arch_x86.emu.fetch_view import FetchView
from arch_x86.emu.frames import FrameStore
from arch_x86.emu.libunicorn import UC_ERR_INSN_INVALID
from arch_x86.emu.memory import PageTables, Ram
from arch_x86.emu.private_state import PrivateState
from arch_x86.emu.uc import RFLAGS, RSP, UcInstance
from arch_x86.emu.uc_hooks import VECTOR_INVALID, VECTOR_SYSCALL, VECTOR_WATCH
from arch_x86.isa.constants import (
    ADDRESS_MASK,
    FLAG_IF,
    FLAG_NT,
    FLAG_RF,
    FLAG_TF,
    HLT_OPCODE,
    INT3_OPCODE,
    PAGE_SIZE,
    RED_ZONE_SIZE,
)
from arch_x86.text.text_version import TextPage, TextVersion

__all__ = (
    "CODE_SELECTOR",
    "DATA_SELECTOR",
    "TRAPS",
    "Cpu",
    "CpuState",
    "ExitReason",
    "FastStart",
    "FrameWatcher",
    "NmiPhase",
)

CODE_SELECTOR: Final = 0x08
DATA_SELECTOR: Final = 0x10
_FRAME: Final = struct.Struct("<5Q")
_FRAME_CODE: Final = struct.Struct("<6Q")
_INT_1: Final = b"\xcd\x01"
_LAST_VECTOR: Final = 31
"""The last vector of the processor's own exceptions (SDM vol. 3, table 6-1)."""
TRAPS: Final = frozenset({1, 3, 4})
"""The vectors of exceptions that come behind the instruction that causes them. The others come
instead of that instruction.
"""
_DEBUG, _BREAKPOINT, _PAGE_FAULT = 1, 3, 14
_CANONICAL: Final = 1 << 47
_CONTRIBUTORY: Final = frozenset({0, 8, 10, 11, 12, 13, 14})
"""The vectors of exceptions that count for a double fault (SDM vol. 3, table 6-5)."""


class ExitReason(Enum):
    """The reasons for which :meth:`Cpu.run` returns."""

    BUDGET = auto()
    """The run has spent its budget of instructions."""
    EXCEPTION = auto()
    """The exception :attr:`Cpu.vector` was raised; it has not been delivered yet."""
    HYPERCALL = auto()
    """A ``hlt`` was executed; RIP is behind it."""
    SOFTWARE = auto()
    """An ``int n`` was executed; RIP is behind it."""
    SYSCALL = auto()
    """A ``syscall`` or ``sysenter`` was executed; there is no system here."""
    WATCH = auto()
    """The next instruction is a watched one (:meth:`Hooks.watch
    <arch_x86.emu.uc_hooks.Hooks.watch>`)."""
    STUCK = auto()
    """The emulator gave up with the error :attr:`Cpu.error`."""


class NmiPhase(Enum):
    """The phases of an NMI on a vCPU, which blocks others from its delivery to its ``iretq``."""

    NONE = auto()
    """The vCPU has taken no NMI in its present call."""
    ENTERED = auto()
    """The stub was entered, and the host's handler has not run."""
    RETURNING = auto()
    """The host's handler has run. The NMI is over once RIP has left the stub, and the phase lasts
    until the next NMI or call.
    """


class FrameWatcher(Protocol):
    """An observer that is told what the machine itself pushes on the stack that it interrupts."""

    def pushing(self, cpu: Cpu) -> None:
        """Take note that a frame will be pushed onto the stack of the interrupted code.

        Memory and RSP are still those of that code.
        """
        ...

    def pushed(self, cpu: Cpu) -> None:
        """Take note that the host has answered the guest code that was entered.

        All that this code pushes is on the stack now.
        """
        ...


class FastStart(Protocol):
    """A faster way to run a vCPU: :class:`arch_x86.emu.fast_run.FastRun`."""

    def start(self, count: int, done: int) -> int:
        """Run as :meth:`UcInstance.start <arch_x86.emu.uc.UcInstance.start>`.

        :param done: how many instructions have retired before that :attr:`Cpu.retired` does not
            have yet.
        """
        ...

    def call_begins(self) -> None:
        """Take note that a call begins on the vCPU."""
        ...

    def close(self) -> UcInstance | None:
        """Return the instance that it has used beside the vCPU's own, for the return to a pool.

        :returns: None where it has used none.
        """
        ...


class CpuState:
    """The state of one vCPU at a moment; see :meth:`Cpu.save`.

    :ivar context: the registers but RIP, as Unicorn saves them.
    """

    __slots__ = ("context", "interrupts", "nmi", "retired", "rip", "view")

    def __init__(self, context: Context, cpu: Cpu) -> None:
        self.context = context
        self.keep(cpu)

    def keep(self, cpu: Cpu) -> None:
        """Keep the parts of the state of ``cpu`` that the context does not hold."""
        self.rip = cpu.rip
        self.retired = cpu.retired
        self.interrupts = cpu.interrupts
        self.nmi = cpu.nmi
        self.view = cpu.view


class Cpu:
    """A vCPU of a machine, which has the number ``index`` there.

    :ivar view: the text version that it fetches from.
    :ivar retired: how many instructions have retired since the machine was built.
    :ivar interrupts: how many external interrupts it has taken since then.
    :ivar nmi: where it is with an NMI.
    :ivar vector: the last exception, once a run has ended by one.
    :ivar error: Unicorn's error code of the last run that ended by an exception or got stuck.
    :ivar watcher: is told of each frame that is pushed.
    :ivar red_zone: the image keeps data in the 128 bytes under RSP.
    :ivar fast: runs it faster where that pays; None: there is no such way.
    :ivar answered: the answer to the hypercall that it stands behind, where that is known already.
    """

    __slots__ = (
        "_assisted",
        "_pages",
        "_present",
        "_private",
        "_ram",
        "_shown",
        "answered",
        "error",
        "fast",
        "index",
        "interrupts",
        "nmi",
        "red_zone",
        "retired",
        "uc",
        "vector",
        "view",
        "watcher",
    )

    def __init__(
        self,
        index: int,
        uc: UcInstance,
        *,
        ram: Ram,
        tables: PageTables,
        frames: FrameStore,
        view: TextVersion,
        red_zone: bool,
    ) -> None:
        self.index = index
        self.uc = uc
        self.view = view
        self.red_zone = red_zone
        self.retired = 0
        self.interrupts = 0
        self.nmi = NmiPhase.NONE
        self.vector = -1
        self.error = 0
        self.watcher: FrameWatcher | None = None
        self.fast: FastStart | None = None
        self.answered: Answered | None = None
        self._ram = ram
        self._private = PrivateState(uc)
        self._pages = FetchView(index, uc, tables, frames, self._private)
        self._present = self._pages.present
        self._shown: TextVersion | None = None
        self._assisted = AssistedRun(uc, self._pages, alignment=frames.guards.alignment)

    # Running --------------------------------------------------------------------------------------

    @property
    def rip(self) -> int:
        """The address of the vCPU's next instruction."""
        return self.uc.rip

    @rip.setter
    def rip(self, value: int) -> None:
        self.uc.rip = value

    def run(self, budget: int, *, fast: bool = False) -> tuple[ExitReason, int]:
        """Execute at most ``budget`` (above 0) instructions.

        :param fast: by :attr:`fast`, where there is one. Handlers may run meanwhile then.
        :returns: why the run ended, and how many instructions retired: a trap counts the
            instruction that caused it, a fault does not; a REP iteration counts as one.
        """
        if self.view is not self._shown:
            self._show()
        uc = self.uc
        runner = self.fast if fast else None
        done = 0
        while True:
            if runner is None:
                began = done + uc.start(budget - done, goes_on=done > 0)
            else:
                began = done + runner.start(budget - done, done)
            vector = uc.vector
            if began <= budget:
                self._report_invalid()
            if (
                vector == VECTOR_INVALID or uc.err == UC_ERR_INSN_INVALID
            ) and self._assisted.execute():
                vector = uc.vector
                if vector is None:
                    done = began
                    if done >= budget:
                        self.retired += budget
                        return ExitReason.BUDGET, budget
                    continue
            if vector != _PAGE_FAULT or (retired := self._pages.page_in(began)) is None:
                break
            done = retired
            if done >= budget:
                self.retired += budget
                return ExitReason.BUDGET, budget
        if vector is None and uc.err == 0:
            if began > budget:
                self.retired += budget
                return ExitReason.BUDGET, budget
            self.retired += began
            return ExitReason.HYPERCALL, began
        return self._exception(vector, began)

    def _show(self) -> None:
        self._pages.show(self.view)
        self._shown = self.view

    def _exception(self, vector: int | None, began: int) -> tuple[ExitReason, int]:
        """Find why a run ended that neither its budget nor a ``hlt`` ended.

        :param began: the instructions that began in the run.
        :returns: the reason, and how many of these instructions retired.
        """
        uc = self.uc
        self.error = uc.err
        if vector is None and uc.err == UC_ERR_INSN_INVALID:
            vector = VECTOR_INVALID
        if vector is None:
            retired = max(0, began - 1)
            self.retired += retired
            return ExitReason.STUCK, retired
        if vector == VECTOR_WATCH:
            self.retired += began - 1
            return ExitReason.WATCH, began - 1
        if vector >= VECTOR_SYSCALL:
            self.retired += began
            return ExitReason.SYSCALL, began
        self.vector = vector
        if self._was_software(vector):
            self.retired += began
            return ExitReason.SOFTWARE, began
        if vector in TRAPS:
            self.retired += began
            return ExitReason.EXCEPTION, began
        # Where nothing could be fetched, no instruction has begun since the branch to there.
        canonical = uc.rip + _CANONICAL & ADDRESS_MASK < 2 * _CANONICAL
        nothing_begun = not canonical or (vector == _PAGE_FAULT and self._private.was_fetch())
        if vector in _CONTRIBUTORY:
            self._private.forget_exception()
        retired = began if nothing_begun else max(0, began - 1)
        self.retired += retired
        return ExitReason.EXCEPTION, retired

    def _was_software(self, vector: int) -> bool:
        """Return whether an ``int n`` raised ``vector``, and neither a breakpoint nor a fault."""
        if vector > _LAST_VECTOR:
            return True
        if vector == _BREAKPOINT:
            page = self._present.get((self.uc.rip - 1) // PAGE_SIZE)
            return page is not None and page.content[(self.uc.rip - 1) % PAGE_SIZE] != INT3_OPCODE
        # Nearly every #DB is that of a single step, and the text is read only where the instruction
        # can have been `int 1`.
        if vector == _DEBUG:
            page, offset = self._present.get(self.uc.rip // PAGE_SIZE), self.uc.rip % PAGE_SIZE
            if page is not None and offset >= 2 and page.content[offset - 2 : offset] != _INT_1:
                return False
        return vector != VECTOR_INVALID and self._private.was_software()

    def run_uncounted(self) -> ExitReason:
        """Execute until something happens, without counting instructions and without a limit.

        This is as fast as the emulator goes.
        """
        if self.view is not self._shown:
            self._show()
        self._pages.show_waiting()
        uc = self.uc
        uc.start_uncounted()
        self._report_invalid()
        while (
            (uc.vector == VECTOR_INVALID or uc.err == UC_ERR_INSN_INVALID)
            and self._assisted.execute()
            and uc.vector is None
        ):
            uc.start_uncounted()
            self._report_invalid()
        if uc.vector is None and uc.err == 0:
            return ExitReason.HYPERCALL
        return self._exception(uc.vector, 1)[0]

    def _report_invalid(self) -> None:
        """Report an invalid instruction that ended a run before its budget.

        Unicorn leaves its loop without a word then. Where a run ends well there is a ``hlt`` right
        before RIP, and here there is none.
        """
        uc = self.uc
        if uc.vector is None and uc.err == 0 and not self.is_halted(uc.rip):
            uc.err = UC_ERR_INSN_INVALID

    def is_halted(self, rip: int) -> bool:
        """Return whether a run that ended at ``rip`` without an exception was ended by a ``hlt``.

        It is, too, where the text is not known.
        """
        vpn, offset = divmod(rip - 1, PAGE_SIZE)
        page = self._present.get(vpn)
        return page is None or page.content[offset] == HLT_OPCODE

    # Text -----------------------------------------------------------------------------------------

    @property
    def present(self) -> dict[int, TextPage]:
        """The pages of text in the vCPU's page tables, by virtual page number."""
        return self._present

    @property
    def strays(self) -> list[int]:
        """The addresses outside of functions in front of which the emulator has to stop."""
        return self._pages.stray_addrs

    @property
    def is_behind(self) -> bool:
        """The text has changed since the vCPU's run began."""
        return self.view is not self._shown

    def fetched(self, addr: int) -> bytes:
        """Return the text at ``addr`` as the vCPU sees it, of at least one instruction."""
        return self._pages.fetched(addr)

    # Registers ------------------------------------------------------------------------------------

    @property
    def rflags(self) -> int:
        """The vCPU's RFLAGS at present."""
        self.uc.load()
        return self.uc.gpr[RFLAGS]

    def registers(self) -> tuple[int, ...]:
        """Return the 16 general registers and RFLAGS.

        The registers are in encoding order: rax, rcx, rdx, rbx, rsp and so on.
        """
        self.uc.load()
        return tuple(self.uc.gpr)

    @property
    def in_shadow(self) -> bool:
        """The last instruction was STI or MOV SS.

        No interrupt is delivered before the next instruction has been executed.
        """
        return self._private.in_shadow()

    # Delivery -------------------------------------------------------------------------------------

    def push_frame(self, handler: int, error_code: int | None = None) -> bool:
        """Deliver an exception or interrupt to ``handler``: push its frame, and clear IF and TF.

        Where the image has a red zone the frame lies below the 128 bytes under RSP.

        :param error_code: what the CPU pushes last; None: nothing.
        :returns: False, with nothing done, when the stack is not mapped there (a CPU would take a
            double fault).
        """
        if self.watcher is not None:
            self.watcher.pushing(self)
        uc = self.uc
        uc.load()
        rsp, rflags = uc.gpr[RSP], uc.gpr[RFLAGS]
        top = ((rsp - RED_ZONE_SIZE if self.red_zone else rsp) & ~15) & ADDRESS_MASK
        words = (uc.rip, CODE_SELECTOR, rflags, rsp, DATA_SELECTOR)
        frame = _FRAME.pack(*words) if error_code is None else _FRAME_CODE.pack(error_code, *words)
        if not self._ram.write(top - len(frame), frame):
            return False
        uc.set_stack_and_flags(top - len(frame), rflags & ~(FLAG_IF | FLAG_TF | FLAG_NT | FLAG_RF))
        uc.rip = handler
        return True

    # State ----------------------------------------------------------------------------------------

    def save(self) -> CpuState:
        """Return a copy of the vCPU's whole state, which does not include memory."""
        context = self.uc.new_context()
        self.uc.save(context)
        return CpuState(context, self)

    def save_into(self, state: CpuState) -> None:
        """Save the state as :meth:`save` does, but into ``state``, which is not needed any more."""
        self.uc.save(state.context)
        state.keep(self)

    def restore(self, state: CpuState) -> None:
        """Go back to the registers and counters of ``state``."""
        self.uc.restore(state.context)
        self.uc.rip = state.rip
        self.retired = state.retired
        self.interrupts = state.interrupts
        self.nmi = state.nmi
        self.view = state.view
