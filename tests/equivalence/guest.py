"""A machine that is put into any state, runs one cell, and tells everything that came of it."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from arch_x86.emu.cpu import ExitReason
from arch_x86.emu.execute import Executor
from arch_x86.emu.fault import FaultKind
from arch_x86.emu.machine import Machine, MachineConfig
from arch_x86.emu.uc import GPR_NAMES, RFLAGS, RSP
from arch_x86.isa.constants import FLAG_TF
from arch_x86.probes.ptregs import PT_REGS_SIZE, PtRegs
from engine.image import Image
from tests.equivalence.states import Bases, State, memory_content, vector_image
from tests.equivalence.world import Area, Places

CONFIG = MachineConfig(stack_pages=1, heap_pages=1)
_LIMIT = 20_000
_FIP = 8  # in the FXSAVE64 format
_PT_REGS = (
    "ax",
    "cx",
    "dx",
    "bx",
    "sp",
    "bp",
    "si",
    "di",
    "r8",
    "r9",
    "r10",
    "r11",
    "r12",
    "r13",
    "r14",
    "r15",
)
_NAMES = (*GPR_NAMES, "rflags")


class Outcome(NamedTuple):
    """All that a run left. ``fault``: the exception or fault kind that ended it, "" for ``hlt``;
    ``detail``: a page fault's address.
    """

    registers: tuple[int, ...]
    rip: int
    vector: bytes
    ram: bytes
    fault: str
    detail: int
    retired: int

    def seen_from(self, copy: int, original: int, size: int = 1) -> Outcome:
        """As it would be, had the copy of ``size`` bytes at ``copy`` been the original: where a
        fault was raised, and where the last x87 instruction stood.

        x87 instructions record their address (FIP). That of a copy stays visible to FNSTENV and
        FXSAVE, on Linux as here.
        """
        outcome = self
        if self.fault and copy <= self.rip < copy + size:
            outcome = outcome._replace(rip=self.rip - copy + original)
        fip = int.from_bytes(self.vector[_FIP : _FIP + 8], "little")
        if copy <= fip < copy + size:
            moved = (fip - copy + original).to_bytes(8, "little")
            outcome = outcome._replace(vector=self.vector[:_FIP] + moved + self.vector[_FIP + 8 :])
        return outcome


class Guest:
    """One vCPU of a machine whose image comes from :mod:`tests.equivalence.world`, and ``worlds``
    random memories and vector states.
    """

    def __init__(
        self,
        machine: Machine,
        places: Places,
        *,
        worlds: int,
        seed: object,
        executor: Executor | None = None,
    ) -> None:
        self.machine = machine
        self.places = places
        self.cpu = machine.cpus[0]
        self.bases = Bases(machine.layout.fs_base(0), machine.layout.gs_base(0))
        self._executor = executor or Executor(machine)
        self._worlds = [self._make_world(Random(f"{seed}:{number}")) for number in range(worlds)]

    def _make_world(self, random: Random):
        ram, places = self.machine.ram, self.places
        for area in (
            places.data,
            places.stack,
            Area(self.bases.fs - 2048, 4096),
            Area(self.bases.gs, 4096),
        ):
            ram.write(area.addr, memory_content(random, area.size))
        if not self._executor.running(0):
            self._executor.begin_call(0, places.pad(0))
        ram.write(places.vector.addr, vector_image(random))
        self._run_stub(places.load_vector)
        ram.write(places.vector.addr, bytes(512))
        return self.machine.snapshot()

    def _run_stub(self, at: int) -> None:
        uc = self.cpu.uc
        uc.load()
        if uc.gpr[RFLAGS] & FLAG_TF:
            uc.gpr[RFLAGS] &= ~FLAG_TF
            uc.store()
        self.cpu.rip = at
        assert self.cpu.run(10)[0] is ExitReason.HYPERCALL

    def start(self, world: int, state: State, rip: int) -> None:
        """Everything as ``world`` and ``state`` have it; the text stays as it is."""
        self.machine.restore(self._worlds[world % len(self._worlds)], keep_text=True)
        uc = self.cpu.uc
        uc.gpr[:16] = state.gpr
        uc.gpr[RFLAGS] = state.flags
        uc.store()
        for at, data in state.patches:
            self.machine.ram.write(at, data)
        self.cpu.rip = rip

    def run(self) -> Outcome:
        """Run as the bare CPU does: an exception ends it where it is raised."""
        reason, retired = self.cpu.run(_LIMIT)
        fault, detail = "", 0
        if reason is ExitReason.EXCEPTION:
            fault = f"vector {self.cpu.vector}"
            detail = self.cpu.uc.cr2 if self.cpu.vector == 14 else 0
        elif reason is not ExitReason.HYPERCALL:
            fault = reason.name
        return self._outcome(self.cpu.registers(), self.cpu.rip, fault, detail, retired)

    def run_probed(self) -> Outcome:
        """Run with traps delivered, to the ``hlt`` or the fault that ends the call."""
        before = self.cpu.retired
        fault = self._executor.run_call(0, _LIMIT)
        retired = self.cpu.retired - before
        assert fault is not None, "a cell ends in hlt"
        if fault.kind is FaultKind.HALT:
            return self._outcome(self.cpu.registers(), self.cpu.rip, "", 0, retired)
        detail = self.cpu.uc.cr2 if "access" in fault.kind or "write" in fault.kind else 0
        frame = self.machine.ram.read(self.cpu.registers()[RSP], PT_REGS_SIZE)
        if frame is None:
            return self._outcome(self.cpu.registers(), fault.rip, fault.kind, detail, retired)
        regs = PtRegs.unpack(frame)
        # TF and IF of an unhandled fault's frame are still those of the step: nobody returns from
        # it.
        flags = regs.flags & ~0x300
        return self._outcome(
            (*(getattr(regs, name) for name in _PT_REGS), flags),
            fault.rip,
            fault.kind,
            detail,
            retired,
        )

    def _outcome(
        self, registers: tuple[int, ...], rip: int, fault: str, detail: int, retired: int
    ) -> Outcome:
        ram = self.machine.ram
        memory = ram.room[: ram.used]
        self._run_stub(self.places.save_vector)
        vector = ram.read(self.places.vector.addr, 512)
        assert vector is not None
        return Outcome(registers, rip, vector, memory, str(fault), detail, retired)

    def forget(self, outcome: Outcome, spans: list[tuple[int, int]]) -> Outcome:
        """``outcome`` without what lies in ``spans`` (start, end) of data memory."""
        memory = bytearray(outcome.ram)
        for start, end in spans:
            for at in range(start & -4096, end, 4096):
                physical = self.machine.ram.physical(at)
                if physical is not None:
                    low, high = max(start - at, 0), min(end - at, 4096)
                    memory[physical + low : physical + high] = bytes(high - low)
        return outcome._replace(ram=bytes(memory))

    def explain(self, got: Outcome, want: Outcome) -> str:
        """What differs; "" when nothing does."""
        if got == want:
            return ""
        lines = [
            f"{name}: {a:#x}, not {b:#x}"
            for name, a, b in zip(_NAMES, got.registers, want.registers, strict=True)
            if a != b
        ]
        lines += [
            f"{name}: {getattr(got, name)!r}, not {getattr(want, name)!r}"
            for name in ("rip", "fault", "detail", "retired")
            if getattr(got, name) != getattr(want, name)
        ]
        lines += [
            f"fxsave+{i:#x}: {a:#x}, not {b:#x}"
            for i, (a, b) in enumerate(zip(got.vector, want.vector, strict=True))
            if a != b
        ][:8]
        differ = (
            [i for i in range(len(want.ram)) if got.ram[i] != want.ram[i]]
            if got.ram != want.ram
            else []
        )
        lines += [
            f"[{self.machine.ram.virtual(i):#x}]: {got.ram[i]:#x}, not {want.ram[i]:#x}"
            for i in differ[:8]
        ]
        return "; ".join(lines)


def new_machine(image: Image, pool) -> Machine:
    """A small machine."""
    return Machine(image, pool=pool, config=CONFIG)
