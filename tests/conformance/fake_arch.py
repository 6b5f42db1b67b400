"""A made-up architecture in pure Python, on which the core's laws hold as on x86-64.

It has no emulator and no decoder. Every instruction has four bytes: what it does, an operand, and
two zeros. A breakpoint replaces the first byte of an instruction, and a jump two whole
instructions. There is one CPU, and a call runs to its end at once, so that between two operations
of control code the CPU is in no call.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.arch import ArchCallbacks
from engine.control.sync import ControlPlane
from engine.core.kprobes import Kprobes
from engine.core.profiles import Profile
from engine.errors import KprobeError
from engine.image import Image, Segment, Symbol
from engine.kallsyms import Kallsyms
from engine.kprobe import AggrKprobe, Kprobe
from engine.kretprobe import KretprobeInstance

INSN, JUMP_SIZE, BASE = 4, 8, 0x1000
ADD, RET, BREAK, JUMP = 1, 2, 0xCC, 0xE9
STOP, TRAMPOLINE = 0x10, 0x20


def insn(what: int, operand: int = 0) -> bytes:
    return bytes((what, operand, 0, 0))


@dataclass
class Regs:
    ip: int
    acc: int
    stack: list[int] = field(default_factory=lambda: [STOP])


@dataclass(frozen=True)
class OptInsn:
    """A detour buffer: its address, and what the jump to it replaces."""

    addr: int
    original: bytes


class FakeArch:
    """The architecture layer (:class:`engine.arch.Arch`)."""

    trampoline, possible_cpus, max_optimized_len, current_task = TRAMPOLINE, 1, JUMP_SIZE, 0
    core: ArchCallbacks

    def __init__(self, code: bytes) -> None:
        self.text = bytearray(code)
        self.original = code
        self.kprobe_instance: Kprobe | None = None
        self.current: Kprobe | None = None
        self.in_use = 0

    def attach(self, core: ArchCallbacks) -> None:
        self.core = core

    def read(self, addr: int, size: int) -> bytes:
        return bytes(self.text[addr - BASE : addr - BASE + size])

    def write(self, addr: int, data: bytes) -> None:
        self.text[addr - BASE : addr - BASE + len(data)] = data

    # Plain probes

    def arch_check_text(self, addr: int) -> None:
        if not BASE <= addr < BASE + len(self.text):
            raise KprobeError(errno.EINVAL, f"{addr:#x} is not text")

    def arch_adjust_kprobe_addr(self, addr: int) -> int:
        return addr

    def arch_ftrace_location(self, addr: int) -> bool:
        del addr
        return False

    def arch_prepare_kprobe(self, p: Kprobe) -> None:
        if p.at % INSN:
            raise KprobeError(errno.EILSEQ, f"{p.at:#x} lies inside an instruction")
        p.ainsn = self.original[p.at - BASE : p.at - BASE + INSN]
        self.in_use += 1

    def arch_remove_kprobe(self, p: Kprobe) -> None:
        self.in_use -= p.ainsn is not None
        p.ainsn = None

    def arch_arm_kprobes(self, ps: Sequence[Kprobe]) -> None:
        for p in ps:
            self.write(p.at, bytes((BREAK,)))

    def arch_disarm_kprobes(self, ps: Sequence[Kprobe]) -> None:
        for p in ps:
            self.write(p.at, p.ainsn[:1])

    # Optimized probes

    def arch_prepare_optimized_kprobe(self, op: AggrKprobe) -> None:
        at = op.at - BASE
        original = self.original[at : at + JUMP_SIZE]
        if len(original) == JUMP_SIZE and all(original[n] == ADD for n in (0, INSN)):
            op.optinsn = OptInsn(op.at, original)
            self.in_use += 1

    def arch_remove_optimized_kprobe(self, op: AggrKprobe) -> None:
        self.in_use -= op.optinsn is not None
        op.optinsn = None

    def arch_check_optimized_kprobe(self, op: AggrKprobe) -> bool:
        other = self.core.get_kprobe(op.at + INSN)
        return other is None or (
            other.disabled and not (isinstance(other, AggrKprobe) and other.queued)
        )

    def arch_within_optimized_kprobe(self, op: AggrKprobe, addr: int) -> bool:
        return op.at <= addr < op.at + JUMP_SIZE

    def arch_optimize_kprobes(self, ops: Sequence[AggrKprobe]) -> None:
        for op in ops:
            self.write(op.at, bytes((JUMP,)) + op.op_id.to_bytes(JUMP_SIZE - 1, "little"))

    def arch_unoptimize_kprobes(self, ops: Sequence[AggrKprobe]) -> None:
        for op in ops:
            self.write(op.at, bytes((BREAK,)) + op.optinsn.original[1:])

    def arch_unoptimize_kprobe(self, op: AggrKprobe) -> None:
        self.arch_unoptimize_kprobes([op])

    # Return and jumper probes

    def arch_prepare_kretprobe(self, ri: KretprobeInstance, regs: Regs) -> bool:
        ri.ret_addr, ri.frame = regs.stack[-1], len(regs.stack)
        regs.stack[-1] = TRAMPOLINE
        return True

    def arch_setjmp(self, entry: int, regs: Regs) -> None:
        raise NotImplementedError

    def arch_longjmp(self, regs: Regs) -> bool:
        del regs
        return False

    def arch_set_current_kprobe(self, p: Kprobe | None) -> None:
        self.current = p

    # The processor

    def call(self, addr: int, argument: int) -> int:
        """Run the function at ``addr``, and return the sum that it has counted."""
        regs = Regs(addr, argument)
        while regs.ip != STOP:
            if regs.ip == TRAMPOLINE:
                back = self.core.kretprobes.trampoline_handler(regs, len(regs.stack) + 1)
                assert back is not None
                regs.ip = back
            elif self.read(regs.ip, 1)[0] == BREAK:
                self._breakpoint(regs)
            elif self.read(regs.ip, 1)[0] == JUMP:
                self._detour(regs)
            else:
                self._execute(self.read(regs.ip, INSN), regs)
        return regs.acc

    def _execute(self, code: bytes, regs: Regs) -> None:
        what, operand = code[:2]
        assert what in (ADD, RET), code.hex()
        if what == RET:
            regs.ip = regs.stack.pop()
        else:
            regs.ip, regs.acc = regs.ip + INSN, regs.acc + operand

    def _breakpoint(self, regs: Regs) -> None:
        p = self.core.get_kprobe(regs.ip)
        assert p is not None, f"nobody's breakpoint at {regs.ip:#x}"
        if self.current is not None:
            self.core.kprobes_inc_nmissed_count(p)
            self._execute(p.ainsn, regs)
            return
        self.current = p
        over = p.pre_handler is not None and p.pre_handler(p, regs)
        if not over:
            self._execute(p.ainsn, regs)
            if p.post_handler is not None:
                p.post_handler(p, regs, 0)
        self.current = None

    def _detour(self, regs: Regs) -> None:
        op = self.core.find_optimized(
            int.from_bytes(self.read(regs.ip + 1, JUMP_SIZE - 1), "little")
        )
        assert op is not None, f"a jump of nobody's at {regs.ip:#x}"
        if op.disabled:
            pass  # the jump of this probe waits to be undone
        elif self.current is not None:
            self.core.kprobes_inc_nmissed_count(op)
        else:
            self.current = op
            for child in self.core.aggr.order(op):
                self.core.aggr.child_opt_pre_handler(child, regs)
            self.current = None
        for at in range(0, JUMP_SIZE, INSN):
            self._execute(op.optinsn.original[at : at + INSN], regs)


class FakeHardware:
    """A CPU that is in no call when control code asks (:class:`engine.control.sync.Hardware`)."""

    def __init__(self, arch: FakeArch) -> None:
        self._arch = arch
        self.jiffies = 0

    def run_turn(self) -> bool:
        return False

    def advance_to(self, jiffy: int) -> None:
        self.jiffies = max(self.jiffies, jiffy)

    def quiescent(self) -> tuple[tuple[bool, int], ...]:
        return ((True, 0),)

    @property
    def in_handler(self) -> bool:
        return self._arch.current is not None

    def sync_core(self, cpu: int) -> bool:
        del cpu
        return True


class FakeLab:
    """The made-up machine (:class:`tests.conformance.laws.Lab`) with f(n) = n + 6."""

    function, site, neighbour, inside = "f", 0, INSN, 1

    def __init__(self, profile: Profile) -> None:
        code = insn(ADD, 1) + insn(ADD, 2) + insn(ADD, 3) + insn(RET)
        image = Image(
            name="fake",
            segments=(Segment(BASE, code, len(code)),),
            symbols=(Symbol("f", BASE, len(code)),),
        )
        self.arch = FakeArch(code)
        self.plane = ControlPlane(FakeHardware(self.arch))
        self.kprobes = Kprobes(self.arch, self.plane, Kallsyms(image), profile)

    def text(self) -> bytes:
        return bytes(self.arch.text)

    def call(self, argument: int) -> int:
        return self.arch.call(BASE, argument)

    call_in_handler = call

    def copies(self) -> int:
        return self.arch.in_use
