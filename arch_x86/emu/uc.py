"""One Unicorn instance: a bare CPU that runs, and its general registers.

Each rule here was measured on Unicorn 2.1.4. A run leaves by ``hlt`` or by its count, never by a
stop address, which would drop the blocks translated there. The count is always above 0: to switch
counting on or off may drop every translated block. An instance that counts by blocks never has a
count (:mod:`arch_x86.emu.fast_instance`).
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_int, c_uint64, c_void_p
from typing import Final

from arch_x86.emu.context import Context
from arch_x86.emu.extended_state import ExtendedState
from arch_x86.emu.host_code import HostCode
from arch_x86.emu.host_memory import HostMemory
from arch_x86.emu.libunicorn import (
    UC_ERR_INSN_INVALID,
    UC_OK,
    check,
    context_restore,
    context_save,
    emu_start,
    flush_translations,
    instance_close,
    instance_open,
    reg_read,
    reg_read_batch,
    reg_write,
    reg_write_batch,
    x86,
)
from arch_x86.emu.private_offsets import PrivateOffsets
from arch_x86.emu.room import require_room
from arch_x86.emu.structures import Mmr, Msr
from arch_x86.emu.uc_hooks import VECTOR_INVALID, CallbackCounter, Hooks
from arch_x86.isa.constants import FLAG_TF

__all__ = ("GPR_NAMES", "NO_LIMIT", "PrivateOffsets", "UcInstance", "UcPool")

GPR_NAMES: Final = (
    *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
)
"""The order in which :attr:`UcInstance.gpr` holds the general registers (their encoding order);
RFLAGS follows at index 16.
"""

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
RFLAGS: Final = 16
_BATCH_IDS: Final[tuple[int, ...]] = (
    *(getattr(x86, f"UC_X86_REG_{name.upper()}") for name in GPR_NAMES),
    x86.UC_X86_REG_EFLAGS,
)
_RIP: Final = x86.UC_X86_REG_RIP
NO_LIMIT: Final = 0x0123_4567_89AB
"""A count that no run reaches, of a form that is easily found again in memory (``calibration``
looks for it).
"""
_RUN_MAX: Final = 1 << 20
"""Most instructions of one run of the emulator. Ctrl-C is noticed only between two runs: this takes
8 ms at full speed, and less than a second with a callback for each instruction.
"""
_VECTOR_DEBUG: Final = 1
_MSR_EFER: Final = 0xC0000080
_EFER: Final = 0xD01
"""The value of EFER sets SCE, LME, LMA and NXE (SDM vol. 3, 2.2.1)."""
_CR4: Final = 0x620
"""The value of CR4 sets PAE, OSFXSR and OSXMMEXCPT (SDM vol. 3, 2.5)."""
_CR0: Final = 0x8001_0033
"""The value of CR0 sets PG, WP, NE, ET, MP and PE (SDM vol. 3, 2.5)."""


class UcInstance:
    """A bare x86-64 CPU in long mode with paging.

    Between runs ``rip`` is held here, and everything else by Unicorn.

    :param offsets: where Unicorn keeps what it does not tell.
    :ivar offsets: the same.
    :ivar handle: the instance, for calls of the library.
    :ivar gpr: the general registers and RFLAGS, as :meth:`load` found them or for :meth:`store`.
    :ivar vector: the exception that ended the last run, or None.
    :ivar err: Unicorn's error code of the last run.
    :ivar patched: the addresses of :meth:`Hooks.trap_at <arch_x86.emu.uc_hooks.Hooks.trap_at>`
        where something else stands at present.
    :ivar started_at: as in :class:`~arch_x86.emu.uc_hooks.HookedRun`.
    :ivar executed_alone: as in :class:`~arch_x86.emu.uc_hooks.HookedRun`.
    :ivar hooks: what watches and records runs.
    :ivar memory: the guest-physical memory.
    :ivar by_blocks: it runs by :meth:`start_by_blocks` only.
    :ivar extended: the vector and x87 registers.
    """

    __slots__ = (
        "_counter",
        "_cr3",
        "_fallback",
        "_ids",
        "_scratch",
        "_scratch_at",
        "_slots",
        "_uncounted",
        "by_blocks",
        "err",
        "executed_alone",
        "extended",
        "gpr",
        "handle",
        "hooks",
        "memory",
        "offsets",
        "patched",
        "rip",
        "started_at",
        "vector",
    )

    def __init__(self, offsets: PrivateOffsets) -> None:
        require_room()
        self.handle = instance_open()
        self.offsets = offsets
        self.gpr = (c_uint64 * 17)()
        self._ids = (c_int * 17)(*_BATCH_IDS)
        base = ctypes.addressof(self.gpr)
        self._slots = (c_void_p * 17)(*[base + 8 * i for i in range(17)])
        self._scratch = c_uint64()
        self._scratch_at = ctypes.addressof(self._scratch)
        self._cr3 = c_uint64()
        self._uncounted = False
        self.by_blocks = False
        self.started_at: int | None = None
        self.executed_alone: int | None = None
        self.patched: set[int] = set()
        self.rip = 0
        self.vector: int | None = None
        self.err = UC_OK
        self.hooks = Hooks(self.handle, self)
        self._fallback: CallbackCounter | None = None
        self._counter: c_uint64 | CallbackCounter
        if offsets.counter is not None:
            self._counter = c_uint64.from_address(self.handle + offsets.counter)
        else:
            self._counter = self._fallback = CallbackCounter(self.handle)
        self.memory = HostMemory(self.handle)
        self.extended = ExtendedState(self.handle)

    def close(self) -> None:
        """Free the instance; it must not be used afterwards."""
        if self.handle:
            instance_close(self.handle)
            self.handle = 0
            self.memory.forget_owners()

    def forget(self) -> None:
        """Unmap all memory and drop all hooks and translations, for the return to a pool."""
        self.memory.unmap_all()
        self.hooks.clear()
        self.patched.clear()
        self.flush_translations()

    def flush_translations(self) -> None:
        """Drop every translated block, as is needed when a physical page of text gets new content.

        This takes 17 us.
        """
        flush_translations(self.handle)

    def flush_tlb(self) -> None:
        """Drop the TLB, so that page tables are looked up anew.

        Translated blocks of unchanged physical pages stay. This takes 0.6 us.
        """
        reg_write(self.handle, x86.UC_X86_REG_CR3, byref(self._cr3))

    def enter_long_mode(
        self, cr3: int, gdt: int, gdt_limit: int, code_selector: int, data_selector: int
    ) -> None:
        """Switch paging on, with write protection in ring 0 and no-execute.

        :param cr3: the physical address of the page tables' root.
        :param gdt: the linear address of the GDT, which the two segments are loaded from.
        :param gdt_limit: the offset of its last byte.
        """
        msr = Msr(_MSR_EFER, _EFER)
        check(reg_write(self.handle, x86.UC_X86_REG_MSR, byref(msr)), "writing EFER")
        self.write_reg(x86.UC_X86_REG_CR3, cr3)
        self.write_reg(x86.UC_X86_REG_CR4, _CR4)
        self.write_reg(x86.UC_X86_REG_CR0, _CR0)
        table = Mmr(0, gdt, gdt_limit, 0)
        check(reg_write(self.handle, x86.UC_X86_REG_GDTR, byref(table)), "writing GDTR")
        self.write_reg(x86.UC_X86_REG_CS, code_selector)
        for segment in (x86.UC_X86_REG_SS, x86.UC_X86_REG_DS, x86.UC_X86_REG_ES):
            self.write_reg(segment, data_selector)
        self.extended.reset()
        self._cr3.value = cr3

    # Registers ------------------------------------------------------------------------------------

    def read_reg(self, register: int) -> int:
        """Return one 64-bit register, by Unicorn's number."""
        reg_read(self.handle, register, self._scratch_at)
        return self._scratch.value

    def write_reg(self, register: int, value: int) -> None:
        """Set one 64-bit register, by Unicorn's number."""
        self._scratch.value = value
        check(reg_write(self.handle, register, self._scratch_at), f"writing register {register}")

    def load(self) -> None:
        """Read the 16 general registers and RFLAGS into :attr:`gpr` (0.6 us)."""
        reg_read_batch(self.handle, self._ids, self._slots, 17)

    def store(self) -> None:
        """Write :attr:`gpr` back (0.6 us)."""
        reg_write_batch(self.handle, self._ids, self._slots, 17)

    def set_stack_and_flags(self, rsp: int, rflags: int) -> None:
        """Set RSP and RFLAGS, which an exception frame changes."""
        self._scratch.value = rsp
        reg_write(self.handle, x86.UC_X86_REG_RSP, self._scratch_at)
        self._scratch.value = rflags
        reg_write(self.handle, x86.UC_X86_REG_EFLAGS, self._scratch_at)

    @property
    def cr2(self) -> int:
        """The address of the last page fault."""
        return self.read_reg(x86.UC_X86_REG_CR2)

    def set_bases(self, fs: int, gs: int) -> None:
        """Set the base addresses of FS and GS."""
        self.write_reg(x86.UC_X86_REG_FS_BASE, fs)
        self.write_reg(x86.UC_X86_REG_GS_BASE, gs)

    def segment_base(self, *, gs: bool) -> int:
        """Return the base address of GS, or of FS."""
        return self.read_reg(x86.UC_X86_REG_GS_BASE if gs else x86.UC_X86_REG_FS_BASE)

    # Running --------------------------------------------------------------------------------------

    def start(self, count: int, *, goes_on: bool = False) -> int:
        """Run from :attr:`rip` until ``hlt``, an exception or ``count`` instructions.

        :param count: above 0.
        :param goes_on: the run goes on behind instructions that have retired, so that the first one
            may end it, too, if it is watched.
        :returns: the number of instructions that began (a REP iteration counts as one): one more
            than ``count`` when the count ended the run, and the one that faulted is in it.
        """
        self.vector = None
        self.started_at = None if goes_on else self.rip
        begun = 0
        while count > _RUN_MAX:
            done = self._start(_RUN_MAX)
            if done <= _RUN_MAX or self.vector is not None or self.err != UC_OK:
                return begun + done
            begun += _RUN_MAX
            count -= _RUN_MAX
        return begun + self._start(count)

    def _start(self, count: int) -> int:
        """Run the emulator once, as :meth:`start` does; nothing from outside can end this run."""
        if self._uncounted:
            # Blocks that were translated without a count would be executed without one.
            self._uncounted = False
            self.flush_translations()
        if self._fallback is not None:
            self._fallback.restart(count)
            count = NO_LIMIT
        self.err = emu_start(self.handle, self.rip, 0, 0, count)
        reg_read(self.handle, _RIP, self._scratch_at)
        self.rip = self._scratch.value
        return self._counter.value

    def start_one(self) -> bool:
        """Execute the one instruction at :attr:`rip`, counted or not as the last run was.

        A recorder (:meth:`Hooks.record <arch_x86.emu.uc_hooks.Hooks.record>`) has counted it
        before.

        :returns: whether it retired: :attr:`vector` is None then, or that of a single step that was
            under way.
        """
        self.executed_alone = self.rip
        if self._uncounted:
            self._step()
        else:
            self.start(1)
        self.executed_alone = None
        if self.err == UC_ERR_INSN_INVALID:  # The emulator does not know the instruction at all.
            self.vector = VECTOR_INVALID
        return self.err == UC_OK and self.vector in (None, _VECTOR_DEBUG)

    def _step(self) -> None:
        """Execute one instruction by the trap flag.

        To count it would drop all translations, and to go back to running without a count would
        drop them again.
        """
        self.load()
        stepped = self.gpr[RFLAGS] & FLAG_TF
        self.gpr[RFLAGS] |= FLAG_TF
        self.store()
        self.start_uncounted()
        if not stepped:
            self.load()
            self.gpr[RFLAGS] &= ~FLAG_TF
            self.store()
            if self.vector == _VECTOR_DEBUG:
                self.vector = None

    def start_uncounted(self) -> None:
        """Run until ``hlt`` or an exception, without counting.

        Going back to :meth:`start` may drop translations.
        """
        self.vector = None
        self._uncounted = True
        self.err = emu_start(self.handle, self.rip, 0, 0, 0)
        reg_read(self.handle, _RIP, self._scratch_at)
        self.rip = self._scratch.value

    def start_by_blocks(self) -> None:
        """Run until ``hlt``, an exception, or until a hook stops it, which counts blocks.

        An instance that runs so never runs otherwise: with the change Unicorn would look for
        translations by their addresses, and take an address that is not mapped any more for a page
        fault of the guest.
        """
        self.vector = None
        self.err = emu_start(self.handle, self.rip, 0, 0, 0)
        reg_read(self.handle, _RIP, self._scratch_at)
        self.rip = self._scratch.value

    # State ----------------------------------------------------------------------------------------

    def new_context(self) -> Context:
        """Return room for one saved state of any instance."""
        return Context(self.handle)

    def save(self, context: Context) -> None:
        """Save all CPU state but :attr:`rip` (0.2 us)."""
        context_save(self.handle, context.pointer)

    def restore(self, context: Context) -> None:
        """Go back to a saved state (0.7 us). The TLB is not flushed."""
        context_restore(self.handle, context.pointer)


