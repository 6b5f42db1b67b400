"""A vCPU: a Unicorn instance, its fetch view, and exceptions as frames on the guest stack.

:meth:`Cpu.run` returns an exit reason and the number of instructions retired, as KVM_RUN does;
nothing is decided inside a callback. Traps and interrupts are delivered as the CPU would (SDM vol.
3, 6.14): SS, RSP, RFLAGS, CS, RIP on a 16-byte aligned stack, an error code where the vector has
one, IF and TF cleared, on to a guest stub.
"""

from __future__ import annotations

import struct
from enum import Enum, auto
from typing import Final, Protocol

from arch_x86.emu.assist import Assist, assist_for
from arch_x86.emu.frames import FrameStore
from arch_x86.emu.guards import guard_reason
from arch_x86.emu.memory import PageTables, Ram
from arch_x86.emu.uc import RFLAGS, RSP, UC_ERR_INSN_INVALID, VECTOR_WATCH, Context, UcInstance
from arch_x86.isa.constants import (
    ADDRESS_MASK,
    FLAG_IF,
    FLAG_NT,
    FLAG_RF,
    FLAG_TF,
    HLT_OPCODE,
    INT3_OPCODE,
    MAX_INSN_SIZE,
    PAGE_SIZE,
    RED_ZONE_SIZE,
)
from arch_x86.isa.decode import decode
from arch_x86.isa.insn import NO_QUIRKS, Insn
from arch_x86.text.version import TextPage, TextVersion

__all__ = (
    "CODE_SELECTOR",
    "DATA_SELECTOR",
    "TRAPS",
    "Cpu",
    "CpuState",
    "ExitReason",
    "FrameWatcher",
    "NmiPhase",
)

CODE_SELECTOR: Final = 0x08
DATA_SELECTOR: Final = 0x10
_FRAME: Final = struct.Struct("<5Q")
_FRAME_CODE: Final = struct.Struct("<6Q")
_DEBUG: Final = 1
_INT_1: Final = b"\xcd\x01"
TRAPS: Final = frozenset({1, 3, 4})
"""Vectors of exceptions that come behind the instruction that causes them; the others come instead
of it.
"""
_BREAKPOINT, _INVALID, _PAGE_FAULT = 3, 6, 14
_CANONICAL: Final = 1 << 47
_CONTRIBUTORY: Final = frozenset({0, 8, 10, 11, 12, 13, 14})


class ExitReason(Enum):
    """Why :meth:`Cpu.run` came back."""

    BUDGET = auto()
    """The budget is spent."""
    EXCEPTION = auto()
    """An exception: :attr:`Cpu.vector`; nothing has been delivered yet."""
    HYPERCALL = auto()
    """A ``hlt`` was executed; RIP is behind it."""
    SOFTWARE = auto()
    """An ``int n``: RIP is behind it."""
    SYSCALL = auto()
    """``syscall`` or ``sysenter``: there is no system here."""
    WATCH = auto()
    """The next instruction is a watched one (:meth:`UcInstance.watch`)."""
    STUCK = auto()
    """The emulator gave up: :attr:`Cpu.error`."""


class NmiPhase(Enum):
    """Where a vCPU is with an NMI: blocked further ones are from its delivery to its ``iretq``."""

    NONE = auto()
    """Nowhere; or, after ``RETURNING``, until the stub is left."""
    ENTERED = auto()
    RETURNING = auto()
    """The host's handler has run; the rest of the stub is left."""


class FrameWatcher(Protocol):
    """Who wants to know what the machine itself pushes on the stack that it interrupts."""

    def pushing(self, cpu: Cpu) -> None:
        """A frame is about to be pushed; memory and RSP are those of the interrupted code."""
        ...

    def pushed(self, cpu: Cpu) -> None:
        """The host has answered the guest code that was entered, and written what it had to: all
        that will be pushed is there.
        """
        ...


