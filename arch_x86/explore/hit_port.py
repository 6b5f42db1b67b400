"""A hit on x86-64, a piece at a time, as :class:`engine.patching.port.HitPort` has it.

The pieces and their order are those of :mod:`arch_x86.probes.hit`, which ``run`` takes all at once.
What a CPU knows between two of them is kept in a small record that can be gone back to, with probes
by name, since another control state may have come meanwhile.
"""

from __future__ import annotations

from typing import Final, Protocol

from arch_x86.emu.cpu import Cpu
from arch_x86.emu.entry import wrong_entry, wrong_step
from arch_x86.emu.execute import Executor
from arch_x86.emu.stubs import return_skip
from arch_x86.emu.uc import RAX, RDI, RSI, RSP
from arch_x86.isa.constants import FLAG_IF, FLAG_TF
from arch_x86.probes.breakpoint import ReentryError
from arch_x86.probes.hit import Hit as LiveHit
from arch_x86.probes.ptregs import PT_REGS_SIZE, PtRegs
from arch_x86.probes.stepping import KprobeCtlblk
from arch_x86.probes.x86_arch import X86Arch
from engine.core.kprobes import Kprobes
from engine.hit_phases import HitKind, HitPhase
from engine.kprobe import KprobeStatus
from engine.patching.control_side import ProbeNames
from engine.patching.hit_in_progress import NO_HIT, Block, Hit
from engine.patching.port_records import WayTaken

__all__ = ("X86Hits",)

_BREAKPOINT: Final = 3
_RESUMED, _REFUSED = HitPhase.RESUMED, HitPhase.REFUSED
_NO_HIT: Final = (None, KprobeStatus(NO_HIT[1]), *NO_HIT[2:5], None, NO_HIT[6])
"""What a CPU's block holds that is in no hit."""
_CALLBACK: Final = "optimized_callback"
_FTRACE_CALLER: Final = "ftrace_caller"


class X86ControlState(ProbeNames, Protocol):
    """What a piece of a hit needs of a control state
    (:class:`engine.patching.control_state.ControlState`).
    """

    @property
    def arch(self) -> X86Arch:
        """Its arch layer."""
        ...

    @property
    def core(self) -> Kprobes:
        """Its core."""
        ...


