"""The emulated SMP machine: 1 to 8 vCPUs that share RAM and text, virtual time and snapshots.

The machine runs guest code and hands the traps that it can't answer itself to a
:class:`~arch_x86.emu.machine_contracts.TrapHandler` (the kprobes layer). Time is counted in retired
guest instructions; a jiffy is a fixed number of them.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from arch_x86.emu.calibration import calibrate
from arch_x86.emu.cpu import CODE_SELECTOR, DATA_SELECTOR, Cpu, CpuState
from arch_x86.emu.frames import FrameStore
from arch_x86.emu.guards import Guards, find_guard
from arch_x86.emu.host_code import HostCode
from arch_x86.emu.import_cells import import_cells
from arch_x86.emu.layout import plan_layout
from arch_x86.emu.machine_contracts import Participant, TrapHandler
from arch_x86.emu.memory import TABLES_AT, PageTables, Ram
from arch_x86.emu.module_text import load_text, unload_text
from arch_x86.emu.pages import ImagePages, split_pages
from arch_x86.emu.percpu import fill_cpu_areas
from arch_x86.emu.snapshot import Snapshot
from arch_x86.emu.stubs import build_stubs
from arch_x86.emu.task import Task
from arch_x86.emu.uc import UcInstance, UcPool
from arch_x86.isa.constants import INT3, PAGE_SIZE
from arch_x86.probes.ptregs import PtRegs
from arch_x86.text.space import TextSpace, TextWrite
from arch_x86.text.text_version import TextStore, TextVersion
from engine.errors import EngineBug, InputError
from engine.image import Image
from engine.kallsyms import Kallsyms
from engine.limits import CPUS_MAX

__all__ = ("CPUS_MAX", "Machine", "MachineConfig", "Snapshot", "new_pool")

_GDT: Final = struct.pack("<3Q", 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF)
"""No segment, then 64-bit code and data of ring 0 (SDM vol. 3, 3.4.5), for CODE_SELECTOR and
DATA_SELECTOR.
"""
_GDT_LIMIT: Final = len(_GDT) - 1


def new_pool() -> UcPool:
    """Return a pool of emulator instances, for machines to share.

    This measures the emulator once.
    """
    return UcPool(calibrate())


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineConfig:
    """The sizes of a machine, and what it does beyond a processor's minimum.

    :ivar jiffy: retired guest instructions in a jiffy.
    :ivar stack_pages: pages of 4096 bytes in each stack.
    :ivar heap_pages: pages for buffers.
    :ivar int3_gap: breakpoints leave room for emulated pushes above their frame.
    :ivar stubs: the imported functions that return a number, by name; the others trap when called.
    :ivar check_alignment: a memory operand that has to be aligned and is not is a fault, as on a
        processor; each such instruction then takes as long as a thousand others.
    """

    jiffy: int = 10_000
    stack_pages: int = 16
    heap_pages: int = 4096
    int3_gap: bool = False
    stubs: Mapping[str, int] | None = None
    check_alignment: bool = False


class Machine:
    """A machine of ``cpus`` vCPUs with an image loaded.

    :param pool: emulator instances to reuse; a machine without one makes its own.
    :ivar call_ended: called with the vCPU's number when a call on it is over, however it ended.
    :ivar nmi_handler: called with the vCPU's number and the interrupted registers, which it may
        change, on each NMI.
    :ivar participants: take part in each snapshot.
    :ivar import_at: the name of each function that no library defines, by the address of its cell.
    :ivar is_up: the image's own set-up code has run.
    :ivar mappings: the host memory that all instances show: physical address, size, host address
        and owner of each.
    :ivar flushes: how often all instances have had to drop their translations.
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
        self.import_at = {imported.addr: imported.name for imported in image.imports}
        self.is_up = False
        self.mappings: list[tuple[int, int, int, object]] = []
        self.flushes = 0
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
        self._map_chunk(0, self.ram.size, self.ram.host, self.ram.room)
        self._map_chunk(TABLES_AT, self.tables.size, self.tables.host, self.tables.room)
        for vpn, page in content.const.items():
            self.tables.map_const(vpn, self.frames.constant(bytes(page)))
        for vpn, page in content.data.items():
            self._map_data(vpn)
            self.ram.write(vpn * PAGE_SIZE, bytes(page))
        self.tables.map_const(
            layout.gdt // PAGE_SIZE, self.frames.constant(_GDT.ljust(PAGE_SIZE, b"\0"))
        )
        for cpu in range(cpus):
            fill_cpu_areas(self.ram, layout, cpu, self.image.thread_image, self._map_data)
            # Ascending, so that a stack is one span of physical memory, too.
            for page in range(config.stack_pages, 0, -1):
                self._map_data((self._stack_top(cpu) >> 12) - page)

    def _text_pages(self, content: ImagePages) -> dict[int, bytes]:
        pages = {vpn: bytes(page) for vpn, page in content.text.items()}
        pages[self.layout.stubs >> 12] = self.stubs.code.ljust(PAGE_SIZE, INT3)
        values = self.config.stubs or {}
        return pages | import_cells(self.image.imports, values, self.stubs.jprobe_return)

    def _build_cpu(self, index: int, view: TextVersion) -> Cpu:
        uc = self._instances[index]
        self._enter_long_mode(uc, index)
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

    def _enter_long_mode(self, uc: UcInstance, index: int) -> None:
        uc.enter_long_mode(
            self.tables.root(index), self.layout.gdt, _GDT_LIMIT, CODE_SELECTOR, DATA_SELECTOR
        )

    def _stack_top(self, cpu: int) -> int:
        """Return the first address above the stack of ``cpu``.

        A page below each stack stays unmapped, so that a stack overflow is a fault.
        """
        return self.layout.stacks + (cpu + 1) * (self.config.stack_pages + 1) * PAGE_SIZE

    def _map_data(self, vpn: int) -> None:
        self.tables.map_data(vpn, self.ram.map(vpn))

    def _map_chunk(self, phys: int, size: int, host: int, owner: object) -> None:
        self.mappings.append((phys, size, host, owner))
        for uc in self._instances:
            uc.memory.map(phys, size, host, owner)

    def guard(self, addr: int, raw: bytes) -> None:
        """Guard a copy of the instruction ``raw``, too, which is about to be written at ``addr``.

        If the original must not reach the emulator, the copy must not either.
        """
        if find_guard(raw, addr, alignment=self.config.check_alignment)[1] is not None:
            self.frames.guard(addr, raw)

    def _flush_translations(self) -> None:
        self.flushes += 1
        for uc in self._instances:
            uc.flush_translations()

    def close(self) -> None:
        """Give the emulator instances back to the pool; the machine must not be used afterwards.

        A machine that made its own pool frees them.
        """
        for cpu in self.cpus:
            second = None if cpu.fast is None else cpu.fast.close()
            if second is not None:
                self._pool.give(second)
        for uc in self._instances:
            self._pool.give(uc)
        self._instances.clear()
        self.cpus.clear()
        if self._own_pool:
            self._pool.close()

    def second_instance(self, cpu: Cpu) -> tuple[UcInstance, HostCode] | None:
        """Return another instance for ``cpu``, and the host's code for its hooks.

        Nothing has been executed in the instance, and its memory is that of all others. It belongs
        to ``cpu.fast``, which gives it back when the machine is closed.

        :returns: None where there can be none.
        """
        offsets = cpu.uc.offsets
        if None in (offsets.counter, offsets.exception, offsets.error_code, offsets.software):
            return None
        code = self._pool.host_code
        if code is None:
            return None
        try:
            uc = self._pool.take(by_blocks=True)
        except MemoryError:
            return None
        for mapping in self.mappings:
            uc.memory.map(*mapping)
        self._enter_long_mode(uc, cpu.index)
        return uc, code

    # Memory and text ------------------------------------------------------------------------------

    def allocate(self, size: int, content: bytes = b"") -> int:
        """Return the address of a new buffer.

        It begins at a page and has an unmapped page behind it, so that an overrun is a fault.

        :param size: the size in bytes.
        :param content: what the buffer begins with; the rest is zeros.
        :raises InputError: guest memory has no room for it.
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
        """Take the code of a module away: the ``size`` bytes of text from ``start``.

        A vCPU that is there, or comes there later, faults. Probes in these bytes have to be gone
        before (:meth:`engine.core.kprobes.Kprobes.kprobes_module_going`).

        :raises InputError: they are not all text of the image that is loaded, or end inside of a
            function.
        """
        unload_text(self.image, self.text, start, size)

    def load_text(self, start: int, data: bytes) -> None:
        """Put code back: ``data`` at a ``start`` that was unloaded.

        :raises InputError: nothing, or something of another size, was unloaded there.
        """
        load_text(self.text, start, data)

    def text_written(self, write: TextWrite, version: TextVersion) -> None:
        """Let every vCPU fetch ``version`` from now on: the fetch model is ``coherent``."""
        del write
        for cpu in self.cpus:
            cpu.view = version

    def require_fetched(self, version: TextVersion) -> None:
        """Check that every vCPU fetches ``version``.

        :raises EngineBug: a vCPU fetches another version.
        """
        for cpu in self.cpus:
            if cpu.view is not version:
                raise EngineBug(f"CPU {cpu.index} does not fetch the text as it is now")

    def read(self, addr: int, size: int) -> bytes | None:
        """Return ``size`` bytes of data or text at ``addr`` as the guest would read them.

        :returns: None where any of them is unmapped.
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
        """The virtual time in jiffies."""
        return self.clock // self.config.jiffy

    # Snapshots ------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Return the state of vCPUs, RAM in use, text, fetch views, tasks, clock and participants.

        The caller gives it back with :meth:`release`. A snapshot leaves out what control code keeps
        (registered probes, control tasks, timers), what Python handlers keep, and which pages are
        mapped: buffers allocated and text pages made later stay, so a snapshot is for going back
        within what stands at present.
        """
        used = self.ram.used
        if self._spare and len(self._spare[-1].ram) >= used:
            snap = self._spare.pop()
            for cpu, state in zip(self.cpus, snap.cpus, strict=True):
                cpu.save_into(state)
        else:
            snap = Snapshot(
                self.ram,
                ctypes.create_string_buffer(used),
                used,
                [cpu.save() for cpu in self.cpus],
                self.text.current,
            )
        snap.released = False
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
            ``keep_text`` is false; or ``snap`` was released or is another machine's.
        """
        if snap.released or snap.owner is not self.ram:
            raise EngineBug("a snapshot was restored that was released, or is another machine's")
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
        self.require_restored(snap.cpus)
        self.require_fetched(self.text.current)

    def require_restored(self, states: Sequence[CpuState]) -> None:
        """Check that each vCPU stands where it stood in its one of ``states``.

        :raises EngineBug: a vCPU stands elsewhere.
        """
        for cpu, state in zip(self.cpus, states, strict=True):
            if cpu.uc.rip != state.rip:
                raise EngineBug(
                    f"CPU {cpu.index} stands at {cpu.rip:#x}; it was restored to {state.rip:#x}"
                )

    def _lacks_buffers(self, version: TextVersion) -> bool:
        """Return whether ``version`` lacks pages of slots or detour buffers that there are now.

        A page that ``version`` has without content is lacking, too.
        """
        now = self.text.current
        if version is now:
            return False
        behind_image = self.layout.slots // PAGE_SIZE
        return version.extent < now.extent or any(
            not page.content and page.vpn >= behind_image for page in version.changes_from(now)
        )

    def release(self, snap: Snapshot) -> None:
        """Use the room of ``snap``, which is not needed any more, for a later snapshot."""
        snap.released = True
        self._spare.append(snap)
