"""A hit, a piece at a time: what lies between two pieces is a choice point.

The pieces and their order are those of :mod:`arch_x86.probes.hit`. What a CPU knows between two of them is kept in a small record that can
be gone back to, with probes by name, since another control state, which has probes of its own, may have come meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from arch_x86.emu.cpu import Cpu
from arch_x86.emu.execute import Executor
from arch_x86.emu.uc import RDI, RSI, RSP
from arch_x86.explore.world import World
from arch_x86.probes.breakpoint import ReentryError
from arch_x86.probes.hit import Hit as LiveHit
from engine.hit import HitKind, HitPhase
from engine.kprobe import KprobeStatus

if TYPE_CHECKING:
    from arch_x86.probes.ptregs import PtRegs
    from arch_x86.probes.stepping import KprobeCtlblk

__all__ = ("NO_HIT", "Block", "Hit", "HitKind", "HitPhase", "advance_hit", "begin_ftrace", "load_block", "store_block")

_BREAKPOINT: Final = 3
Block = tuple[Any, ...]
"""A CPU's :class:`KprobeCtlblk` with probes by name."""
NO_HIT: Final[Block] = (0, KprobeStatus.HIT_ACTIVE.value, 0, 0, (), 0, None)


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
    children = tuple(p for p in map(world.named, hit.children) if p is not None)
    live = LiveHit(hit.kind, cpu, regs, hit.argument, hit.phase, world.named(hit.probe), children)
    try:
        world.arch.traps.hits.advance(live)
    except ReentryError as error:
        executor.end(vcpu, executor.traps.stopped(vcpu, regs, error))
        return None
    if live.phase >= HitPhase.RESUMED:
        _end(executor, vcpu, hit, regs, live.phase)
        return None
    executor.machine.ram.write(hit.at, regs.pack())
    names = tuple(map(world.name_of, live.children))
    return Hit(hit.kind, live.phase, hit.at, world.name_of(live.probe), hit.argument, names)


def _end(executor: Executor, vcpu: Cpu, hit: Hit, regs: PtRegs, phase: HitPhase) -> None:
    """The hit is over: the CPU goes on behind a breakpoint's stub as :class:`arch_x86.emu.traps.Traps` has it, or its call dies."""
    if phase is HitPhase.REFUSED:
        fault = executor.traps.refuse(vcpu, _BREAKPOINT, hit.at, regs)
        if fault is not None:
            executor.end(vcpu, fault)
    elif hit.kind is HitKind.INT3:
        executor.traps.resume(vcpu, hit.at, regs)
    else:
        executor.machine.ram.write(hit.at, regs.pack())