class CpuState:
    """All of one vCPU at a moment; see :meth:`Cpu.save`."""

    __slots__ = ("context", "interrupts", "nmi", "retired", "rip", "view")

    def __init__(self, context: Context, cpu: Cpu) -> None:
        self.context = context
        self.keep(cpu)

    def keep(self, cpu: Cpu) -> None:
        """What the context does not hold."""
        self.rip = cpu.rip
        self.retired = cpu.retired
        self.interrupts = cpu.interrupts
        self.nmi = cpu.nmi
        self.view = cpu.view


class Cpu:
    """vCPU ``index`` of a machine.

    ``view`` is the text version that it fetches from; ``retired`` and ``interrupts`` count since
    the machine was built; ``watcher`` is told of each frame that is pushed. A page of the image's
    text appears in its page tables when it is first executed or read: of a library, few ever are,
    and each costs a look for what must trap. The machine's own text is there at once, so that CR2
    stays as a guest's page fault set it.
    """

    __slots__ = (
        "_assists",
        "_frames",
        "_lazy",
        "_mapped",
        "_present",
        "_ram",
        "_scratch",
        "_strays",
        "_tables",
        "_waiting",
        "error",
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
        self._ram = ram
        self._tables = tables
        self._frames = frames
        self._mapped: TextVersion | None = None
        self._present: dict[int, TextPage] = {}
        self._strays: dict[int, dict[int, bytes]] = {}
        self._waiting: dict[int, TextPage] = {}
        self._scratch = uc.new_context()
        self._assists: dict[tuple[int, bytes], tuple[Insn, Assist] | None] = {}
        self._lazy = uc.tells_fetches

    # Fetch view -----------------------------------------------------------------------------------

    def _show(self) -> None:
        """Make the page tables agree with :attr:`view`."""
        frames = self._frames
        for page in self.view.changes_from(self._mapped):
            if not page.content:
                self._hide_page(page.vpn)
            elif page.vpn in self._present or not (self._lazy and frames.guards.concern(page.vpn)):
                self._show_page(page)
            else:
                self._waiting[page.vpn] = page
        if self._mapped is not None:
            for page in self.view.lacks(self._mapped):
                self._hide_page(page.vpn)
        self._mapped = self.view
        self.uc.flush_tlb()

    def _hide_page(self, vpn: int) -> None:
        self._waiting.pop(vpn, None)
        if self._present.pop(vpn, None) is not None:
            self._tables.unmap(self.index, vpn)

    def _page_in(self, began: int) -> int | None:
        """Show the page whose absence ended a run. Returns how many instructions retired; None when
        the fault is the guest's own.
        """
        uc = self.uc
        page = self._waiting.pop(uc.cr2 // PAGE_SIZE, None)
        if page is None:
            return None
        # Nothing of a block whose text can't be fetched has begun; an instruction that can't load
        # has.
        retired = began if uc.was_fetch(self._scratch) else began - 1
        uc.forget_exception(self._scratch)
        self._show_page(page)
        return retired

    def _show_page(self, page: TextPage) -> None:
        strays = self._strays.get(page.vpn)
        if strays is None:
            strays = self._strays[page.vpn] = self._frames.guards.strays(page.vpn)
            for addr in strays:
                self.uc.trap_at(addr)
        for addr, raw in strays.items():
            offset = addr % PAGE_SIZE
            if raw.startswith(page.content[offset : offset + len(raw)]):
                self.uc.patched.discard(addr)
            else:
                self.uc.patched.add(addr)
        self._present[page.vpn] = page
        self._tables.map_code(self.index, page.vpn, self._frames.frame(page))

    # Running --------------------------------------------------------------------------------------

    @property
    def rip(self) -> int:
        """Address of the next instruction."""
        return self.uc.rip

    @rip.setter
    def rip(self, value: int) -> None:
        self.uc.rip = value

    def run(self, budget: int) -> tuple[ExitReason, int]:
        """Execute at most ``budget`` (above 0) instructions.

        :returns: why it ended, and how many instructions retired: a trap counts the instruction
            that caused it, a fault does not; a REP iteration counts as one.
        """
        if self.view is not self._mapped:
            self._show()
        uc = self.uc
        done = 0
        while True:
            began = done + uc.start(budget - done)
            vector = uc.vector
            if began <= budget:
                self._report_invalid()
            if (vector == _INVALID or uc.err == UC_ERR_INSN_INVALID) and self._assist():
                vector = uc.vector
                if vector is None:
                    done = began
                    if done >= budget:
                        self.retired += budget
                        return ExitReason.BUDGET, budget
                    continue
            if vector != _PAGE_FAULT or (retired := self._page_in(began)) is None:
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

    def _assist(self) -> bool:
        """The instruction at RIP is guarded: execute it after all, if there is a way. Whether there
        is; :attr:`UcInstance.vector` then says whether it retired.
        """
        uc, rip = self.uc, self.uc.rip
        found = self._assisted(rip)
        if found is None:
            return False
        insn, assist = found
        pages = [
            self._present[vpn]
            for vpn in {rip // PAGE_SIZE, (insn.end - 1) // PAGE_SIZE}
            if vpn in self._present
        ]
        before = uc.new_context()
        uc.save(before)
        hidden = rip in uc.patched
        uc.patched.add(rip)
        for page in pages:
            self._tables.map_code(self.index, page.vpn, self._frames.plain(page))
        uc.flush_tlb()
        uc.vector, uc.err = None, 0
        try:
            refused = assist(uc, insn, uc.start_one)
        finally:
            for page in pages:
                self._tables.map_code(self.index, page.vpn, self._frames.frame(page))
            if not hidden:
                uc.patched.discard(rip)
        if refused is not None:
            uc.restore(before)
            uc.rip, uc.vector = rip, refused
        uc.flush_tlb()
        return True

    def _assisted(self, rip: int) -> tuple[Insn, Assist] | None:
        """The guarded instruction at ``rip``, and how it can be executed."""
        key = rip, self._fetched(rip)
        if key not in self._assists:
            insn = decode(key[1], rip, NO_QUIRKS) if key[1] else None
            guarded = (
                insn is not None
                and guard_reason(insn, alignment=self._frames.guards.alignment) is not None
            )
            assist = assist_for(insn) if insn is not None and guarded else None
            self._assists[key] = None if insn is None or assist is None else (insn, assist)
        return self._assists[key]

    def _fetched(self, addr: int) -> bytes:
        """The text at ``addr`` as this vCPU sees it, without guards: enough for an instruction, or
        less where text ends.
        """
        vpn, offset = divmod(addr, PAGE_SIZE)
        first, second = (
            self._present.get(vpn),
            self._present.get(vpn + 1) or self._waiting.get(vpn + 1),
        )
        if first is None:
            return b""
        code = first.content[offset : offset + MAX_INSN_SIZE]
        return code if second is None else code + second.content[: MAX_INSN_SIZE - len(code)]

    def _exception(self, vector: int | None, began: int) -> tuple[ExitReason, int]:
        uc = self.uc
        self.error = uc.err
        if vector is None and uc.err == UC_ERR_INSN_INVALID:
            vector = _INVALID
        if vector is None:
            retired = max(0, began - 1)
            self.retired += retired
            return ExitReason.STUCK, retired
        if vector == VECTOR_WATCH:
            self.retired += began - 1
            return ExitReason.WATCH, began - 1
        if vector >= 0x100:
            self.retired += began
            return ExitReason.SYSCALL, began
        self.vector = vector
        if self._was_software(vector):
            self.retired += began
            return ExitReason.SOFTWARE, began
        if vector in TRAPS:
            self.retired += began
            return ExitReason.EXCEPTION, began
        # Where nothing could be fetched, nothing has begun: the last that did is the branch there.
        canonical = uc.rip + _CANONICAL & ADDRESS_MASK < 2 * _CANONICAL
        nothing_begun = not canonical or (vector == _PAGE_FAULT and uc.was_fetch(self._scratch))
        if vector in _CONTRIBUTORY:
            uc.forget_exception(self._scratch)
        retired = began if nothing_begun else max(0, began - 1)
        self.retired += retired
        return ExitReason.EXCEPTION, retired

    def _was_software(self, vector: int) -> bool:
        """An ``int n`` raised ``vector``, which is not what a breakpoint (one byte) or a fault
        does.
        """
        if vector > 31:
            return True
        if vector == _BREAKPOINT:
            page = self._present.get((self.uc.rip - 1) // PAGE_SIZE)
            return page is not None and page.content[(self.uc.rip - 1) % PAGE_SIZE] != INT3_OPCODE
        # one a single step: ask only where the instruction can have been `int 1`
        if vector == _DEBUG:
            page, offset = self._present.get(self.uc.rip // PAGE_SIZE), self.uc.rip % PAGE_SIZE
            if page is not None and offset >= 2 and page.content[offset - 2 : offset] != _INT_1:
                return False
        return vector != _INVALID and self.uc.was_software(self._scratch)

    def run_uncounted(self) -> ExitReason:
        """Execute until something happens, without counting instructions (as fast as the emulator
        goes, and without a limit).
        """
        if self.view is not self._mapped:
            self._show()
        # without a count Unicorn may leave its loop at a fault that it does not report
        if self._waiting:
            for page in self._waiting.values():
                self._show_page(page)
            self._waiting.clear()
            self.uc.flush_tlb()
        uc = self.uc
        uc.start_uncounted()
        self._report_invalid()
        while (
            (uc.vector == _INVALID or uc.err == UC_ERR_INSN_INVALID)
            and self._assist()
            and uc.vector is None
        ):
            uc.start_uncounted()
            self._report_invalid()
        if uc.vector is None and uc.err == 0:
            return ExitReason.HYPERCALL
        return self._exception(uc.vector, 1)[0]

    def _report_invalid(self) -> None:
        """A run has ended before its budget. Unicorn may leave its loop at an instruction that it
        can't execute and not report that: then there is no ``hlt`` right before RIP, as there is
        where a run ends well.
        """
        uc = self.uc
        if uc.vector is None and uc.err == 0:
            vpn, offset = divmod(uc.rip - 1, PAGE_SIZE)
            page = self._present.get(vpn)
            if page is not None and page.content[offset] != HLT_OPCODE:
                uc.err = UC_ERR_INSN_INVALID

    # Registers ------------------------------------------------------------------------------------

    @property
    def rflags(self) -> int:
        """RFLAGS."""
        self.uc.load()
        return self.uc.gpr[RFLAGS]

    def registers(self) -> tuple[int, ...]:
        """The 16 general registers in encoding order (rax, rcx, rdx, rbx, rsp, ...), then
        RFLAGS.
        """
        self.uc.load()
        return tuple(self.uc.gpr)

    @property
    def in_shadow(self) -> bool:
        """The last instruction was STI or MOV SS: no interrupt is delivered before the next one has
        been executed.
        """
        return self.uc.in_shadow(self._scratch)

    # Delivery -------------------------------------------------------------------------------------

    def push_frame(self, handler: int, error_code: int | None = None) -> bool:
        """Deliver an exception or interrupt: frame on the stack, IF and TF clear, RIP at
        ``handler``.

        Where the image has a red zone the frame first skips the 128 bytes under RSP. False, and
        nothing done, when the stack is not mapped there (a CPU would take a double fault).
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
        """A copy of everything but memory."""
        context = self.uc.new_context()
        self.uc.save(context)
        return CpuState(context, self)

    def save_into(self, state: CpuState) -> None:
        """:meth:`save` into a state that is not needed any more."""
        self.uc.save(state.context)
        state.keep(self)

    def restore(self, state: CpuState) -> None:
        """Go back to ``state``."""
        self.uc.restore(state.context)
        self.uc.rip = state.rip
        self.retired = state.retired
        self.interrupts = state.interrupts
        self.nmi = state.nmi
        self.view = state.view
