"""The emulated SMP machine: 1 to 8 vCPUs that share RAM and text, virtual time, calls, traps,
snapshots.

The machine runs guest code and hands what it can't answer itself to a :class:`TrapHandler` (the
kprobes layer). Time is counted in retired guest instructions; a jiffy is a fixed number of them.
"""

from __future__ import annotations

import ctypes
import struct
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from arch_x86.emu.calibration import calibrate
from arch_x86.emu.cpu import CODE_SELECTOR, DATA_SELECTOR, Cpu, CpuState
from arch_x86.emu.frames import FrameStore
from arch_x86.emu.guards import Guards, find_guard
from arch_x86.emu.layout import plan_layout
from arch_x86.emu.memory import TABLES_AT, PageTables, Ram
from arch_x86.emu.pages import ImagePages, split_pages
from arch_x86.emu.percpu import fill_cpu_areas
from arch_x86.emu.stubs import build_stubs
from arch_x86.emu.task import Task
from arch_x86.emu.uc import UcPool
from arch_x86.isa.constants import INT3, PAGE_SIZE
from arch_x86.isa.encode import jmp32
from arch_x86.probes.areas import IMPORT_CELL
from arch_x86.probes.ptregs import PtRegs
from arch_x86.text.space import TextSpace, TextWrite
from arch_x86.text.version import TextStore, TextVersion
from engine.errors import EngineBug, InputError
from engine.image import Image, Symbol
from engine.kallsyms import Kallsyms
from engine.limits import CPUS_MAX

__all__ = (
    "CPUS_MAX",
    "Machine",
    "MachineConfig",
    "Participant",
    "Snapshot",
    "TrapHandler",
    "new_pool",
)


def new_pool() -> UcPool:
    """A pool of emulator instances to share between machines; it measures the emulator once."""
    return UcPool(calibrate())


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineConfig:
    """Sizes. ``jiffy`` is in retired guest instructions, the others in pages of 4096 bytes.

    ``int3_gap``: breakpoints leave room for emulated pushes above their frame. ``stubs``: imported
    functions that return a number, by name; the others trap when called. ``check_alignment``: a
    memory operand that has to be aligned and is not is a fault, as on a processor; each such
    instruction then takes as long as a thousand others.
    """

    jiffy: int = 10_000
    stack_pages: int = 16
    heap_pages: int = 4096
    int3_gap: bool = False
    stubs: Mapping[str, int] | None = None
    check_alignment: bool = False


class TrapHandler(Protocol):
    """Who gets first look at traps: the kprobes arch layer. Each method returns True when the trap
    was its own.
    """

    def int3(self, cpu: int, regs: PtRegs) -> bool:
        """#BP; ``regs.ip`` is behind the int3. Raises ReentryError where the kernel stops for
        good.
        """
        ...

    def debug(self, cpu: int, regs: PtRegs) -> bool:
        """#DB after a single step."""
        ...

    def fault(self, cpu: int, regs: PtRegs, vector: int) -> bool:
        """#DE, #UD, #GP or #PF at ``regs.ip``."""
        ...

    def original_ip(self, ip: int) -> int:
        """The probed instruction whose slot or detour buffer holds ``ip``; ``ip`` itself where none
        does.
        """
        ...

    def handler_takes_interrupts(self, cpu: int) -> bool:
        """The handler that runs on ``cpu``, if not behind a breakpoint, has IF as the interrupted
        code has it; else clear, as there.
        """
        ...

    def hit_in_progress(self, cpu: int) -> Any:
        """What to go back to by :meth:`resume_hit`, when a guest function that a handler on ``cpu``
        calls dies.
        """
        ...

    def resume_hit(self, cpu: int, hit: Any) -> None:
        """Forget what came since."""
        ...

    def return_trampoline(self, cpu: int, regs: PtRegs) -> bool:
        """A function with a return probe has returned, with ``regs`` as its caller will have them:
        put the return address under ``regs.sp``. False: no such call is open.
        """
        ...

    def pending_return(self, cpu: int) -> int | None:
        """Where the innermost open call with a return probe on ``cpu`` will return to; None when
        none is open.
        """
        ...

    def call_died(self, cpu: int) -> None:
        """The call on ``cpu`` ended in a fault: no hit is in progress there any more."""
        ...

    def optimized_callback(self, cpu: int, op_id: int, regs: PtRegs) -> None:
        """A detour buffer calls, with the number it was built with; ``regs.sp`` is the interrupted
        stack pointer.
        """
        ...

    def ftrace_caller(self, cpu: int, regs: PtRegs) -> None:
        """Ftrace's trampoline asks, which a probed function has called; ``regs.ip`` is where it
        will return to.
        """
        ...


