"""The memory and saved states of an x86-64 machine, as :class:`engine.patching.port.MemoryPort`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from mmap import mmap
from typing import Any

from arch_x86.emu.cpu import Cpu, CpuState
from arch_x86.emu.machine import Machine
from arch_x86.emu.stubs import GS_END, GS_INTERRUPTS
from arch_x86.emu.uc import RSP
from arch_x86.isa.constants import PAGE_SIZE, RED_ZONE_SIZE
from arch_x86.lab.calls import CallFrame
from engine.patching.parked_task import Mode, ParkedTask

__all__ = ("X86Memory",)

_Kept = tuple[CpuState | None, tuple[Any, ...], tuple[tuple[int, bytes], ...], bytes]
_Saved = tuple[bytes, list[CpuState], list[tuple[Any, ...]]]


class X86Memory:
    """The memory of ``machine``, and the state of the whole machine.

    :param frames: the call of each task.
    :param stacks: the end of the stack of each task that does not use its vCPU's stack.
    """

    def __init__(
        self, machine: Machine, frames: dict[int, CallFrame], stacks: dict[int, int]
    ) -> None:
        self._machine = machine
        self._frames = frames
        self._stacks = stacks
        self._red_zone = RED_ZONE_SIZE if machine.image.red_zone else 0
        self._spare: list[list[CpuState]] = []
        self._zeros = memoryview(bytes(PAGE_SIZE * machine.config.stack_pages))
        self._first: list[CpuState] = []
        self._stack_spans: dict[int, tuple[tuple[int, int], ...]] = {}

    # Data -----------------------------------------------------------------------------------------

    @property
    def room(self) -> mmap:
        """The machine's physical memory, from address 0."""
        return self._machine.ram.room

    def content(self) -> bytes:
        """Return a copy of all physical memory that is in use."""
        return self._machine.ram.room[: self._machine.ram.used]

    def data(self, *, per_cpu: bool) -> list[tuple[int, int]]:
        """Return the physical spans (begin, end) of the data, without the stacks.

        The counters that the machine's own handlers keep in a vCPU's area are left out.

        :param per_cpu: include each vCPU's own area.
        """
        machine = self._machine
        areas = {machine.layout.gs_base(cpu.index) >> 12 for cpu in machine.cpus}
        own = set[int]() if per_cpu else set(areas)
        for stack_top in (*(task.stack_top for task in machine.tasks), *self._stacks.values()):
            top = stack_top >> 12
            own |= set(range(top - machine.config.stack_pages, top))
        spans: list[tuple[int, int]] = []
        for vpn, phys in machine.ram.pages():
            if vpn in own:
                continue
            end = phys + PAGE_SIZE
            spans += (
                [(phys, phys + GS_INTERRUPTS), (phys + GS_END, end)]
                if vpn in areas
                else [(phys, end)]
            )
        return spans

    def own(self, task: int) -> Iterator[range]:
        """Yield the physical spans that belong to ``task`` alone: its stack and its buffers."""
        machine = self._machine
        size = PAGE_SIZE * machine.config.stack_pages
        top = self._stacks.get(task, machine.tasks[task // 2].stack_top)
        yield from self._physical(top - size, size)
        yield from self.buffers(task)

    def buffers(self, task: int) -> Iterator[range]:
        """Yield the physical spans of the buffers that the call of ``task`` is given."""
        for addr, content in self._frames[task].buffers:
            yield from self._physical(addr, len(content))

    def _physical(self, addr: int, size: int) -> Iterator[range]:
        """Yield the physical spans of ``size`` bytes from the virtual address ``addr`` on."""
        at, end = addr, addr + size
        while at < end:
            stop = min(end, (at // PAGE_SIZE + 1) * PAGE_SIZE)
            phys = self._machine.ram.physical(at)
            if phys is not None:
                yield range(phys, phys + stop - at)
            at = stop

    def name(self, phys: int) -> str:
        """Return a name for a physical address: symbol and offset, or else the virtual address."""
        addr = self._machine.ram.virtual(phys)
        symbol = next(
            (one for one in self._machine.image.symbols if one.addr <= addr < one.addr + one.size),
            None,
        )
        return f"{addr:#x}" if symbol is None else f"{symbol.name}+{addr - symbol.addr:#x}"

    # State ----------------------------------------------------------------------------------------

    def save(self) -> _Saved:
        """Return the state of the machine: its memory, its vCPUs and its tasks.

        The records of a released state are filled again, which is faster than making new ones.
        """
        machine = self._machine
        if self._spare:
            states = self._spare.pop()
            for cpu, state in zip(machine.cpus, states, strict=True):
                cpu.save_into(state)
        else:
            states = [cpu.save() for cpu in machine.cpus]
        return (
            machine.ram.room[: machine.ram.used],
            states,
            [(task.stack_top, *task.save()) for task in machine.tasks],
        )

    def restore(self, saved: _Saved) -> None:
        """Bring memory, vCPUs and tasks back to ``saved``, which can be restored again."""
        machine = self._machine
        ram, states, tasks = saved
        machine.ram.room[: len(ram)] = ram
        for cpu, state in zip(machine.cpus, states, strict=True):
            cpu.restore(state)
        for task, state in zip(machine.tasks, tasks, strict=True):
            task.stack_top = state[0]
            task.restore(state[1:])

    def require_restored(self, saved: _Saved) -> None:
        """Check that each vCPU stands where it stood in ``saved``.

        :raises EngineBug: a vCPU stands elsewhere.
        """
        self._machine.require_restored(saved[1])

    def release(self, saved: _Saved) -> None:
        """Reuse the records of ``saved``, which is not needed any more, in a later :meth:`save`."""
        self._spare.append(saved[1])

    # The state of one vCPU ------------------------------------------------------------------------

    def keep(self, cpu: int, parked: Sequence[ParkedTask], *, live: bool) -> _Kept:
        """Return the state of one vCPU: its registers, its task, and what is live of its stacks.

        :param parked: its tasks that do not run.
        :param live: whether it is in a call or in an NMI; else its registers are left out, since
            its next call sets them up anew.
        """
        vcpu, task = self._machine.cpus[cpu], self._machine.tasks[cpu]
        spans = [
            self._live_span(one.registers[RSP], one.stack_top)
            for one in parked
            if one.mode is Mode.CALL
        ]
        if live:
            vcpu.uc.load()
            spans.append(self._live_span(vcpu.uc.gpr[RSP], task.stack_top))
        room = self._machine.ram.room
        return (
            vcpu.save() if live else None,
            (task.stack_top, *task.save()),
            tuple((begin, room[begin:end]) for begin, end in spans),
            self._print_of(vcpu) if live else b"",
        )

    def _print_of(self, vcpu: Cpu) -> bytes:
        """Return a digest of all registers, made in another way than the one in a state's hash."""
        extended = vcpu.uc.extended
        told = (vcpu.rip, vcpu.registers(), vcpu.in_shadow, vcpu.nmi)
        parts = (repr(told).encode(), extended.vector_state(), extended.fpu_state())
        return blake2b(b"".join(parts), digest_size=16).digest()

    def differs(self, kept: _Kept, other: _Kept) -> bool:
        """Return whether two states that :meth:`keep` has returned go on in different ways."""
        (state, task, *mine), (_, other_task, *theirs) = kept, other
        # A task's end of stack counts, and in a call its state and where its stack began; not how
        # an earlier call ended, nor when it was started, nor how often it called schedule().
        counts = (0, 1, 3) if state is not None else (0,)
        return mine != theirs or any(task[at] != other_task[at] for at in counts)

    def put(self, cpu: int, kept: _Kept, spent: int) -> None:
        """Bring one vCPU to the state ``kept``, with nothing but zeros outside of its live stacks.

        :param spent: how many instructions its present call has retired.
        """
        machine = self._machine
        state, task_state, pieces, _ = kept
        room, task, vcpu = machine.ram.room, machine.tasks[cpu], machine.cpus[cpu]
        for begin, end in self._stack_spans[cpu]:
            room[begin:end] = bytes(end - begin)
        for begin, data in pieces:
            room[begin : begin + len(data)] = data
        vcpu.restore(self._first[cpu] if state is None else state)
        task.stack_top = task_state[0]
        task.restore(task_state[1:])
        vcpu.retired = task.started + spent

    def clear_dead(self, cpu: int, *, live: bool) -> None:
        """Clear what is dead of the stack of the task that has the vCPU.

        These are the bytes below the red zone of RSP, which any interrupt may overwrite.

        :param live: whether the vCPU is in a call or in an NMI; else the whole stack is dead.
        """
        machine = self._machine
        top = machine.tasks[cpu].stack_top
        sp = top
        if live:
            uc = machine.cpus[cpu].uc
            uc.load()
            sp = uc.gpr[RSP] - self._red_zone
        size = sp - (top - len(self._zeros))
        phys = machine.ram.physical(top - len(self._zeros))
        # Code that switches stacks has RSP elsewhere.
        if phys is not None and 0 < size <= len(self._zeros):
            machine.ram.room[phys : phys + size] = self._zeros[:size]

    def begin_to_keep(self) -> None:
        """Note the vCPUs as they are now, none of which has made a call, for :meth:`put`."""
        machine = self._machine
        self._first = [vcpu.save() for vcpu in machine.cpus]
        tops = {cpu: [task.stack_top] for cpu, task in enumerate(machine.tasks)}
        for task, top in self._stacks.items():
            tops[task // 2].append(top)
        self._stack_spans = {cpu: self._spans_below(tops[cpu]) for cpu in tops}

    def _spans_below(self, tops: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """Return the physical spans of the stacks that end at ``tops``."""
        size = PAGE_SIZE * self._machine.config.stack_pages
        spans: list[tuple[int, int]] = []
        for page in (page for top in tops for page in range(top - size, top, PAGE_SIZE)):
            phys = self._machine.ram.physical(page)
            assert phys is not None
            if spans and spans[-1][1] == phys:
                spans[-1] = (spans[-1][0], phys + PAGE_SIZE)
            else:
                spans.append((phys, phys + PAGE_SIZE))
        return tuple(spans)

    # Names of states ------------------------------------------------------------------------------

    def add_cpu(self, cpu: int, digest: blake2b) -> None:
        """Add all that decides how the vCPU goes on to the hash of a state.

        That is its registers, vectors and x87 state, whether interrupts are held back behind STI or
        MOV SS, and the live part of its stack. What differs in none of these goes on in the same
        way.
        """
        vcpu = self._machine.cpus[cpu]
        uc = vcpu.uc
        uc.load()
        digest.update(uc.gpr)
        digest.update(uc.extended.vector_state())
        digest.update(uc.extended.fpu_state())
        digest.update(b"\1" if vcpu.in_shadow else b"\0")
        digest.update(self._live_stack(uc.gpr[RSP], self._machine.tasks[cpu].stack_top))

    def add_task(self, parked: ParkedTask, digest: blake2b) -> None:
        """Add the live stack of a task that does not run to the hash of a state.

        A task between two calls has nothing live on its stack. The record ``parked`` has the rest.
        """
        if parked.mode is Mode.CALL:
            digest.update(self._live_stack(parked.registers[RSP], parked.stack_top))

    def _live_stack(self, rsp: int, top: int) -> bytes:
        """Return the live bytes of a stack: from the red zone under ``rsp`` on up to ``top``.

        The bytes below were left by calls that have returned, and no code reads them. Two states
        that differ in nothing else count as one.
        """
        begin, end = self._live_span(rsp, top)
        return self._machine.ram.room[begin:end]

    def _live_span(self, rsp: int, top: int) -> tuple[int, int]:
        """Return the physical addresses where the live bytes of a stack begin and end."""
        ram = self._machine.ram
        low, last = ram.physical(rsp - self._red_zone), ram.physical(top - 1)
        return (low, last + 1) if low is not None and last is not None else (0, 0)
