"""A hit, a piece at a time: what lies between two pieces is a choice point.

The pieces are those of :class:`BreakpointHandler`; what a CPU knows between two of them is a small record that can be kept and gone
back to, with probes by name, since another control state may have come meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from arch_x86.emu.cpu import Cpu
from arch_x86.emu.execute import Executor
from arch_x86.emu.uc import RDI, RSI, RSP
from arch_x86.explore.world import World
from arch_x86.probes.breakpoint import ReentryError
from arch_x86.probes.ptregs import PtRegs
from arch_x86.probes.stepping import KprobeCtlblk
from engine.kprobe import AggrKprobe, Kprobe, KprobeStatus

__all__ = ("NO_HIT", "Block", "Hit", "HitKind", "HitPhase", "advance_hit", "begin_ftrace", "load_block", "store_block")

_BREAKPOINT: Final = 3
Block = tuple[Any, ...]
"""A CPU's :class:`KprobeCtlblk` with probes by name."""
NO_HIT: Final[Block] = (0, KprobeStatus.HIT_ACTIVE.value, 0, 0, (), 0, None)


class HitKind(IntEnum):
    """Which way the CPU came."""

    INT3 = 1
    OPTIMIZED = 2
    FTRACE = 3


class HitPhase(IntEnum):
    """What is next."""

    TRAP = 1
    """The frame is pushed; the table has not been asked."""
    POKE = 2
    """The breakpoint is the poke protocol's, whose descriptor has not been read."""
    FOUND = 3
    """The probe is found; its handler has not run."""
    HANDLED = 4
    """The handlers have run; where to go on is not set."""
    BETWEEN = 5
    """The handlers of some of the probes there have run."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A hit in progress. ``at``: guest address of its pt_regs. ``probe``: name of what the table had. ``argument``: the detour's number.
    Of a call that ftrace has put in place, ``argument`` is where it returns to.
    ``children``: names of those whose handlers are still to run, as they were listed when the first one ran: whoever joins meanwhile
    comes in front, and whoever leaves is disabled.
    """

    kind: HitKind
    phase: HitPhase
    at: int
    probe: int = 0
    argument: int = 0
    children: tuple[int, ...] = ()

    @property
    def key(self) -> tuple[int, ...]:
        """For a state's hash. Of ``kind``, ``at`` and ``argument`` no case is known that shows them: the stub's registers say the same."""
        return (self.kind, self.phase, self.at, self.probe, self.argument, *self.children)


def begin_int3(vcpu: Cpu) -> Hit:
    """The breakpoint's stub asks."""
    vcpu.uc.load()
    return Hit(HitKind.INT3, HitPhase.TRAP, vcpu.uc.gpr[RSP])


def begin_optimized(vcpu: Cpu) -> Hit:
    """A detour buffer asks."""
    vcpu.uc.load()
    return Hit(HitKind.OPTIMIZED, HitPhase.TRAP, vcpu.uc.gpr[RSI], argument=vcpu.uc.gpr[RDI])


def begin_ftrace(executor: Executor, vcpu: Cpu) -> Hit:
    """Ftrace's trampoline asks."""
    vcpu.uc.load()
    at = vcpu.uc.gpr[RSP]
    return Hit(HitKind.FTRACE, HitPhase.TRAP, at, argument=executor.traps.regs_at(at).ip)


def load_block(world: World, cpu: int, block: Block) -> None:
    """The CPU's block, in this world."""
    current, status, old_flags, saved_flags, prev, instance, jprobe = block
    prev = tuple((world.named(name), KprobeStatus(then), *flags) for name, then, *flags in prev)
    world.arch.ctlblk[cpu].restore(
        (world.named(current), KprobeStatus(status), old_flags, saved_flags, prev, world.named(instance), jprobe)
    )


def store_block(world: World, cpu: int) -> Block:
    """The CPU's block, by names. With no hit in progress nothing of it counts."""
    block: KprobeCtlblk = world.arch.ctlblk[cpu]
    if block.current is None and not block.prev and block.instance is None:
        return NO_HIT
    name = world.name_of
    prev = tuple((name(p), status.value, *flags) for p, status, *flags in block.prev)
    return (name(block.current), block.status.value, block.old_flags, block.saved_flags, prev, name(block.instance), block.jprobe)


def advance_hit(executor: Executor, world: World, cpu: int, hit: Hit) -> Hit | None:
    """The next piece of ``hit`` on ``cpu``, whose block is loaded. None: the hit is over, and the CPU goes on, or its call has ended."""
    vcpu = executor.machine.cpus[cpu]
    regs = executor.traps.regs_at(hit.at)
    step = _STEPS[hit.kind]
    following = step(executor, world, vcpu, hit, regs)
    if following is not None:
        executor.machine.ram.write(hit.at, regs.pack())
    return following