class X86Hits:
    """The hits on the vCPUs of the machine of ``executor``."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._machine = executor.machine
        layout = executor.machine.layout
        self._slots = range(layout.slots, layout.slots + layout.slots_size)

    def begin(self, cpu: int) -> Hit:
        """A breakpoint's stub asks, or ftrace's trampoline, with pt_regs on top of the stack; or a
        detour buffer does: rdi is its number, rsi its pt_regs.
        """
        vcpu = self._machine.cpus[cpu]
        vcpu.uc.load()
        gpr = vcpu.uc.gpr
        name = self._machine.stubs.hypercalls.get(vcpu.rip)
        if name == _CALLBACK:
            return Hit(HitKind.OPTIMIZED, HitPhase.TRAP, gpr[RSI], argument=gpr[RDI])
        if name == _FTRACE_CALLER:
            return Hit(
                HitKind.FTRACE,
                HitPhase.TRAP,
                gpr[RSP],
                argument=self._executor.traps.regs_at(gpr[RSP]).ip,
            )
        return Hit(HitKind.INT3, HitPhase.TRAP, gpr[RSP])

    def advance(self, state: X86ControlState, cpu: int, hit: Hit) -> Hit | None:
        """See :class:`HitPort`."""
        executor = self._executor
        vcpu = self._machine.cpus[cpu]
        regs = executor.traps.regs_at(hit.at)
        children = (
            tuple(p for p in map(state.named, hit.children) if p is not None)
            if hit.children
            else ()
        )
        live = LiveHit(
            hit.kind, cpu, regs, hit.argument, hit.phase, state.named(hit.probe), children
        )
        try:
            state.arch.traps.hits.advance(live)
        except ReentryError as error:
            executor.end(vcpu, executor.traps.stopped(vcpu, regs, error))
            return None
        phase = live.phase
        if phase is _RESUMED or phase is _REFUSED:
            self._end(vcpu, hit, regs, phase)
            return None
        self._machine.ram.write(hit.at, regs.pack())
        names = tuple(map(state.name_of, live.children)) if live.children else ()
        return Hit(hit.kind, phase, hit.at, state.name_of(live.probe), hit.argument, names)

    def _end(self, vcpu: Cpu, hit: Hit, regs: PtRegs, phase: HitPhase) -> None:
        """The hit is over: the CPU goes on, behind a breakpoint's stub as
        :class:`arch_x86.emu.traps.Traps` has it, or its call dies.
        """
        traps = self._executor.traps
        if phase is _REFUSED:
            fault = traps.refuse(vcpu, _BREAKPOINT, hit.at, regs)
            if fault is not None:
                self._executor.end(vcpu, fault)
        elif hit.kind is HitKind.INT3:
            traps.resume(vcpu, hit.at, regs)
        else:
            self._machine.ram.write(hit.at, regs.pack())

    def load(self, state: X86ControlState, cpu: int, block: Block) -> None:
        """See :class:`HitPort`."""
        if block is NO_HIT:
            state.arch.ctlblk[cpu].restore(_NO_HIT)
            return
        current, status, old_flags, saved_flags, prev, instance, jprobe = block
        prev = tuple((state.named(name), KprobeStatus(then), *flags) for name, then, *flags in prev)
        state.arch.ctlblk[cpu].restore(
            (
                state.named(current),
                KprobeStatus(status),
                old_flags,
                saved_flags,
                prev,
                state.named(instance),
                jprobe,
            )
        )

    def store(self, state: X86ControlState, cpu: int) -> Block:
        """See :class:`HitPort`. With no hit in progress nothing of the CPU's block counts."""
        block: KprobeCtlblk = state.arch.ctlblk[cpu]
        if block.current is None and not block.prev and block.instance is None:
            return NO_HIT
        name = state.name_of
        prev = tuple((name(p), status.value, *flags) for p, status, *flags in block.prev)
        return (
            name(block.current),
            block.status.value,
            block.old_flags,
            block.saved_flags,
            prev,
            name(block.instance),
            block.jprobe,
        )

    def wrong_entry(self, cpu: int) -> str | None:
        """See :class:`HitPort`."""
        return wrong_entry(self._machine, self._machine.cpus[cpu])

    def flags(self, hit: Hit) -> int:
        """RFLAGS of what was hit."""
        return self._executor.traps.regs_at(hit.at).flags

    def way_taken(self, hit: Hit, block: Block, flags: int) -> WayTaken | None:
        """See :class:`HitPort`."""
        regs = self._executor.traps.regs_at(hit.at)
        if regs.ip not in self._slots:
            return None
        stepped = bool(regs.flags & FLAG_TF)
        # where interrupts were off anyway, a step is what the CPU's block says is under way
        if not stepped:
            stepped = not regs.flags & FLAG_IF if flags & FLAG_IF else bool(block[0])
        return WayTaken(stepped, wrong_step(regs.flags))

    def returning_call(self, cpu: int) -> tuple[int, int]:
        """See :class:`HitPort`: the return address lay below what the trampoline has skipped;
        RAX.
        """
        vcpu = self._machine.cpus[cpu]
        vcpu.uc.load()
        gpr = vcpu.uc.gpr
        return gpr[RSP] + PT_REGS_SIZE + return_skip(red_zone=vcpu.red_zone) - 8, gpr[RAX]

    def stack_word(self, addr: int) -> int:
        """See :class:`HitPort`."""
        return self._machine.ram.read_u64(addr) or 0

    def stack_pointer(self, regs: PtRegs) -> int:
        """RSP."""
        return regs.sp

    def instruction_pointer(self, regs: PtRegs) -> int:
        """RIP."""
        return regs.ip

    def return_value(self, regs: PtRegs) -> int:
        """RAX."""
        return regs.ax
