"""Hits that are answered while the emulator runs, in a callback of its own.

The module answers to asm_exc_int3 and asm_exc_debug (arch/x86/entry/entry_64.S), in one piece with
what the kernel's C code does in between. To leave the emulator for a hit takes longer than the
handler: the vCPU stops at the breakpoint, enters a stub, which pushes ``pt_regs`` and stops again,
and pops them afterwards. Here the host's machine code (:mod:`arch_x86.emu.host_code`) reads the
registers; the bytes that the stub would have pushed are put on the guest's stack; the trap handler
of the machine runs, the same one as ever; and the vCPU goes on where the handler says. The stub's
instructions are counted as if they had been executed. A detour buffer pushes ``pt_regs`` itself,
and only its call is answered here.

Everything that this does not fit is done in the usual way, which is the law for both. There are two
ways back to it:

* *Before the handler is asked*: the exception ends the run, or the stub's ``hlt`` is executed. This
  is so where the stack is not ordinary memory, and where the instruction limit, or an interrupt,
  may come within the hit.
* *Afterwards*: the vCPU's state moves to the usual instance, and stands there as it would behind
  the stub's ``hlt``; the run ends, and the answer is given there. This is so where the handler has
  raised an exception, or does not take the trap for its own, or has changed the text, or has set a
  register that only ``iretq`` can load; and where a handler asks the vCPU itself for something, as
  a call of a guest function does. Nothing is ever executed in an instance that is in a callback.
"""

from __future__ import annotations

from sys import getrefcount
from typing import TYPE_CHECKING, Final

from arch_x86.emu.answered import Answered
from arch_x86.emu.cpu import CODE_SELECTOR, DATA_SELECTOR, Cpu
from arch_x86.emu.hit_questions import (
    BREAKPOINT,
    WRITTEN,
    Question,
    Seen,
    TrapStub,
    number_of,
)
from arch_x86.emu.host_code import AnswerWord, BlockWord, HostCode
from arch_x86.emu.libunicorn import UC_OK, emu_stop, host_address
from arch_x86.emu.private_state import PrivateState
from arch_x86.emu.uc import RFLAGS, RSP
from arch_x86.emu.uc_hooks import VECTOR_SYSCALL
from arch_x86.isa.constants import (
    ADDRESS_MASK,
    FLAG_IF,
    FLAG_NT,
    FLAG_RF,
    FLAG_TF,
    INT3,
    MAX_INSN_SIZE,
    PAGE_SIZE,
    RED_ZONE_SIZE,
)
from arch_x86.probes.held_regs import CS, DI, FLAGS, IP, ORIG_AX, SI, SP, SS, HeldRegs
from arch_x86.probes.ptregs import PT_REGS_SIZE
from engine.errors import EngineBug

if TYPE_CHECKING:
    from arch_x86.emu.machine import Machine
    from arch_x86.emu.machine_contracts import TrapHandler
    from arch_x86.emu.traps import Traps
    from arch_x86.emu.uc import UcInstance

__all__ = ("ANSWERS", "HitsInside")

_DEBUG: Final = 1
_TRAPS: Final = (BREAKPOINT, _DEBUG)
_INT_1: Final = b"\xcd\x01"
_STI, _MOV_SS = b"\xfb", 0x8E
"""The opcodes of STI and of MOV to a segment register."""
_CALL: Final = -1
"""What stands for the vector while a detour buffer is answered."""
_UNUSED: Final = 3
"""How often a record of registers is referred to where nobody has kept it: by its attribute, by a
local variable, and by the call that counts.
"""
_CANONICAL: Final = 1 << 47
_LOADED: Final = 0xFD5
"""The flags that IRET loads always: CF, PF, AF, ZF, SF, TF, IF, DF and OF."""
_LEFT: Final = BlockWord.LEFT
_WRITE_COUNT, _WHAT = AnswerWord.WRITE_COUNT, AnswerWord.WHAT


