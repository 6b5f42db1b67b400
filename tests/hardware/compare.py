"""Run a record on the machine of this project, and say where it differs from the processor."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from unicorn import x86_const

from arch_x86.emu.execute import Executor
from arch_x86.emu.fault import FaultKind, GuestFault
from arch_x86.emu.machine import Machine, MachineConfig, Snapshot
from arch_x86.emu.task import TaskState
from arch_x86.emu.uc import RFLAGS, UcPool
from arch_x86.isa.assemble import assemble
from engine.image import Image, Segment, Symbol
from tests.hardware.records import GPR, Record, State

__all__ = ("LISTED", "Laboratory", "Outcome")

PAGE = 4096
TEXT_AT = 0x1000_0000
DATA_AT = 0x2200_0000
STACK_AT, STACK_TOP = 0x22FF_F000, 0x2300_1000
HALT = b"\xf4"
REFUSED = (FaultKind.UNSUPPORTED_OPCODE, FaultKind.INVALID_OPCODE)
SIGNALS = {
    4: REFUSED,
    7: (FaultKind.UNMAPPED_ACCESS, FaultKind.GENERAL_PROTECTION),
    8: (FaultKind.DIVIDE_ERROR,),
    11: (FaultKind.UNMAPPED_ACCESS, FaultKind.GENERAL_PROTECTION, FaultKind.WRITE_TO_CODE),
}
COMPARES = ("FCOM", "FUCOM", "FICOM", "FTST", "FXAM", "FPREM")
STACK_FAULT = 0x41
FLUSH = 0x8040
INEXACT = ("F2XM1", "FSIN", "FCOS", "FPTAN", "FPATAN", "FYL2X", "FLDL", "FLDPI")
STATUS = frozenset(
    {"MXCSR", "x87 exceptions", "x87 C1", "x87 undefined condition", "x87 tags", "x87 control"}
)
FLAGS = 0xCD5 | 1 << 10
_LOW = (1 << 64) - 1
TOP, CONDITION, EXCEPTIONS, C1 = 0x3800, 0x4500, 0x80FF, 0x200


LISTED = {
    "MXCSR": "the exception flags of MXCSR are never set",
    "NaN payload": "which NaN comes out",
    "denormals": "flush-to-zero and denormals-are-zero have no effect on some results",
    "approximation": "an approximation, which differs from model to model",
    "x87 exceptions": "exception flags, busy and summary bits of the x87 status word",
    "x87 C1": "C1, by which the x87 says how it rounded",
    "x87 undefined condition": "C0, C2 and C3 where the manual leaves them undefined",
    "x87 tags": "which x87 registers are in use",
    "x87 control": "reserved bits of the x87 control word",
    "x87 stack fault": (
        "an x87 register that is not in use is read, or one that is in use is pushed over: no NaN"
        " comes out, and no flag is set"
    ),
    "x87 precision": (
        "the last bits of transcendental functions and of constants under directed rounding"
    ),
    "MMX exponent": "the upper 16 bits of an x87 register that is written as an MMX register",
    "MMX top": "the top of the x87 stack after MMX instructions",
    "undefined register": "the destination of BSF and BSR where the source is 0",
    "flush": "a cache line that is not mapped is flushed without a fault",
    "alignment": "a misaligned operand of 16 bytes does not fault",
}
"""What differs from the processor in ways that hardly any program computes with, by kind."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """``fault`` of the machine, if it died; ``kinds``: what differs from the processor, each by a
    word.
    """

    record: Record
    fault: GuestFault | None
    kinds: frozenset[str]

    @property
    def refused(self) -> bool:
        """The machine said that it does not run this instruction."""
        return self.fault is not None and self.fault.kind in REFUSED and bool(self.kinds)

    @property
    def wrong(self) -> frozenset[str]:
        """What of :attr:`kinds` the machine neither refuses nor lists in docs/processor.md."""
        return frozenset() if self.refused else self.kinds - LISTED.keys()


def _same_but_nans(seen: bytes, want: bytes, size: int) -> bool:
    """Where two vectors of floating-point numbers of ``size`` bytes differ, both have a NaN."""
    shape, exponent = ("<2Q", 0x7FF << 52) if size == 8 else ("<4I", 0xFF << 23)
    sign = 1 << 8 * size - 1
    pairs = zip(struct.unpack(shape, seen), struct.unpack(shape, want), strict=True)
    return all(a == b or (a & ~sign > exponent and b & ~sign > exponent) for a, b in pairs)


def _both_nans(seen: bytes, want: bytes) -> bool:
    """Both x87 registers hold a NaN."""
    return all(
        value[8:] in (b"\xff\x7f", b"\xff\xff") and int.from_bytes(value[:8], "little") << 1 & _LOW
        for value in (seen, want)
    )


class Laboratory:
    """One machine, whose text is each record's instruction in turn.

    A snapshot for each state is made once. An instruction is written as the copy of one is, so that
    it is refused where copies are.
    """

    def __init__(
        self,
        states: tuple[State, ...],
        pool: UcPool | None = None,
        *,
        check_alignment: bool = False,
    ) -> None:
        self._states = states
        restore = assemble("fxrstor64 [rax]", TEXT_AT) + HALT
        text = restore.ljust(PAGE, HALT)
        segments = (
            Segment(TEXT_AT, text, PAGE),
            Segment(DATA_AT, b"", PAGE, executable=False, writable=True),
            Segment(STACK_AT, b"", STACK_TOP - STACK_AT + PAGE, executable=False, writable=True),
        )
        image = Image(name="hardware", segments=segments, symbols=(Symbol("all", TEXT_AT, PAGE),))
        self.machine = Machine(
            image, pool=pool, config=MachineConfig(check_alignment=check_alignment)
        )
        self._executor = Executor(self.machine)
        self._scratch = self.machine.allocate(PAGE)
        self._empty = self.machine.snapshot()
        self._snapshots: dict[int, Snapshot] = {}

    def close(self) -> None:
        """Give the machine back."""
        self.machine.close()

    def run(self, record: Record) -> Outcome:
        """The machine's answer to one record."""
        machine = self.machine
        machine.restore(self._at(record.state), keep_text=True)
        machine.guard(record.ip, record.raw)
        machine.text.write(record.ip, (record.raw + HALT).ljust(16, HALT), reason="record")
        machine.tasks[0].state = TaskState.RUNNING
        machine.cpus[0].rip = record.ip
        fault = self._executor.run_call(0, 100_000)
        done = (
            fault is not None
            and fault.kind is FaultKind.HALT
            and fault.rip == record.ip + len(record.raw)
        )
        if not done:
            as_signal = (
                record.signal is not None
                and fault is not None
                and fault.kind in SIGNALS[record.signal]
            )
            return Outcome(record, fault, frozenset() if as_signal else frozenset({"fault"}))
        if record.signal is not None:
            return Outcome(record, None, frozenset({self._missing(record)}))
        return Outcome(record, None, frozenset(self._known(record, self._differences(record))))

    @staticmethod
    def _missing(record: Record) -> str:
        """What fault of the processor's the machine does not have."""
        code = record.code
        if record.signal == 11 and code.startswith("CLFLUSH"):
            return "flush"
        aligned = "XMMM128" in code or code.endswith("_M128") or "M128_XMM" in code
        return "alignment" if record.signal == 11 and aligned else "no fault"

    def _known(self, record: Record, kinds: set[str]) -> set[str]:
        """``kinds``, with a word of its own for what is wrong for a reason that docs/processor.md
        gives.
        """
        state, after, code = self._states[record.state], record.after, record.code
        words = int(after.get("fsw", "0"), 16) & ~state.fsw
        if words & STACK_FAULT == STACK_FAULT and code.startswith("F"):
            return {"x87 stack fault"} | kinds & STATUS
        if "vector" in kinds and code.startswith(("RCP", "RSQRT")):
            kinds = kinds - {"vector"} | {"approximation"}
        if (
            "vector" in kinds
            and state.mxcsr & FLUSH
            and any(
                name in code for name in ("PS_", "SS_", "PD_", "SD_", "SS2", "SD2", "PS2", "PD2")
            )
        ):
            kinds = kinds - {"vector"} | {"denormals"}
        if "x87 value" in kinds and code.startswith(INEXACT):
            kinds = kinds - {"x87 value"} | {"x87 precision"}
        if "x87 top" in kinds and not code.startswith("F"):
            kinds = kinds - {"x87 top"} | {"MMX top"}
        if "register" in kinds and code.startswith(("BSF", "BSR")) and record.undefined == 0x895:
            kinds = kinds - {"register"} | {"undefined register"}
        return kinds

    def _at(self, number: int) -> Snapshot:
        snap = self._snapshots.get(number)
        if snap is None:
            snap = self._snapshots[number] = self._prepare(self._states[number])
        return snap

    def _prepare(self, state: State) -> Snapshot:
        """The machine in a state: x87 and vectors by the processor's own way to load them."""
        machine, uc = self.machine, self.machine.cpus[0].uc
        machine.restore(self._empty, keep_text=True)
        image = struct.pack("<HHBxHQQII", state.fcw, state.fsw, state.ftw, 0, 0, 0, 0x1F80, 0xFFFF)
        image += b"".join(value.ljust(16, b"\0") for value in state.st) + b"".join(state.xmm)
        machine.ram.write(self._scratch, image.ljust(512, b"\0"))
        self._executor.begin_call(0, TEXT_AT)
        uc.load()
        uc.gpr[0] = self._scratch
        uc.store()
        fault = self._executor.run_call(0, 10)
        assert fault is not None
        assert fault.kind is FaultKind.HALT
        # to what no program of the machine's can make it, too
        uc.write_reg(x86_const.UC_X86_REG_MXCSR, state.mxcsr)
        machine.ram.write(DATA_AT, state.data)
        for index, name in enumerate(GPR):
            uc.gpr[index] = state.gpr[name]
        uc.gpr[RFLAGS] = state.rflags
        uc.store()
        return machine.snapshot()

    def _differences(self, record: Record) -> set[str]:
        before, after, kinds = self._states[record.state], record.after, set[str]()
        vcpu = self.machine.cpus[0]
        for name, value in zip(GPR, vcpu.registers(), strict=False):
            want = int(after[name], 16) if name in after else before.gpr[name]
            if value != want:
                kinds.add("rsp" if name == "rsp" else "register")
        flags = int(after["rflags"], 16) if "rflags" in after else before.rflags
        if (vcpu.rflags ^ flags) & FLAGS & ~record.undefined:
            kinds.add("flags")
        if self._memory() != self._memory_of(before, after):
            kinds.add("memory")
        if "stack" in after:
            stack = bytes.fromhex(after["stack"])
            if self.machine.ram.read(int(after["rsp"], 16), len(stack)) != stack:
                kinds.add("memory")
        return kinds | self._vector_differences(record) | self._x87_differences(record)

    def _memory(self) -> bytes | None:
        return self.machine.ram.read(DATA_AT, PAGE)

    @staticmethod
    def _memory_of(before: State, after: dict[str, object]) -> bytes:
        memory = bytearray(before.data)
        changes = after.get("mem", {})
        assert isinstance(changes, dict)
        for at, value in changes.items():
            offset, data = int(at, 16) - DATA_AT, bytes.fromhex(value)
            memory[offset : offset + len(data)] = data
        return bytes(memory)

    def _vector_differences(self, record: Record) -> set[str]:
        before, after, kinds = self._states[record.state], record.after, set[str]()
        seen = self.machine.cpus[0].uc.extended.vector_state()
        for index in range(16):
            want = (
                bytes.fromhex(after[f"xmm{index}"]) if f"xmm{index}" in after else before.xmm[index]
            )
            if seen[16 * index : 16 * index + 16] != want:
                size = 8 if any(name in record.code for name in ("PD", "SD")) else 4
                kinds.add(
                    "NaN payload"
                    if _same_but_nans(seen[16 * index : 16 * index + 16], want, size)
                    else "vector"
                )
        mxcsr = int(after["mxcsr"], 16) if "mxcsr" in after else before.mxcsr
        if struct.unpack_from("<I", seen, 256)[0] != mxcsr:
            kinds.add("MXCSR")
        return kinds

    def _x87_differences(self, record: Record) -> set[str]:
        before, after, kinds = self._states[record.state], record.after, set[str]()
        seen = self.machine.cpus[0].uc.extended.fpu_state()
        fcw, fsw, tags = (struct.unpack_from("<H", seen, 16 * index)[0] for index in (8, 9, 10))
        words = {
            name: int(after[name], 16) if name in after else getattr(before, name)
            for name in ("fcw", "fsw", "ftw")
        }
        if fcw != words["fcw"]:
            kinds.add("x87 control")
        changed = fsw ^ words["fsw"]
        if changed & TOP:
            kinds.add("x87 top")
        if changed & CONDITION:
            kinds.add(
                "x87 condition" if record.code.startswith(COMPARES) else "x87 undefined condition"
            )
        if changed & C1:
            kinds.add("x87 C1")
        if changed & EXCEPTIONS:
            kinds.add("x87 exceptions")
        if sum(1 << index for index in range(8) if tags >> 2 * index & 3 != 3) != words["ftw"]:
            kinds.add("x87 tags")
        top = words["fsw"] >> 11 & 7
        for index in range(8):
            want = bytes.fromhex(after[f"st{index}"]) if f"st{index}" in after else before.st[index]
            at = 16 * (top + index & 7)
            value = seen[at : at + 10]
            if value[:8] != want[:8] and _both_nans(value, want):
                kinds.add("NaN payload")
            elif value[:8] != want[:8]:
                kinds.add("x87 value" if record.code.startswith("F") else "MMX value")
            elif value != want:
                kinds.add("x87 value" if record.code.startswith("F") else "MMX exponent")
        return kinds
