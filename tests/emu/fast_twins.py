"""Two machines that have to do the same: one whose vCPUs run fast, and one whose vCPUs do not.

Programs are made of fixed pieces of code, at random, and so are the handlers of their probes.
"""

from __future__ import annotations

import struct
from random import Random
from typing import Any

from arch_x86.emu.fault import GuestFaultError
from arch_x86.isa.assemble import assemble
from arch_x86.isa.decode import decode
from arch_x86.lab.bench import Workbench
from arch_x86.probes.eligibility import can_probe
from engine.core.profiles import Profile
from engine.errors import EngineBug
from engine.image import Image, Segment, Symbol
from engine.kprobe import Kprobe
from engine.syntax.interrupts import EveryPlan
from tests.conftest import BASE

_PIECES = (
    "add rax, rbx; rol rax, 7",
    "imul rbx, rbx, 0x1235; xor rbx, rax",
    "lea rdx, [rax + rbx * 2 + 0x1000]; bswap rdx",
    "mov [rdi + 64], rdx; add rax, [rdi + 64]",
    "push rax; push rbx; pop rdx; pop r8",
    "pushfq; pop r9; and r9d, 0x8d5; add rax, r9",
    "clc; adc rbx, 0; setc r8b",
    "stc; push rdx; popfq; cld; sti",
    "cli; nop; sti; nop",
    "mov rsi, rdi; mov ecx, 5; push rdi; rep movsb; pop rdi",
    "push rdi; mov ecx, 3; xor eax, eax; rep stosq; pop rdi",
    "movq xmm0, rax; paddq xmm1, xmm0; movq rdx, xmm1",
    "mov eax, ss; mov ss, eax; nop",
    "xor edx, edx; mov ecx, 3; div ecx",
    "pause; nop; mov eax, 1; cpuid; xor eax, eax; xor ebx, ebx; xor ecx, ecx; xor edx, edx",
    "mov [rsp - 8], rax; mov rdx, [rsp - 8]",
    "fld1; faddp; fldz",
    "emms",
    "add qword ptr [rdi + 8], 1; jmp qword ptr [rdi + 128]; int3",
)
_FAULT = "xor ecx, ecx; mov eax, 7; xor edx, edx; div ecx"
_LEAF = "add r10, 3; lea r10, [r10 + r10 * 2]; ret"
_NESTED = "mov rax, rdi; mov ecx, 40; l: add rax, rcx; dec ecx; jnz l; ret"
_JCC = (0x74, 0x75, 0x72, 0x7A, 0x78)
_LEAF_AT, _NESTED_AT = BASE + 0x2000, BASE + 0x2100


class Program:
    """A random program: ``image``, the addresses of its instructions, and where it jumps to.

    :param faults: it ends in a division by 0.
    """

    def __init__(self, random: Random, *, turns: int, faults: bool, red_zone: bool) -> None:
        code = bytearray(assemble("push r15; push r14; xor eax, eax; mov ebx, 7", BASE))
        code += b"\x41\xbf" + struct.pack("<I", turns)  # mov r15d, turns
        top = len(code)
        self.targets: list[int] = []
        for _ in range(random.randrange(4, 12)):
            piece = random.choice(_PIECES)
            body = assemble(piece, BASE + len(code))
            if "128" in piece:
                # This piece ends in the only kind of jump through memory, to right behind it.
                self.targets.append(BASE + len(code) + len(body))
                body = bytes(_point(body, 128, 128 + 8 * len(self.targets)))
            if random.random() < 0.4 and len(body) < 100:
                code += bytes((random.choice(_JCC), len(body)))
            code += body
            if random.random() < 0.3:
                code += b"\xe8" + struct.pack("<i", _LEAF_AT - (BASE + len(code) + 5))
        code += b"\x41\xff\xcf\x0f\x85" + struct.pack("<i", top - len(code) - 9)  # dec r15d; jnz
        if faults:
            code += assemble(_FAULT, BASE + len(code))
        code += assemble("mov rax, rbx; pop r14; pop r15; ret", BASE)
        size = len(code)
        text = bytes(code).ljust(0x2000, b"\xcc")
        text += assemble(_LEAF, _LEAF_AT).ljust(0x100, b"\xcc") + assemble(_NESTED, _NESTED_AT)
        symbols = (Symbol("f", BASE, size), Symbol("g", _LEAF_AT, 12), Symbol("h", _NESTED_AT, 20))
        segment = Segment(BASE, text, len(text))
        self.image = Image(name="random", segments=(segment,), symbols=symbols, red_zone=red_zone)
        self.starts = _starts(bytes(code))