class Participant(Protocol):
    """State outside the machine that a snapshot has to take along."""

    def save_state(self) -> Any:
        """A value from which :meth:`restore_state` can go back."""
        ...

    def restore_state(self, state: Any) -> None:
        """Go back."""
        ...


class Snapshot:
    """A machine's state; see :meth:`Machine.snapshot`. Legal only for the machine that took it."""

    __slots__ = ("clock", "cpus", "others", "ram", "ram_len", "tasks", "text", "unloaded")

    def __init__(
        self,
        ram: ctypes.Array[ctypes.c_char],
        ram_len: int,
        cpus: list[CpuState],
        text: TextVersion,
    ) -> None:
        self.ram = ram
        self.ram_len = ram_len
        self.cpus = cpus
        self.text = text
        self.unloaded: dict[int, int] = {}
        self.clock = 0
        self.tasks: list[tuple[Any, ...]] = []
        self.others: list[Any] = []


class Machine:
    """An image loaded into a machine of ``cpus`` vCPUs.

    :param pool: emulator instances to reuse; a machine without one makes its own.
    :ivar call_ended: called with the vCPU's number when a call on it is over, however it ended.
    :ivar nmi_handler: called with the vCPU's number and the interrupted registers, which it may
        change, on each NMI.
    :raises InputError: more than 8 vCPUs or none, or an image that can't be laid out.
    """

    def __init__(
        self,
        image: Image,
        *,
        cpus: int = 1,
        config: MachineConfig | None = None,
        pool: UcPool | None = None,
    ) -> None:
        if not 1 <= cpus <= CPUS_MAX:
            raise InputError(f"{cpus} CPUs asked for; a machine has 1 to {CPUS_MAX}")
        self.image = image
        self.config = config or MachineConfig()
        self.layout = plan_layout(image, cpus, self.config.stack_pages)
        self.stubs = build_stubs(
            self.layout.stubs, int3_gap=self.config.int3_gap, red_zone=image.red_zone
        )
        self.kallsyms = Kallsyms(image)
        self.clock = 0
        self.trap_handler: TrapHandler | None = None
        self.nmi_handler: Callable[[int, PtRegs], None] | None = None
        self.call_ended: list[Callable[[int], None]] = []
        self.participants: list[Participant] = []
        self.import_at: dict[int, str] = {}
        self.is_up = False
        self._spare: list[Snapshot] = []
        self._heap_next = self.layout.heap
        self._own_pool = pool is None
        self._pool = pool or new_pool()
        self._instances = [self._pool.take() for _ in range(cpus)]
        content = split_pages(image)
        self._build_memory(content, cpus)
        store = TextStore(self._text_pages(content))
        self.text = TextSpace(store, self)
        self.cpus = [self._build_cpu(index, store.initial) for index in range(cpus)]
        self.tasks = [Task(f"call/{i}", self._stack_top(i)) for i in range(cpus)]

    # Construction ---------------------------------------------------------------------------------

    def _build_memory(self, content: ImagePages, cpus: int) -> None:
        layout, config = self.layout, self.config
        fixed = len(content.data) + cpus * (2 + layout.thread_pages + config.stack_pages)
        self.ram = Ram(fixed + config.heap_pages)
        spans = {vpn >> 9 for vpn in (*content.text, *content.data, *content.const)}
        self.tables = PageTables(cpus, cpus * (3 * len(spans) + 48 + config.heap_pages // 512) + 8)
        self.frames = FrameStore(
            self._map_chunk,
            self._flush_translations,
            Guards(self.image, alignment=config.check_alignment),
        )
        for uc in self._instances:
            uc.map_host(0, self.ram.size, self.ram.host, self.ram.room)
            uc.map_host(TABLES_AT, self.tables.size, self.tables.host, self.tables.room)
        for vpn, page in content.const.items():
            self.tables.map_const(vpn, self.frames.constant(bytes(page)))
        for vpn, page in content.data.items():
            self._map_data(vpn)
            self.ram.write(vpn * PAGE_SIZE, bytes(page))
        gdt = struct.pack("<3Q", 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF)
        self.tables.map_const(layout.gdt >> 12, self.frames.constant(gdt.ljust(PAGE_SIZE, b"\0")))
        for cpu in range(cpus):
            fill_cpu_areas(self.ram, layout, cpu, self.image.thread_image, self._map_data)
            for page in range(config.stack_pages):
                self._map_data((self._stack_top(cpu) >> 12) - 1 - page)

    def _text_pages(self, content: ImagePages) -> dict[int, bytes]:
        pages = {vpn: bytes(page) for vpn, page in content.text.items()}
        pages[self.layout.stubs >> 12] = self.stubs.code.ljust(PAGE_SIZE, INT3)
        cells: dict[int, bytearray] = {}
        for imported in self.image.imports:
            page = cells.setdefault(imported.addr >> 12, bytearray(INT3 * PAGE_SIZE))
            value = (self.config.stubs or {}).get(imported.name)
            # mov rax, imm64; ret  -- or a hlt, which the host reports by name
            code = (
                b"\xf4"
                if value is None
                else b"\x48\xb8" + struct.pack("<Q", value & (1 << 64) - 1) + b"\xc3"
            )
            if imported.name == "jprobe_return" and value is None:
                code = jmp32(imported.addr, self.stubs.jprobe_return)
            at = imported.addr % PAGE_SIZE
            page[at : at + IMPORT_CELL] = code.ljust(IMPORT_CELL, INT3)
            self.import_at[imported.addr] = imported.name
        return pages | {vpn: bytes(page) for vpn, page in cells.items()}

    def _build_cpu(self, index: int, view: TextVersion) -> Cpu:
        uc = self._instances[index]
        uc.enter_long_mode(
            self.tables.root(index), self.layout.gdt, 0x17, CODE_SELECTOR, DATA_SELECTOR
        )
        uc.set_bases(self.layout.fs_base(index), self.layout.gs_base(index))
        return Cpu(
            index,
            uc,
            ram=self.ram,
            tables=self.tables,
            frames=self.frames,
            view=view,
            red_zone=self.image.red_zone,
        )

    def _stack_top(self, cpu: int) -> int:
        """First address above the stack of ``cpu``; a page below each stack stays unmapped."""
        return self.layout.stacks + (cpu + 1) * (self.config.stack_pages + 1) * PAGE_SIZE

    def _map_data(self, vpn: int) -> None:
        self.tables.map_data(vpn, self.ram.map(vpn))

    def _map_chunk(self, phys: int, size: int, host: int, owner: object) -> None:
        for uc in self._instances:
            uc.map_host(phys, size, host, owner)

    def guard(self, addr: int, raw: bytes) -> None:
        """A copy of an instruction is about to be written: if the original must not reach the
        emulator, the copy must not either.
        """
        if find_guard(raw, addr, alignment=self.config.check_alignment)[1] is not None:
            self.frames.guard(addr, raw)

    def _flush_translations(self) -> None:
        for uc in self._instances:
            uc.flush_translations()

    def close(self) -> None:
        """Give the emulator instances back to the pool; a machine that made its own frees them. It
        must not be used afterwards.
        """
        for uc in self._instances:
            self._pool.give(uc)
        self._instances.clear()
        self.cpus.clear()
        if self._own_pool:
            self._pool.close()

    # Memory and text ------------------------------------------------------------------------------

    def allocate(self, size: int, content: bytes = b"") -> int:
        """A fresh buffer of ``size`` bytes (zeroed, then ``content``), page-aligned, with an
        unmapped page behind it.
        """
        pages = max(1, -(-size // PAGE_SIZE))
        if self.ram.used + pages * PAGE_SIZE > self.ram.size:
            raise InputError(
                f"a buffer of {size} bytes does not fit; {self.ram.size - self.ram.used} bytes of"
                " guest memory are left"
            )
        addr = self._heap_next
        for page in range(pages):
            self._map_data((addr >> 12) + page)
        self._heap_next = addr + (pages + 1) * PAGE_SIZE
        if content:
            self.ram.write(addr, content)
        return addr

    def unload_text(self, start: int, size: int) -> None:
        """The code of a module goes away: the ``size`` bytes of text from ``start``. Whoever is
        there, or comes there later, faults.

        Probes in them have to be gone before
        (:meth:`engine.core.kprobes.Kprobes.kprobes_module_going`).

        :raises InputError: they are not all text of the image that is loaded, or end inside a
            function.
        """
        end = start + size
        inside = size > 0 and self.image.is_text(start) and self.image.is_text(end - 1)
        if not inside or not self.text.covers(start, size) or self.text.is_unloaded(start, size):
            raise InputError(
                f"{size} bytes at {start:#x} are not text that is loaded; give a range of the"
                " image's code"
            )
        for addr in (start, end):
            function = self._function_around(addr)
            if function is not None:  # a jump may span what stays and what goes
                raise InputError(
                    f"{size} bytes at {start:#x}: {function.name} is cut in two at {addr:#x}; give"
                    " whole functions"
                )
        self.text.unload(start, size)

    def _function_around(self, addr: int) -> Symbol | None:
        """The function that has bytes on both sides of ``addr``. One without a size lasts until the
        next, or to the end of its segment.
        """
        functions = self.image.functions
        at = bisect_left(functions, addr, key=lambda symbol: symbol.addr)
        if at == 0 or (at < len(functions) and functions[at].addr == addr):
            return None
        last = functions[at - 1]  # the longest of those that start there
        segment = self.image.segment_at(last.addr)
        end = last.addr + last.size if last.size or segment is None else segment.end
        return last if addr < end else None

    def load_text(self, start: int, data: bytes) -> None:
        """Code is there again: ``data`` at a ``start`` that was unloaded.

        :raises InputError: nothing, or something of another size, was unloaded there.
        """
        if self.text.unloaded.get(start) != start + len(data):
            raise InputError(
                f"{len(data)} bytes at {start:#x}: that is not what was unloaded; give the same"
                " range"
            )
        self.text.load(start, data)

    def text_written(self, write: TextWrite, version: TextVersion) -> None:
        """Fetch model ``coherent``: every vCPU sees each write at once."""
        del write
        for cpu in self.cpus:
            cpu.view = version

    def read(self, addr: int, size: int) -> bytes | None:
        """Data or text at ``addr`` as the guest would read it, or None where any of it is
        unmapped.
        """
        data = self.ram.read(addr, size)
        if data is not None:
            return data
        data = self.text.read(addr, size)
        if len(data) < size and not self.text.is_unloaded(addr, size):
            data = self.image.read(addr, size)
        return data if len(data) == size else None

    @property
    def jiffies(self) -> int:
        """Virtual time."""
        return self.clock // self.config.jiffy

    # Snapshots ------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """vCPUs, RAM in use, text and fetch views, tasks, clock, participants. Give it back with
        :meth:`release`.

        Left out: what control code keeps (registered probes, control tasks, timers), what Python
        handlers keep, and which pages are mapped: buffers allocated and text pages made later stay,
        so a snapshot is for going back within what stands at present.
        """
        used = self.ram.used
        if self._spare and len(self._spare[-1].ram) >= used:
            snap = self._spare.pop()
            for cpu, state in zip(self.cpus, snap.cpus, strict=True):
                cpu.save_into(state)
        else:
            snap = Snapshot(
                ctypes.create_string_buffer(used),
                used,
                [cpu.save() for cpu in self.cpus],
                self.text.current,
            )
        snap.ram_len = used
        ctypes.memmove(snap.ram, self.ram.host, used)
        snap.text = self.text.current
        snap.unloaded = self.text.unloaded.copy()
        snap.clock = self.clock
        snap.tasks = [task.save() for task in self.tasks]
        snap.others = [participant.save_state() for participant in self.participants]
        return snap

    def restore(self, snap: Snapshot, *, keep_text: bool = False) -> None:
        """Go back to ``snap``, which stays good.

        :param keep_text: leave the text, and what every vCPU fetches, as it is now (another probe
            is in place than when it was taken).
        :raises EngineBug: text pages (for slots or detour buffers) were made since, and
            ``keep_text`` is false.
        """
        if not keep_text and self._lacks_buffers(snap.text):
            raise EngineBug(
                "text pages for slots or detour buffers were made since the snapshot: "
                "restore it with keep_text, or take it when the probes are in place"
            )
        ctypes.memmove(self.ram.host, snap.ram, snap.ram_len)
        for cpu, state in zip(self.cpus, snap.cpus, strict=True):
            cpu.restore(state)
        if keep_text:
            for cpu in self.cpus:
                cpu.view = self.text.current
        else:
            self.text.current = snap.text
            self.text.unloaded = snap.unloaded.copy()
        self.clock = snap.clock
        for task, saved in zip(self.tasks, snap.tasks, strict=True):
            task.restore(saved)
        for participant, state in zip(self.participants, snap.others, strict=True):
            participant.restore_state(state)

    def _lacks_buffers(self, version: TextVersion) -> bool:
        """There are pages of slots or detour buffers now that ``version`` does not have, or has
        without content.
        """
        now = self.text.current
        if version is now:
            return False
        behind_image = self.layout.slots // PAGE_SIZE
        return version.extent < now.extent or any(
            not page.content and page.vpn >= behind_image for page in version.changes_from(now)
        )

    def release(self, snap: Snapshot) -> None:
        """``snap`` is not needed any more: its room is used again."""
        self._spare.append(snap)