def _at(hit: Hit, phase: HitPhase, probe: int = 0, children: tuple[int, ...] = ()) -> Hit:
    return Hit(hit.kind, phase, hit.at, probe, hit.argument, children)


def _next_child(world: World, hit: Hit, p: Kprobe) -> tuple[Kprobe | None, Hit]:
    """Whose handler is next (None: that of ``p`` itself), and what the hit is behind it."""
    children = hit.children
    if hit.phase is HitPhase.FOUND and isinstance(p, AggrKprobe):
        children = tuple(map(world.name_of, world.core.aggr.order(p)))
    if not children:
        return None, _at(hit, HitPhase.HANDLED, hit.probe)
    phase = HitPhase.BETWEEN if children[1:] else HitPhase.HANDLED
    return world.named(children[0]), _at(hit, phase, hit.probe, children[1:])


def _int3(executor: Executor, world: World, vcpu: Cpu, hit: Hit, regs: PtRegs) -> Hit | None:
    arch, traps = world.arch, executor.traps
    match hit.phase:
        case HitPhase.TRAP:
            if arch.poke.bp_holds(regs.ip - 1):
                return _at(hit, HitPhase.POKE)
            return _at(hit, HitPhase.FOUND, world.name_of(world.core.get_kprobe(regs.ip - 1)))
        case HitPhase.POKE:
            arch.bp_resume(regs)
        case HitPhase.FOUND:
            p = world.named(hit.probe)
            try:
                over = arch.int3_found(vcpu.index, regs, p)
            except ReentryError as error:
                executor.end(vcpu, traps.stopped(vcpu, regs, error))
                return None
            if over is False:
                fault = traps.refuse(vcpu, _BREAKPOINT, hit.at, regs)
                if fault is not None:
                    executor.end(vcpu, fault)
                return None
            if over is None:
                assert p is not None
                return _int3_handlers(world, vcpu, hit, regs, p) or _gone_on(executor, vcpu, hit, regs)
        case HitPhase.BETWEEN:
            p = world.named(hit.probe)
            assert p is not None
            return _int3_handlers(world, vcpu, hit, regs, p) or _gone_on(executor, vcpu, hit, regs)
        case HitPhase.HANDLED:
            p = world.named(hit.probe)
            assert p is not None
            arch.int3_resume(vcpu.index, regs, p)
    return _gone_on(executor, vcpu, hit, regs)


def _int3_handlers(world: World, vcpu: Cpu, hit: Hit, regs: PtRegs, p: Kprobe) -> Hit | None:
    """One handler. None: it has set ip itself, and the hit is over."""
    child, following = _next_child(world, hit, p)
    return None if world.arch.int3_handle(vcpu.index, regs, p, child) else following


def _gone_on(executor: Executor, vcpu: Cpu, hit: Hit, regs: PtRegs) -> None:
    """The hit is over."""
    executor.traps.resume(vcpu, hit.at, regs)


def _optimized(executor: Executor, world: World, vcpu: Cpu, hit: Hit, regs: PtRegs) -> Hit | None:
    arch = world.arch
    match hit.phase:
        case HitPhase.TRAP:
            op = arch.optimized_found(vcpu.index, hit.argument, regs)
            if op is not None:
                return _at(hit, HitPhase.FOUND, world.name_of(op))
        case HitPhase.FOUND | HitPhase.BETWEEN:
            p = world.named(hit.probe)
            assert isinstance(p, AggrKprobe)
            child, following = _next_child(world, hit, p)
            arch.optimized_handle(vcpu.index, regs, p, child)
            return following
        case _:
            arch.optimized_done(vcpu.index)
    executor.machine.ram.write(hit.at, regs.pack())
    return None


def _ftrace(executor: Executor, world: World, vcpu: Cpu, hit: Hit, regs: PtRegs) -> Hit | None:
    arch = world.arch
    match hit.phase:
        case HitPhase.TRAP:
            p = arch.ftrace_found(vcpu.index, regs)
            if p is not None:
                return _at(hit, HitPhase.FOUND, world.name_of(p))
        case HitPhase.FOUND | HitPhase.BETWEEN:
            p = world.named(hit.probe)
            assert p is not None
            child, following = _next_child(world, hit, p)
            if not arch.ftrace_handle(vcpu.index, regs, p, child):
                return following
        case _:
            p = world.named(hit.probe)
            assert p is not None
            arch.ftrace_done(vcpu.index, regs, p, hit.argument)
    executor.machine.ram.write(hit.at, regs.pack())
    return None


_STEPS: Final = {HitKind.INT3: _int3, HitKind.OPTIMIZED: _optimized, HitKind.FTRACE: _ftrace}