def _point(body: bytes, old: int, new: int) -> bytearray:
    """Return ``body`` with the displacement of its jump through memory changed."""
    at = body.index(b"\xff\xa7" + struct.pack("<I", old))
    changed = bytearray(body)
    changed[at + 2 : at + 6] = struct.pack("<I", new)
    return changed


def _starts(code: bytes) -> list[int]:
    found: list[int] = []
    at = 0
    while at < len(code):
        insn = decode(code[at : at + 15], BASE + at)
        assert insn is not None
        found.append(BASE + at)
        at += insn.length
    return found


class Twin:
    """One of two machines with the program, its probes, and a log of what handlers see."""

    def __init__(
        self, program: Program, seed: str, pool: Any, profile: Profile, *, fast: bool
    ) -> None:
        self.bench = Workbench(program.image, pool=pool, profile=profile)
        if not fast:
            self.bench.machine.cpus[0].fast = None
        self.log: list[object] = []
        self._random = Random(seed)
        self.probes: list[Kprobe] = []
        for addr in self._random.sample(program.starts, min(6, len(program.starts))):
            if not can_probe(self.bench.arch.code, addr).errno:
                self._probe(addr)
        self.bench.kprobes.wait_for_kprobe_optimizer()
        self.data = self.bench.machine.allocate(4096)
        for number, target in enumerate(program.targets, 1):
            self.bench.machine.ram.write(self.data + 128 + 8 * number, struct.pack("<Q", target))
        every = self._random.choice((0, 61, 1000))
        self.plan = EveryPlan(every) if every else None

    def _probe(self, addr: int) -> None:
        post = self._post if self._random.random() < 0.4 else None
        self.bench.kprobes.kprobes_allow_optimization = self._random.random() < 0.6
        for _ in range(self._random.choice((1, 1, 2))):
            probe = Kprobe(addr=addr, pre_handler=self._pre, post_handler=post)
            self.bench.kprobes.register_kprobe(probe)
            self.probes.append(probe)

    def _pre(self, probe: Kprobe, regs: Any) -> int:
        machine, cpu = self.bench.machine, self.bench.machine.cpus[0]
        kind = self._random.random()
        self.log.append((probe.addr, regs.ip, regs.ax, machine.clock, cpu.retired))
        if kind < 0.05:
            self.log.append([getattr(regs, name) for name in type(regs).__mro__[-2].__slots__])
        elif kind < 0.1:
            regs.bx = regs.bx * 3 & (1 << 64) - 1
        elif kind < 0.15:
            regs.flags ^= 0x8C5
        elif kind < 0.17:
            self.log.append(self.bench.call_nested(0, _NESTED_AT, 5))
        elif kind < 0.19:
            self.log.append((cpu.registers(), cpu.rip))
        elif kind < 0.21:
            try:
                self.bench.kprobes.disable_kprobe(probe)
            except EngineBug as error:
                self.log.append(str(error))
        elif kind < 0.22:
            raise ValueError("a handler's")
        elif kind < 0.24:
            regs.orig_ax, regs.r8 = 5, -1
        return 0

    def _post(self, probe: Kprobe, regs: Any, flags: int) -> None:
        self.log.append((probe.addr, "post", regs.ip, regs.flags, flags))

    def begin(self) -> None:
        """Begin a call of the program."""
        self.bench.start_call(0, BASE, (self.data,))

    def advance(self, budget: int) -> None:
        """Go on by ``budget`` instructions."""
        try:
            self.bench.executor.advance(0, budget, self.plan)
        except (ValueError, GuestFaultError) as error:
            self.log.append(repr(error))

    @property
    def running(self) -> bool:
        """The call has not ended."""
        return self.bench.executor.running(0)

    def state(self) -> dict[str, object]:
        """All that can be seen of the machine."""
        machine = self.bench.machine
        cpu, task = machine.cpus[0], machine.tasks[0]
        return {
            "rip": cpu.rip,
            "registers": cpu.registers(),
            "vectors": cpu.uc.extended.vector_state(),
            "fpu": cpu.uc.extended.fpu_state(),
            "cr2": cpu.uc.cr2,
            "retired": cpu.retired,
            "interrupts": cpu.interrupts,
            "shadow": cpu.in_shadow,
            "clock": machine.clock,
            "ram": bytes(machine.ram.room[: machine.ram.used]),
            "task": (task.state, str(task.fault), task.passed),
            "log": self.log,
            "missed": [probe.nmissed for probe in self.probes],
        }

    def close(self) -> None:
        """Give the emulators back."""
        self.bench.close()