class UcPool:
    """A pool of instances ready for use.

    A new instance costs 8 ms and 3 MB with its first run, a pooled one next to nothing.

    :param offsets: where Unicorn keeps what it does not tell.
    """

    def __init__(self, offsets: PrivateOffsets) -> None:
        self.offsets = offsets
        self._free: tuple[list[UcInstance], list[UcInstance]] = [], []
        self._clean: Context | None = None
        self._code: HostCode | None = None
        self._has_code = True

    @property
    def host_code(self) -> HostCode | None:
        """The host's machine code for hooks, which all instances share; None: there is none."""
        if self._code is None and self._has_code:
            self._code = HostCode.made()
            self._has_code = self._code is not None
        return self._code

    def take(self, *, by_blocks: bool = False) -> UcInstance:
        """Return an instance without memory and in reset state.

        :param by_blocks: it is to run by :meth:`UcInstance.start_by_blocks` only.
        """
        free = self._free[by_blocks]
        if not free:
            instance = UcInstance(self.offsets)
            instance.by_blocks = by_blocks
            if self._clean is None:
                self._clean = instance.new_context()
                instance.save(self._clean)
            return instance
        instance = free.pop()
        assert self._clean is not None
        instance.restore(self._clean)
        instance.rip = 0
        return instance

    def give(self, instance: UcInstance) -> None:
        """Take an instance back, which another machine may use from now on."""
        instance.forget()
        self._free[instance.by_blocks].append(instance)

    def close(self) -> None:
        """Free the instances that no machine uses."""
        for free in self._free:
            for instance in free:
                instance.close()
            free.clear()
