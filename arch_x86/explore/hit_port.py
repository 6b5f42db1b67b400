"""Hits on x86-64, a piece at a time, as an implementation of :class:`engine.patching.port.HitPort`.

The pieces and their order are those of :mod:`arch_x86.probes.hit`, which ``run`` takes all at once.
What a CPU knows between two pieces is kept in a small record, so that an exploration can go back to
it. The record names probes instead of holding them, since another control state, with probe objects
of its own, may have come meanwhile.
"""

from __future__ import annotations

from typing import Final, Protocol

from arch_x86.emu.cpu import Cpu
from arch_x86.emu.entry import wrong_entry, wrong_step
from arch_x86.emu.execute import Executor
from arch_x86.emu.stubs import return_skip
from arch_x86.emu.uc import RAX, RDI, RSI, RSP
from arch_x86.isa.constants import FLAG_IF, FLAG_TF
from arch_x86.probes.hit import Hit as LiveHit
from arch_x86.probes.ptregs import PT_REGS_SIZE, PtRegs
from arch_x86.probes.stepping import KprobeCtlblk
from arch_x86.probes.x86_arch import X86Arch
from arch_x86.text.poke import KernelStopError
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
"""The content of a CPU's kprobe_ctlblk while the CPU is in no hit."""
_CALLBACK: Final = "optimized_callback"
_FTRACE_CALLER: Final = "ftrace_caller"


class X86ControlState(ProbeNames, Protocol):
    """The part of a control state that a piece of a hit needs.

    :class:`engine.patching.control_state.ControlState` has all of it.
    """

    @property
    def arch(self) -> X86Arch:
        """The arch layer of the control state."""
        ...

    @property
    def core(self) -> Kprobes:
        """The kprobes core of the control state."""
        ...


class X86Hits:
    """The hits on the vCPUs of the machine of ``executor``."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._machine = executor.machine
        layout = executor.machine.layout
        self._slots = range(layout.slots, layout.slots + layout.slots_size)

    def begin(self, cpu: int) -> Hit:
        """Return the record of a hit whose stub has just asked the host for the handlers.

        The stub of a breakpoint, or ftrace's trampoline, has pt_regs on top of the stack. A detour
        buffer passes its number in RDI and the address of its pt_regs in RSI.
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
        """Do the next piece of ``hit`` in control state ``state``.

        :returns: the record of the hit behind that piece; None: the hit is over and the vCPU goes
            on, or its call has died.
        """
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
        except KernelStopError as error:
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
        """End a hit: the vCPU goes on where pt_regs say, or the call of a refused hit dies.

        Behind a breakpoint's stub it goes on as :class:`arch_x86.emu.traps.Traps` has it.
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
        """Put ``block`` into the kprobe_ctlblk of ``cpu`` in control state ``state``."""
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
        """Return the content of the kprobe_ctlblk of ``cpu`` in control state ``state``.

        With no hit in progress it is :data:`NO_HIT`, since nothing that is left in it counts then,
        but for a status that says that a single step is under way.
        """
        block: KprobeCtlblk = state.arch.ctlblk[cpu]
        over = block.current is None and not block.prev and block.instance is None
        if over:
            return (0, block.status.value, *NO_HIT[2:]) if block.left_stepping else NO_HIT
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
        """Return what handlers may expect and do not find where a stub has just asked for them.

        :returns: a sentence; None: nothing is amiss.
        """
        return wrong_entry(self._machine, self._machine.cpus[cpu])

    def flags(self, hit: Hit) -> int:
        """Return RFLAGS of the code that was hit, as they are in the hit's pt_regs now."""
        return self._executor.traps.regs_at(hit.at).flags

    def way_taken(self, hit: Hit, block: Block, flags: int) -> WayTaken | None:
        """Return how the hit goes on once its handlers have run and the resume address is set.

        :param block: the record of the CPU.
        :param flags: RFLAGS that :meth:`flags` returned before this piece.
        :returns: whether the copy in the slot is stepped or boosted, and what is wrong with its
            flags; None where the hit does not go on in a slot.
        """
        regs = self._executor.traps.regs_at(hit.at)
        if regs.ip not in self._slots:
            return None
        stepped = bool(regs.flags & FLAG_TF)
        # A step by a second breakpoint clears IF. Where IF was clear anyway, it tells nothing, and
        # the hit is a step if the CPU's block still has a current probe.
        if not stepped:
            stepped = not regs.flags & FLAG_IF if flags & FLAG_IF else bool(block[0])
        return WayTaken(stepped, wrong_step(regs.flags))

    def returning_call(self, cpu: int) -> tuple[int, int]:
        """Return where on the stack the returning call's return address lay, and its RAX.

        The address lay right under the stack pointer that the caller has after the return.
        """
        vcpu = self._machine.cpus[cpu]
        vcpu.uc.load()
        gpr = vcpu.uc.gpr
        return gpr[RSP] + PT_REGS_SIZE + return_skip(red_zone=vcpu.red_zone) - 8, gpr[RAX]

    def stack_word(self, addr: int) -> int:
        """Return the number in the 8 bytes at ``addr``, or 0 if the address is not mapped."""
        return self._machine.ram.read_u64(addr) or 0

    def stack_pointer(self, regs: PtRegs) -> int:
        """Return RSP of these pt_regs (kernel_stack_pointer())."""
        return regs.sp

    def instruction_pointer(self, regs: PtRegs) -> int:
        """Return RIP of these pt_regs (instruction_pointer())."""
        return regs.ip

    def return_value(self, regs: PtRegs) -> int:
        """Return RAX of these pt_regs, which holds a call's result (regs_return_value())."""
        return regs.ax
