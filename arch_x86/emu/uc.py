"""One Unicorn instance, driven by direct calls into its library. The only module that imports
unicorn.

The binding's own methods cost 3 to 30 us a call; the same C functions called with prebuilt ctypes
arrays cost 0.2 to 1 us. What it keeps to (each measured on 2.1.4): a run leaves by ``hlt`` or by
its count, never by a stop address; the count is always above 0; no Python runs inside a callback
but for noting the vector and asking for the stop.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Iterable
from ctypes import byref, c_int, c_size_t, c_uint32, c_uint64, c_void_p, cast
from types import FrameType
from typing import Any, Final

import unicorn.unicorn_py3.unicorn as _binding  # pyright: ignore[reportMissingTypeStubs]
from unicorn import unicorn_const as uc_const  # pyright: ignore[reportMissingTypeStubs]
from unicorn import x86_const as x86  # pyright: ignore[reportMissingTypeStubs]

from arch_x86.emu.private_offsets import PrivateOffsets
from arch_x86.emu.room import require_room
from arch_x86.emu.structures import Mmr, Msr
from arch_x86.isa.constants import FLAG_TF, PAGE_SIZE
from engine.errors import EngineBug

__all__ = (
    "GPR_NAMES",
    "NO_LIMIT",
    "SHADOW",
    "VECTOR_WATCH",
    "Context",
    "PrivateOffsets",
    "UcInstance",
    "UcPool",
    "in_callback",
)

_LIB: Final[Any] = _binding.uclib  # pyright: ignore[reportUnknownMemberType]


def _function(name: str, *arguments: Any) -> Any:
    """A library function that keeps the GIL (releasing it costs more than most of these calls
    take).
    """
    pointer = cast(getattr(_LIB, name), c_void_p).value
    assert pointer is not None
    return ctypes.PYFUNCTYPE(c_int, *arguments)(pointer)


_open = _function("uc_open", c_int, c_int, c_void_p)
_close = _function("uc_close", c_void_p)
_emu_start = _function("uc_emu_start", c_void_p, c_uint64, c_uint64, c_uint64, c_size_t)
_emu_stop = _function("uc_emu_stop", c_void_p)
_reg_read = _function("uc_reg_read", c_void_p, c_int, c_void_p)
_reg_write = _function("uc_reg_write", c_void_p, c_int, c_void_p)
_reg_read_batch = _function("uc_reg_read_batch", c_void_p, c_void_p, c_void_p, c_int)
_reg_write_batch = _function("uc_reg_write_batch", c_void_p, c_void_p, c_void_p, c_int)
_context_alloc = _function("uc_context_alloc", c_void_p, c_void_p)
_context_free = _function("uc_context_free", c_void_p)
_context_save = _function("uc_context_save", c_void_p, c_void_p)
_context_restore = _function("uc_context_restore", c_void_p, c_void_p)
_mem_map_ptr = _function("uc_mem_map_ptr", c_void_p, c_uint64, c_size_t, c_uint32, c_void_p)
_mem_unmap = _function("uc_mem_unmap", c_void_p, c_uint64, c_size_t)
_INTR_CALLBACK = ctypes.CFUNCTYPE(None, c_void_p, c_uint32, c_void_p)
_SYSCALL_CALLBACK = ctypes.CFUNCTYPE(None, c_void_p, c_void_p)
_CODE_CALLBACK = ctypes.CFUNCTYPE(None, c_void_p, c_uint64, c_uint32, c_void_p)
_WRITE_CALLBACK = ctypes.CFUNCTYPE(None, c_void_p, c_int, c_uint64, c_int, ctypes.c_int64, c_void_p)

UC_OK, UC_ERR_INSN_INVALID = 0, uc_const.UC_ERR_INSN_INVALID
_CTL_FLUSH_TB: Final = uc_const.UC_CTL_TB_FLUSH | (uc_const.UC_CTL_IO_WRITE << 30)

GPR_NAMES: Final = (
    "rax",
    "rcx",
    "rdx",
    "rbx",
    "rsp",
    "rbp",
    "rsi",
    "rdi",
    "r8",
    "r9",
    "r10",
    "r11",
    "r12",
    "r13",
    "r14",
    "r15",
)
"""The order in which :attr:`UcInstance.gpr` holds the general registers (their encoding order);
RFLAGS follows at index 16.
"""

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
RFLAGS: Final = 16
_BATCH_IDS: Final = (
    *(getattr(x86, f"UC_X86_REG_{name.upper()}") for name in GPR_NAMES),
    x86.UC_X86_REG_EFLAGS,
)
_VECTOR_IDS: Final = (*(x86.UC_X86_REG_XMM0 + i for i in range(16)), x86.UC_X86_REG_MXCSR)
_FLOATING_POINT: Final = (
    (x86.UC_X86_REG_FPCW, 0x37F),
    (x86.UC_X86_REG_FPSW, 0),
    (x86.UC_X86_REG_FPTAG, 0xFFFF),
    (x86.UC_X86_REG_MXCSR, 0x1F80),
)
_VECTOR_SIZE: Final = 16 * 16 + 4
_FPU_IDS: Final = (
    *(x86.UC_X86_REG_FP0 + i for i in range(8)),
    x86.UC_X86_REG_FPCW,
    x86.UC_X86_REG_FPSW,
    x86.UC_X86_REG_FPTAG,
)
NO_LIMIT: Final = 0x0123_4567_89AB
"""A count that no run reaches, of a form that is easily found again in memory (``calibration``
looks for it).
"""
_RUN_MAX: Final = 1 << 20
"""Ctrl-C is noticed between two runs of the emulator only, so none is longer: 8 ms at full speed,
below a second with a callback each.
"""
_VECTOR_DEBUG, _VECTOR_INVALID, _ERROR_FETCH = 1, 6, 16
SHADOW: Final = 1 << 3
_VECTOR_SYSCALL: Final = 0x100
"""Pseudo vector for ``syscall``/``sysenter``, which Unicorn would silently skip."""
VECTOR_WATCH: Final = 0x101
"""Pseudo vector: the next instruction is one of :meth:`UcInstance.watch`; it has not been executed.
"""

_CALLBACK_NAMES: Final = frozenset(
    {"intr", "syscall", "invalid", "watched", "wrote", "loaded", "began", "tell", "_count_one"}
)


def in_callback(frame: FrameType | None) -> bool:
    """True for the frame of a callback from the emulator, where an exception would be lost, and of
    what it calls.
    """
    while frame is not None and not (
        frame.f_code.co_filename == __file__ and frame.f_code.co_name in _CALLBACK_NAMES
    ):
        frame = frame.f_back
    return frame is not None


class Context:
    """Room for one saved CPU state; give it back with :meth:`UcPool.release_context` or let it be
    collected.
    """

    __slots__ = ("pointer", "size")

    def __init__(self, handle: int, size: int) -> None:
        pointer = c_void_p()
        _check(_context_alloc(handle, byref(pointer)), "uc_context_alloc")
        assert pointer.value is not None
        self.pointer: int = pointer.value
        self.size = size

    def __del__(self) -> None:
        if getattr(self, "pointer", 0):
            _context_free(self.pointer)
            self.pointer = 0


def _check(code: int, what: str) -> None:
    if code != UC_OK:
        raise EngineBug(f"{what} failed: Unicorn error {code}")


class UcInstance:
    """A bare x86-64 CPU in long mode with paging. ``rip`` lives here between runs, everything else
    in Unicorn.

    ``vector`` after a run: the exception that ended it, or None. ``err``: Unicorn's error code of
    that run. ``patched``: addresses of :meth:`trap_at` where something else stands at present.
    """

    __slots__ = (
        "_again",
        "_callbacks",
        "_counter",
        "_cr3",
        "_fallback_count",
        "_fallback_limit",
        "_fpu",
        "_fpu_ids",
        "_fpu_slots",
        "_from",
        "_ids",
        "_keep",
        "_offsets",
        "_recording",
        "_scratch",
        "_scratch_at",
        "_slots",
        "_traps",
        "_uncounted",
        "_vector_ids",
        "_vector_slots",
        "_vectors",
        "err",
        "gpr",
        "handle",
        "mapped",
        "patched",
        "rip",
        "vector",
    )

    def __init__(self, offsets: PrivateOffsets) -> None:
        require_room()
        handle = c_void_p()
        _check(_open(uc_const.UC_ARCH_X86, uc_const.UC_MODE_64, byref(handle)), "uc_open")
        assert handle.value is not None
        self.handle: int = handle.value
        self._offsets = offsets
        self.gpr = (c_uint64 * 17)()
        self._ids = (c_int * 17)(*_BATCH_IDS)
        base = ctypes.addressof(self.gpr)
        self._slots = (c_void_p * 17)(*[base + 8 * i for i in range(17)])
        self._vectors = (ctypes.c_uint8 * _VECTOR_SIZE)()
        self._vector_ids = (c_int * 17)(*_VECTOR_IDS)
        base = ctypes.addressof(self._vectors)
        self._vector_slots = (c_void_p * 17)(*[base + 16 * i for i in range(17)])
        self._fpu = (ctypes.c_uint8 * 16 * len(_FPU_IDS))()
        self._fpu_ids = (c_int * len(_FPU_IDS))(*_FPU_IDS)
        self._fpu_slots = (c_void_p * len(_FPU_IDS))(
            *[ctypes.addressof(slot) for slot in self._fpu]
        )
        self._scratch = c_uint64()
        self._scratch_at = ctypes.addressof(self._scratch)
        self._cr3 = c_uint64()
        self._keep: list[object] = []
        self._callbacks: list[object] = []
        self._fallback_count = self._fallback_limit = 0
        self._counter: c_uint64 | None = None
        self._traps: list[int] = []
        self._from: int | None = None
        self._uncounted = False
        self._again: int | None = None  # what a recorder does not count
        self._recording = 0
        self.patched: set[int] = set()
        self.mapped: list[tuple[int, int]] = []
        self.rip = 0
        self.vector: int | None = None
        self.err = UC_OK
        self._hook()
        self._settle_ram()

    def _settle_ram(self) -> None:
        """Map a page and forget it: in an instance whose memory was never unmapped, Unicorn gives
        two mappings the same place in its RAM numbering, and then runs one's translations for the
        other's text.
        """
        room = mmap.mmap(-1, PAGE_SIZE)
        host = ctypes.addressof(ctypes.c_char.from_buffer(room))
        _check(
            _mem_map_ptr(self.handle, 0, PAGE_SIZE, uc_const.UC_PROT_ALL, host), "uc_mem_map_ptr"
        )
        _check(_mem_unmap(self.handle, 0, PAGE_SIZE), "uc_mem_unmap")

    def _hook(self) -> None:
        stop, handle = _emu_stop, self.handle

        def intr(_uc: int, number: int, _data: int) -> None:
            # stepped by TF, a system call is followed by #DB in the same run
            if self.vector != _VECTOR_SYSCALL:
                self.vector = number
            stop(handle)

        def syscall(_uc: int, _data: int) -> None:
            self.vector = _VECTOR_SYSCALL
            stop(handle)

        self._add_hook(uc_const.UC_HOOK_INTR, _INTR_CALLBACK(intr))
        self._add_hook(uc_const.UC_HOOK_INSN, _SYSCALL_CALLBACK(syscall), x86.UC_X86_INS_SYSCALL)
        self._add_hook(uc_const.UC_HOOK_INSN, _SYSCALL_CALLBACK(syscall), x86.UC_X86_INS_SYSENTER)
        if self._offsets.counter is not None:
            self._counter = c_uint64.from_address(self.handle + self._offsets.counter)
        else:
            self._add_hook(uc_const.UC_HOOK_CODE, _CODE_CALLBACK(self._count_one))

    def _count_one(self, _uc: int, _address: int, _size: int, _data: int) -> None:
        """The slow way to count, where the counter was not found: a callback before each
        instruction, which also ends the run.
        """
        self._fallback_count += 1
        if self._fallback_count > self._fallback_limit:
            _emu_stop(self.handle)

    def _add_hook(
        self,
        kind: int,
        callback: Any,
        instruction: int | None = None,
        *,
        begin: int = 1,
        end: int = 0,
    ) -> int:
        hook = c_size_t()
        extra = () if instruction is None else (c_int(instruction),)
        code = _LIB.uc_hook_add(
            c_void_p(self.handle),
            byref(hook),
            c_int(kind),
            callback,
            None,
            c_uint64(begin),
            c_uint64(end),
            *extra,
        )
        _check(code, "uc_hook_add")
        self._callbacks.append(callback)
        return hook.value

    def trap_at(self, addr: int) -> None:
        """Raise #UD instead of executing an instruction that starts at ``addr``, which has not been
        executed yet, while ``addr`` is not in :attr:`patched`. Until :meth:`unmap_all`.
        """
        stop, handle = _emu_stop, self.handle

        def invalid(_uc: int, _address: int, _size: int, _data: int) -> None:
            if addr not in self.patched:
                self.vector = _VECTOR_INVALID
                stop(handle)

        self._traps.append(
            self._add_hook(uc_const.UC_HOOK_CODE, _CODE_CALLBACK(invalid), begin=addr, end=addr)
        )

    def watch(self, begin: int, end: int) -> None:
        """End a run by :data:`VECTOR_WATCH` before each instruction that starts in ``[begin,
        end)``, but for the one it starts with. Until
        :meth:`unmap_all`; nothing there may have been translated yet.
        """
        stop, handle = _emu_stop, self.handle

        def watched(_uc: int, address: int, _size: int, _data: int) -> None:
            if address == self._from:
                self._from = None
            else:
                self.vector = VECTOR_WATCH
                stop(handle)

        self._traps.append(
            self._add_hook(uc_const.UC_HOOK_CODE, _CODE_CALLBACK(watched), begin=begin, end=end - 1)
        )

    def record(self, writes: set[tuple[int, int]], executed: dict[int, int]) -> None:
        """Put physical address and size of each store into ``writes``, and count in ``executed``
        how often its addresses are executed.

        Until :meth:`stop_recording`, before which no other hook may be added.
        """

        def wrote(_uc: int, _kind: int, address: int, size: int, _value: int, _data: int) -> None:
            writes.add((address, size))

        def began(_uc: int, address: int, _size: int, _data: int) -> None:
            executed[address] += address != self._again

        self._traps.append(self._add_hook(uc_const.UC_HOOK_MEM_WRITE, _WRITE_CALLBACK(wrote)))
        for addr in executed:
            self._traps.append(
                self._add_hook(uc_const.UC_HOOK_CODE, _CODE_CALLBACK(began), begin=addr, end=addr)
            )
        self._recording = 1 + len(executed)
        self.flush_translations()

    def record_loads(self, seen: Callable[[int, int, int], None]) -> None:
        """Call ``seen(physical address, RSP, RIP)`` for each load of a counted run, until
        :meth:`stop_recording`.
        """
        registers, value = (x86.UC_X86_REG_RSP, x86.UC_X86_REG_RIP), c_uint64()
        where, handle = ctypes.addressof(value), self.handle

        def loaded(_uc: int, _kind: int, address: int, _size: int, _value: int, _data: int) -> None:
            _reg_read(handle, registers[0], where)
            rsp = value.value
            _reg_read(handle, registers[1], where)
            seen(address, rsp, value.value)

        self._traps.append(self._add_hook(uc_const.UC_HOOK_MEM_READ, _WRITE_CALLBACK(loaded)))
        self._recording = 1
        self.flush_translations()

    def stop_recording(self) -> None:
        """Take back the last :meth:`record` or :meth:`record_loads`."""
        for _ in range(self._recording):
            self._remove_hook()
        self._recording = 0
        self.flush_translations()

    def trace(
        self, spans: Iterable[tuple[int, int]], touched: Callable[[int, int, int, bool], None]
    ) -> None:
        """Until :meth:`unmap_all`, tell ``touched`` of each load and store in the physical
        ``spans`` (from, to): the address of the instruction, the physical address, the size in
        bytes, and whether it is a store.
        """
        kind = uc_const.UC_HOOK_MEM_READ | uc_const.UC_HOOK_MEM_WRITE

        def tell(_uc: int, kind: int, address: int, size: int, _value: int, _data: int) -> None:
            touched(self.read_reg(x86.UC_X86_REG_RIP), address, size, kind == uc_const.UC_MEM_WRITE)

        for begin, end in spans:
            self._traps.append(
                self._add_hook(kind, _WRITE_CALLBACK(tell), begin=begin, end=end - 1)
            )
        self.flush_translations()

    def _remove_hook(self) -> None:
        """The last one."""
        _check(_LIB.uc_hook_del(c_void_p(self.handle), c_size_t(self._traps.pop())), "uc_hook_del")
        self._callbacks.pop()

    def close(self) -> None:
        """Free the instance; it must not be used afterwards."""
        if self.handle:
            _close(self.handle)
            self.handle = 0
            self._keep.clear()

    # Memory ---------------------------------------------------------------------------------------

    def map_host(self, phys: int, size: int, host: int, owner: object) -> None:
        """Show ``size`` bytes of host memory at ``host`` as guest-physical memory at ``phys``;
        ``owner`` is kept alive.
        """
        _check(_mem_map_ptr(self.handle, phys, size, uc_const.UC_PROT_ALL, host), "uc_mem_map_ptr")
        self._keep.append(owner)
        self.mapped.append((phys, size))

    def unmap_all(self) -> None:
        """Forget all memory and all translations (before the instance goes back to a pool)."""
        for phys, size in self.mapped:
            _check(_mem_unmap(self.handle, phys, size), "uc_mem_unmap")
        self.mapped.clear()
        self._keep.clear()
        while self._traps:
            self._remove_hook()
        self.patched.clear()
        self.flush_translations()

    def flush_translations(self) -> None:
        """Drop every translated block (17 us; needed when a physical page of text gets new
        content).
        """
        _check(_LIB.uc_ctl(c_void_p(self.handle), c_int(_CTL_FLUSH_TB)), "uc_ctl_flush_tb")

    def enter_long_mode(
        self, cr3: int, gdt: int, gdt_limit: int, code_selector: int, data_selector: int
    ) -> None:
        """Paging on with write protection in ring 0 and no-execute; segments from the GDT at linear
        address ``gdt``.
        """
        self.write_msr(0xC0000080, 0xD01)  # EFER: SCE, LME, LMA, NXE
        self.write_reg(x86.UC_X86_REG_CR3, cr3)
        self.write_reg(x86.UC_X86_REG_CR4, 0x620)  # PAE, OSFXSR, OSXMMEXCPT
        self.write_reg(x86.UC_X86_REG_CR0, 0x80010033)  # PG, WP, NE, ET, MP, PE
        _check(
            _reg_write(self.handle, x86.UC_X86_REG_GDTR, byref(Mmr(0, gdt, gdt_limit, 0))), "GDTR"
        )
        self.write_reg(x86.UC_X86_REG_CS, code_selector)
        for segment in (x86.UC_X86_REG_SS, x86.UC_X86_REG_DS, x86.UC_X86_REG_ES):
            self.write_reg(segment, data_selector)
        self.reset_floating_point()
        self._cr3.value = cr3

    def flush_tlb(self) -> None:
        """Look page tables up anew; translated blocks of unchanged physical pages stay (0.6 us)."""
        _reg_write(self.handle, x86.UC_X86_REG_CR3, byref(self._cr3))

    # Registers ------------------------------------------------------------------------------------

    def read_reg(self, register: int) -> int:
        """One 64-bit register, by Unicorn's number."""
        _reg_read(self.handle, register, self._scratch_at)
        return self._scratch.value

    def write_reg(self, register: int, value: int) -> None:
        """Set one 64-bit register, by Unicorn's number."""
        self._scratch.value = value
        _check(_reg_write(self.handle, register, self._scratch_at), f"writing register {register}")

    def write_msr(self, number: int, value: int) -> None:
        """WRMSR."""
        msr = Msr(number, value)
        _check(_reg_write(self.handle, x86.UC_X86_REG_MSR, byref(msr)), f"writing MSR {number:#x}")

    def load(self) -> None:
        """Read the 16 general registers and RFLAGS into :attr:`gpr` (0.6 us)."""
        _reg_read_batch(self.handle, self._ids, self._slots, 17)

    def store(self) -> None:
        """Write :attr:`gpr` back (0.6 us)."""
        _reg_write_batch(self.handle, self._ids, self._slots, 17)

    def set_stack_and_flags(self, rsp: int, rflags: int) -> None:
        """What an exception frame changes."""
        self._scratch.value = rsp
        _reg_write(self.handle, x86.UC_X86_REG_RSP, self._scratch_at)
        self._scratch.value = rflags
        _reg_write(self.handle, x86.UC_X86_REG_EFLAGS, self._scratch_at)

    @property
    def cr2(self) -> int:
        """The address of the last page fault."""
        return self.read_reg(x86.UC_X86_REG_CR2)

    def set_bases(self, fs: int, gs: int) -> None:
        """FS and GS base addresses."""
        self.write_reg(x86.UC_X86_REG_FS_BASE, fs)
        self.write_reg(x86.UC_X86_REG_GS_BASE, gs)

    def segment_base(self, *, gs: bool) -> int:
        """The base address of GS, or of FS."""
        return self.read_reg(x86.UC_X86_REG_GS_BASE if gs else x86.UC_X86_REG_FS_BASE)

    def vector_state(self) -> bytes:
        """XMM0 to XMM15 (256 bytes) and MXCSR (4 bytes)."""
        _reg_read_batch(self.handle, self._vector_ids, self._vector_slots, 17)
        return bytes(self._vectors)

    def reset_floating_point(self) -> None:
        """x87 as after FNINIT and MXCSR as after reset: all exceptions masked, none pending,
        nearest, 64-bit precision, empty stack.
        """
        for register, value in _FLOATING_POINT:
            self.write_reg(register, value)

    def write_xmm(self, values: bytes) -> None:
        """Set XMM0 to XMM15 from 256 bytes."""
        ctypes.memmove(self._vectors, values, 256)
        _reg_write_batch(self.handle, self._vector_ids, self._vector_slots, 16)

    def fpu_state(self) -> bytes:
        """16 bytes each of the x87 registers R0 to R7 (80 bits; MMX in the low 64), the control,
        the status and the tag word.

        Without the addresses of the last x87 instruction and its operand: that of a copy is not the
        original's.
        """
        _reg_read_batch(self.handle, self._fpu_ids, self._fpu_slots, len(_FPU_IDS))
        return bytes(self._fpu)

    def write_fpu(self, state: bytes) -> None:
        """Set what :meth:`fpu_state` gives."""
        ctypes.memmove(self._fpu, state, ctypes.sizeof(self._fpu))
        _reg_write_batch(self.handle, self._fpu_ids, self._fpu_slots, len(_FPU_IDS))

    # Running --------------------------------------------------------------------------------------

    def start(self, count: int) -> int:
        """Run from :attr:`rip` until ``hlt``, an exception or ``count`` instructions; count must be
        above 0.

        :returns: the number of instructions that began (a REP iteration counts as one): one more
            than ``count`` when the count ended the run, and the one that faulted is in it.
        """
        self.vector = None
        self._from = self.rip
        begun = 0
        while count > _RUN_MAX:
            done = self._start(_RUN_MAX)
            if done <= _RUN_MAX or self.vector is not None or self.err != UC_OK:
                return begun + done
            begun += _RUN_MAX
            count -= _RUN_MAX
        return begun + self._start(count)

    def _start(self, count: int) -> int:
        """One run of the emulator, which nothing from outside can end; see :meth:`start`."""
        if self._uncounted:  # what was translated without a count would be executed without one
            self._uncounted = False
            self.flush_translations()
        self._fallback_count = 0
        self._fallback_limit = count
        counter = self._counter
        self.err = _emu_start(
            self.handle, self.rip, 0, 0, count if counter is not None else NO_LIMIT
        )
        _reg_read(self.handle, x86.UC_X86_REG_RIP, self._scratch_at)
        self.rip = self._scratch.value
        return self._fallback_count if counter is None else counter.value

    def start_one(self) -> bool:
        """Execute the one instruction at :attr:`rip`, counted or not as the last run was; a
        recorder has counted it before. Whether it retired: :attr:`vector` is None then, or that of
        a single step that was under way.
        """
        self._again = self.rip
        if self._uncounted:
            self._step()
        else:
            self.start(1)
        self._again = None
        if self.err == UC_ERR_INSN_INVALID:  # one that the emulator does not know at all
            self.vector = _VECTOR_INVALID
        return self.err == UC_OK and self.vector in (None, _VECTOR_DEBUG)

    def _step(self) -> None:
        """One instruction by the trap flag: to count it would drop all translations, and to go back
        would do so again.
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
        """Run until ``hlt`` or an exception, without counting. Going back to :meth:`start` may drop
        translations.
        """
        self.vector = None
        self._uncounted = True
        self.err = _emu_start(self.handle, self.rip, 0, 0, 0)
        _reg_read(self.handle, x86.UC_X86_REG_RIP, self._scratch_at)
        self.rip = self._scratch.value

    # State ----------------------------------------------------------------------------------------

    def new_context(self) -> Context:
        """Room for one saved state of any instance."""
        return Context(self.handle, _LIB.uc_context_size(c_void_p(self.handle)))

    def save(self, context: Context) -> None:
        """Save all CPU state but :attr:`rip` (0.2 us)."""
        _context_save(self.handle, context.pointer)

    def restore(self, context: Context) -> None:
        """Go back to a saved state (0.7 us). The TLB is not flushed."""
        _context_restore(self.handle, context.pointer)

    def forget_exception(self, context: Context) -> None:
        """Clear Unicorn's memory of the exception just taken: nobody delivers it there, so nobody
        else does.

        Without it a page fault after a page fault becomes a double fault. ``context`` is scratch
        room.
        """
        offset = self._offsets.exception
        if offset is None:
            return
        self.save(context)
        ctypes.c_int32.from_address(context.pointer + offset).value = -1
        self.restore(context)

    @property
    def tells_fetches(self) -> bool:
        """True when :meth:`was_fetch` has an answer, and a fault can be taken back."""
        return self._offsets.error_code is not None and self._offsets.exception is not None

    def was_fetch(self, context: Context) -> bool:
        """After a page fault: an instruction was being fetched, as far as can be told. ``context``
        is scratch room.
        """
        return bool(self._private(context, self._offsets.error_code) & _ERROR_FETCH)

    def was_software(self, context: Context) -> bool:
        """After an exception: an ``int n`` raised it, as far as can be told; RIP is behind it.
        ``context`` is scratch room.
        """
        return bool(self._private(context, self._offsets.software))

    def in_shadow(self, context: Context) -> bool:
        """The last instruction was STI or MOV SS, as far as can be told. ``context`` is scratch
        room.
        """
        return bool(self._private(context, self._offsets.shadow) & SHADOW)

    def _private(self, context: Context, offset: int | None) -> int:
        if offset is None:
            return 0
        self.save(context)
        return ctypes.c_int32.from_address(context.pointer + offset).value


class UcPool:
    """Instances ready for use: a new one costs 8 ms and 3 MB with its first run, a pooled one next
    to nothing.
    """

    def __init__(self, offsets: PrivateOffsets) -> None:
        self.offsets = offsets
        self._free: list[UcInstance] = []
        self._clean: Context | None = None

    def take(self) -> UcInstance:
        """An instance without memory and in reset state."""
        if not self._free:
            instance = UcInstance(self.offsets)
            if self._clean is None:
                self._clean = instance.new_context()
                instance.save(self._clean)
            return instance
        instance = self._free.pop()
        assert self._clean is not None
        instance.restore(self._clean)
        instance.rip = 0
        return instance

    def give(self, instance: UcInstance) -> None:
        """Take an instance back."""
        instance.unmap_all()
        self._free.append(instance)

    def close(self) -> None:
        """Free the idle instances."""
        for instance in self._free:
            instance.close()
        self._free.clear()