class HitsInside:
    """The answers of one vCPU, which runs in the instance ``fast`` of its own for that.

    :param machine: the machine, whose trap handler is asked.
    :param cpu: the vCPU, whose usual instance is ``uc``.
    :param counted: what :class:`~arch_x86.emu.block_counter.BlockCounter` counts in.
    :param handling: the vCPUs whose traps are being handled, innermost last.
    :ivar end: how many instructions will have retired, of those that the vCPU's own count does not
        have yet, when no more may begin.
    :ivar told: how many of these have been added to the vCPU's count and to the machine's clock,
        for handlers to see.
    :ivar left: the state of the vCPU has moved to the usual instance, and the run is over.
    :ivar failed: an error that could not be raised in a callback.
    """

    __slots__ = (
        "_at",
        "_breaks",
        "_call_regs",
        "_call_values",
        "_call_words",
        "_callback",
        "_calls_asked",
        "_context",
        "_counted",
        "_cpu",
        "_fast",
        "_handler",
        "_handling",
        "_machine",
        "_moved",
        "_pages",
        "_present",
        "_private",
        "_ram",
        "_room",
        "_skip",
        "_steps",
        "_stubs",
        "_trap_image",
        "_trap_regs",
        "_trap_values",
        "_trap_words",
        "_trap_written",
        "_traps",
        "_traps_asked",
        "_uc",
        "_vector",
        "_view",
        "end",
        "failed",
        "left",
        "told",
    )

    def __init__(
        self,
        machine: Machine,
        cpu: Cpu,
        fast: UcInstance,
        code: HostCode,
        counted: memoryview[int],
        traps: Traps,
        handling: list[int],
    ) -> None:
        self._machine = machine
        self._cpu = cpu
        self._present = cpu.present
        self._uc = cpu.uc
        self._fast = fast
        self._counted = counted
        self._traps = traps
        self._handling = handling
        self._room = machine.ram.room
        self._ram = machine.ram.words
        self._pages = machine.ram.by_page
        self._skip = RED_ZONE_SIZE if cpu.red_zone else 0
        self._stubs = {vector: TrapStub(machine, vector) for vector in (_DEBUG, BREAKPOINT)}
        self._callback = machine.stubs.optimized_callback + 1
        self._context = fast.new_context()
        self._breaks: dict[int, Seen] = {}
        self._steps: dict[int, Seen] = {}
        self._private = PrivateState(fast)
        self._vector: int | None = None
        self._at = 0
        self._moved = False
        self._view = cpu.view
        self._handler: TrapHandler | None = None
        self.left = False
        self.end = self.told = 0
        self.failed: BaseException | None = None
        self._traps_asked = Question(tuple(sorted(WRITTEN)), WRITTEN, self.exception)
        self._trap_values = buffer = self._traps_asked.read.values
        buffer[ORIG_AX], buffer[CS], buffer[SS] = ADDRESS_MASK, CODE_SELECTOR, DATA_SELECTOR
        self._trap_written = self._traps_asked.write.values
        self._trap_words = self._traps_asked.words
        self._trap_image = buffer.cast("B")
        self._trap_regs = HeldRegs(bytes(PT_REGS_SIZE))
        self._calls_asked = Question((DI, SI), (IP,), self.hypercall)
        # In front of an instruction only the function for one register makes the vCPU go elsewhere.
        values, words = self._calls_asked.write, self._calls_asked.words
        values.values[IP] = self._callback
        words[AnswerWord.WRITE_IDS] = number_of(IP)
        words[AnswerWord.WRITE_SLOTS] = values.slots[0] or 0
        words[AnswerWord.WRITE] = host_address("uc_reg_write")
        self._call_values, self._call_words = self._calls_asked.read.values, words
        self._call_regs = HeldRegs(bytes(PT_REGS_SIZE))
        fast.hooks.answer_exceptions(code.exception, self._traps_asked.at)
        fast.hooks.answer_at(machine.stubs.optimized_callback, code.hypercall, self._calls_asked.at)

    def begin(self, *, enabled: bool) -> None:
        """Take note that a run of the vCPU in its fast instance begins.

        :param enabled: hits are to be answered.
        """
        self._handler = self._machine.trap_handler if enabled else None
        self.left = self._moved = False
        self.failed = self._vector = None
        self.told = 0
        if self._view is not self._cpu.view:
            self._view = self._cpu.view
            self._breaks.clear()
            self._steps.clear()

    def move(self) -> UcInstance:
        """Move the vCPU to its usual instance, behind the hypercall that is being answered.

        :returns: that instance, from which the vCPU goes on.
        """
        uc, vector = self._uc, self._vector
        if self._moved:
            return uc
        if vector is None:
            raise EngineBug("a vCPU was asked for its state while it ran")
        self._fast.save(self._context)
        uc.restore(self._context)
        if vector == _CALL:
            # A state that is saved in a callback has the flags in a form that the next run forgets.
            uc.load()
            uc.set_stack_and_flags(uc.gpr[RSP], uc.gpr[RFLAGS])
            uc.rip = self._callback
        else:
            flags = self._traps_asked.read.values[FLAGS]
            uc.set_stack_and_flags(self._at, flags & ~(FLAG_IF | FLAG_TF | FLAG_NT | FLAG_RF))
            uc.rip = self._stubs[vector].hlt
        uc.vector, uc.err = None, UC_OK
        self._moved = True
        self._cpu.uc = uc
        return uc

    # Callbacks ------------------------------------------------------------------------------------

    def exception(self) -> None:
        """Answer an exception, or let it end the run. The host's code calls this."""
        fast = self._fast
        try:
            number = self._trap_words[_WHAT]
            if (
                self._handler is not None
                and number in _TRAPS
                and fast.vector is None
                and self._trap(self._handler, number)
            ):
                return
            # In a single step by TF a system call is followed by #DB in the same run.
            if fast.vector != VECTOR_SYSCALL:
                fast.vector = number
        except BaseException as error:  # It would be lost here.
            self.failed = error
        emu_stop(fast.handle)

    def hypercall(self) -> None:
        """Answer a detour buffer, or let the vCPU execute the ``hlt`` of the stub that it calls.

        The host's code calls this.
        """
        try:
            if self._handler is not None:
                self._detour(self._handler)
        except BaseException as error:  # It would be lost here.
            self.failed = error
            emu_stop(self._fast.handle)

    # Breakpoints and single steps -----------------------------------------------------------------

    def _trap(self, handler: TrapHandler, vector: int) -> bool:
        """Answer #BP or #DB; return False to have it answered in the usual way."""
        values = self._trap_values
        ip = values[IP]
        seen = (self._breaks if vector == BREAKPOINT else self._steps).get(ip)
        if seen is None:
            seen = self._look(vector, ip)
        if seen is not Seen.PLAIN and (seen is Seen.OTHER or self._private.in_shadow()):
            return False
        stub = self._stubs[vector]
        at = (values[SP] - self._skip & ~15) - stub.size & ADDRESS_MASK
        page, offset = self._pages.get(at >> 12), at & 0xFFF
        counted = self._counted
        left = counted[_LEFT]
        if page is None or offset > PAGE_SIZE - stub.size or stub.retired >= left:
            return False
        place = page + offset
        data = bytes(self._trap_image)
        self._room[place : place + PT_REGS_SIZE] = data
        if stub.copied:
            self._room[place + PT_REGS_SIZE : place + stub.size] = data[-stub.copied :]
        regs = self._trap_regs
        regs.data, regs.changed, regs.orig_ax, regs.ip = data, None, ADDRESS_MASK, ip
        self._at, self._vector = at, vector
        cpu = self._cpu
        cpu.vector = vector
        self._tell(left - stub.before)
        handling = self._handling
        handling.append(cpu.index)
        try:
            answer = handler.int3 if vector == BREAKPOINT else handler.debug
            mine = answer(cpu.index, regs)
        except BaseException as error:
            handling.pop()
            self._leave(Answered(regs, error=error), left - stub.before)
        else:
            handling.pop()
            if mine and not self._moved and self._resume(regs, place >> 3):
                counted[_LEFT] = left - stub.retired
            else:
                self._leave(Answered(regs, mine), left - stub.before)
        if getrefcount(regs) > _UNUSED:
            self._trap_regs = HeldRegs(data)
        return True

    def _look(self, vector: int, ip: int) -> Seen:
        """Look at the text in front of ``ip``, which is RIP at a #BP or #DB."""
        if vector == BREAKPOINT:
            end, found = ip - 1, self._text(ip - 1, 1) == INT3
        else:
            end, found = ip, self._text(ip - 2, 2) != _INT_1
        before = self._before(end)
        plain = before[-1:] != _STI and _MOV_SS not in before
        seen = (Seen.PLAIN if plain else Seen.SHADOW) if found else Seen.OTHER
        (self._breaks if vector == BREAKPOINT else self._steps)[ip] = seen
        return seen

    def _before(self, addr: int) -> bytes:
        """Return the text in front of ``addr``, enough for an instruction where there is so much.

        A page that is not there has not been executed.
        """
        inside = min(addr % PAGE_SIZE, MAX_INSN_SIZE)
        rest = MAX_INSN_SIZE - inside
        return self._text(addr - MAX_INSN_SIZE, rest) + self._text(addr - inside, inside)

    def _text(self, addr: int, size: int) -> bytes:
        """Return text as the vCPU fetches it, within one page."""
        page = self._present.get(addr // PAGE_SIZE)
        offset = addr % PAGE_SIZE
        return b"" if page is None else page.content[offset : offset + size]

    def _resume(self, regs: HeldRegs, place: int) -> bool:
        """Let the vCPU go on with ``regs``, as the stub's IRETQ would.

        :param place: which word of the guest's memory is the first of pt_regs.
        :returns: False, with nothing done, where the stub has to do it.
        """
        ip, changed = regs.ip & ADDRESS_MASK, regs.changed
        if (
            self._cpu.view is not self._view
            or ip + _CANONICAL & ADDRESS_MASK >= 2 * _CANONICAL
            or regs.orig_ax != ADDRESS_MASK
        ):
            return False
        written = self._trap_written
        if changed is None:
            self._ram[place + IP] = written[IP] = ip
            self._trap_words[_WRITE_COUNT] = 1
            return True
        if not self._can_load(regs, changed, ip):
            return False
        if len(changed) == 1 and FLAGS in changed:
            self._ram[place + IP] = written[IP] = ip
            self._ram[place + FLAGS] = written[FLAGS] = changed[FLAGS] & ADDRESS_MASK
            self._trap_words[_WRITE_COUNT] = 2
            return True
        data = regs.pack()
        written[:] = memoryview(data).cast("Q")
        self._room[8 * place : 8 * place + PT_REGS_SIZE] = data
        self._trap_words[_WRITE_COUNT] = len(WRITTEN)
        return True

    def _can_load(self, regs: HeldRegs, changed: dict[int, int], ip: int) -> bool:
        """Return whether the registers of ``changed`` can be loaded by the host."""
        if CS in changed or SS in changed:
            return False
        if FLAGS not in changed:
            return True
        flags = changed[FLAGS]
        if (flags ^ self._trap_values[FLAGS]) & ~_LOADED:
            return False
        return not flags & FLAG_TF or not self._traps.pause_length(ip)

    # Detour buffers -------------------------------------------------------------------------------

    def _detour(self, handler: TrapHandler) -> None:
        """Answer a detour buffer, or do nothing where that has to be done in the usual way."""
        asked = self._call_values
        at = asked[SI]
        page, offset = self._pages.get(at >> 12), at & 0xFFF
        if page is None or offset > PAGE_SIZE - PT_REGS_SIZE or at & 7:
            return
        place = page + offset
        data = self._room[place : place + PT_REGS_SIZE]
        place >>= 3
        ram, regs = self._ram, self._call_regs
        regs.data, regs.changed = data, None
        regs.orig_ax, regs.ip = ram[place + ORIG_AX], ram[place + IP]
        left = self._counted[_LEFT]
        self._vector = _CALL
        self._tell(left)
        cpu, handling = self._cpu, self._handling
        handling.append(cpu.index)
        try:
            handler.optimized_callback(cpu.index, asked[DI], regs)
        except BaseException as error:
            handling.pop()
            self._leave(Answered(regs, error=error), left)
        else:
            handling.pop()
            if self._moved or cpu.view is not self._view:
                self._leave(Answered(regs, mine=True), left)
            elif regs.changed is None:
                ram[place + ORIG_AX] = regs.orig_ax & ADDRESS_MASK
                ram[place + IP] = regs.ip & ADDRESS_MASK
            else:
                self._room[8 * place : 8 * place + PT_REGS_SIZE] = regs.pack()
        if getrefcount(regs) > _UNUSED:
            self._call_regs = HeldRegs(data)
        if not self.left:
            self._call_words[_WRITE_COUNT] = 1

    # The end of a run -----------------------------------------------------------------------------

    def _tell(self, left: int) -> None:
        """Show handlers how much has retired where ``left`` instructions may still begin."""
        told = self.end - left
        new = told - self.told
        self.told = told
        self._cpu.retired += new
        self._machine.clock += new

    def take_back(self) -> None:
        """Take back what handlers were shown, since who began the run counts it, too."""
        self._cpu.retired -= self.told
        self._machine.clock -= self.told
        self.told = 0

    def _leave(self, answered: Answered, left: int) -> None:
        """End the run with an answer that the usual way has to give.

        :param left: how many instructions may still begin behind the stub's ``hlt``.
        """
        self.move()
        self._cpu.answered = answered
        self._counted[_LEFT] = left
        self.left = True
        emu_stop(self._fast.handle)


ANSWERS: Final = (HitsInside.exception.__code__, HitsInside.hypercall.__code__)
"""The code of the callbacks that the emulator calls."""
