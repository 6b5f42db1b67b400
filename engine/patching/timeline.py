"""The timeline of a schedule, which tells line by line what happens in it.

There is a lane for the control tasks and one for each vCPU. The timeline also has the text wherever
it changes, and what went wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Final

from engine.control.stepped_plane import SENDS, MachineWait, WaitKind
from engine.hit_phases import HitKind, HitPhase
from engine.patching.control_tree import ControlNode
from engine.patching.exploration import Exploration
from engine.patching.hit_in_progress import Hit
from engine.patching.parked_task import Mode
from engine.patching.stray_stores import changes_outside
from engine.patching.vcpu import VcpuState
from engine.search.actor import Actor, ActorKind
from engine.search.schedule import Segments

__all__ = ("timeline",)

_WIDTH: Final = 46
"""A lane has so many columns.

The place and the text of most instructions fit into a lane, and three lanes fit a wide terminal.
"""
_FEW: Final = 3
"""A run of so many lines in stubs and detour buffers is shown whole.

Of a longer run only the first and the last line are shown, with a line between them that says how
many are left out.
"""
_SHOWN: Final = 8
"""At most so many bytes of changed text are shown.

They hold a jump and what is left of the instruction behind it.
"""
_EVENTS: Final = {
    ActorKind.INTERRUPT: "interrupt",
    ActorKind.NMI: "NMI",
    ActorKind.PREEMPTION: "interrupt; on its return the task is preempted",
    ActorKind.SWITCH: "schedule(): another task",
}

_KINDS: Final = {
    HitKind.INT3: "hit by breakpoint",
    HitKind.OPTIMIZED: "hit by jump",
    HitKind.FTRACE: "hit by ftrace",
}
_PIECES: Final = {
    HitPhase.TRAP: "looks for its probe",
    HitPhase.POKE: "asks the protocol where to go on",
    HitPhase.FOUND: "runs the first handler",
    HitPhase.BETWEEN: "runs the next handler",
    HitPhase.HANDLED: "sets where to go on",
    HitPhase.NOTIFY: "asks the other users of breakpoints",
}
"""What the piece of a hit does that comes next."""
_NO_PROBE: Final = "finds no probe"
"""What the piece behind a breakpoint's trap does where no probe is: the breakpoint ends a single
step, or was removed meanwhile, or is nobody's.
"""
_ANSWERED: Final = {
    WaitKind.SYNC: "every CPU has answered",
    WaitKind.DEFERRABLE_SYNC: "every CPU that was not in user mode has answered",
}
"""What is so when a core sync is over."""
_WHOSE: Final = "looks whose breakpoint it is"


def timeline(system: Exploration, segments: Segments) -> Iterator[str]:
    """Replay ``segments``, and yield the lines of the timeline.

    A long run of instructions in stubs and detour buffers is cut short.
    """
    heads = ["control", *(f"cpu {vcpu.index}" for vcpu in system.vcpus)]
    yield "  ".join(head.ljust(_WIDTH) for head in heads).rstrip()
    for (column, _), group in groupby(
        _events(system, segments), key=lambda event: (event[0], event[2])
    ):
        events = list(group)
        dull = events[0][2]
        lines = [text for _, text, _ in events]
        if dull and len(lines) > _FEW:
            lines = [lines[0], f"... {len(lines) - 2} more steps ...", lines[-1]]
        for text in lines:
            for part in text.split("\n"):
                yield ("  " + " " * _WIDTH) * column + part
    violation = system.violation
    if violation is None:
        yield "no violation"
    else:
        yield f"{violation.kind}: {violation.explain}"


def _events(system: Exploration, segments: Segments) -> Iterator[tuple[int, str, bool]]:
    """Yield for each step its column, its text, and whether that is foreign to the program.

    Foreign steps are those of vCPUs in stubs, slots and detour buffers.
    """
    system.reset()
    for actor, steps in segments:
        left = steps
        while left > 0 and system.choices():
            if actor.kind is ActorKind.CONTROL:
                yield from _control(system, actor)
                left -= 1
            elif actor.kind is ActorKind.VCPU:
                text, dull = _vcpu(system, system.vcpus[actor.index])
                left -= max(1, system.take(actor, 1))
                yield actor.index + 1, text, dull
            elif actor.kind is ActorKind.FETCH:
                system.take(actor, 1)
                left -= 1
                # Only the way in which the vCPU fetches in the end is told.
                if left == 0:
                    vcpu = system.vcpus[actor.index]
                    yield actor.index + 1, f"-- {_fetched(system, vcpu)} --", False
            else:
                yield actor.index + 1, f"-- {_EVENTS[actor.kind]} --", False
                system.take(actor)
                left -= 1
    # The violation may show only in the step that would come next.
    choices = system.choices()
    if choices and system.violation is None:
        actor = choices[0].actor
        if actor.kind is ActorKind.VCPU:
            text, dull = _vcpu(system, system.vcpus[actor.index])
            system.take(actor, 1)
            yield actor.index + 1, text, dull


def _control(system: Exploration, actor: Actor) -> Iterator[tuple[int, str, bool]]:
    before, text = system.node, system.port.text
    over = _sync_of(before, actor)
    answered = "" if over is None else f": {_ANSWERED[over.kind]}"
    yield 0, f"{before.at(actor.index)}{answered}", False
    system.take(actor)
    warned = system.node.state.control.branches.key.warned
    if warned is not None and warned != before.state.control.branches.key.warned:
        yield 0, f"  the kernel warns: {warned}", False
    sites = {site.addr: site for site in system.now.patches} | system.now.sites
    for addr, site in sorted(sites.items()):
        size = max(text.facts.jump_size, site.end - addr)
        old, new = text.read(before.version, addr, size), text.read(system.node.version, addr, size)
        if old != new:
            yield (
                0,
                (
                    f"  {system.where(addr)}: {old[:_SHOWN].hex(' ')}\n "
                    f" {' ' * len(system.where(addr))}-> {new[:_SHOWN].hex(' ')}"
                ),
                False,
            )
    if system.experiment.patches and not system.experiment.switched:
        for addr, old, new in changes_outside(text, before, system.node, system.now.patches):
            where, there = system.where(addr), f"{old[:_SHOWN].hex(' ')} -> {new[:_SHOWN].hex(' ')}"
            yield 0, f"  {where}: {there}, which is in no site", False
    wait = _sync_of(system.node, actor)
    # Where stores may be seen late, there is a point in front of the interrupts, which says so.
    if wait is not None and not before.at(actor.index).endswith(f"{SENDS} ({wait.why})"):
        name = system.node.state.plane.tasks[actor.index].name
        yield 0, f"{name}: {SENDS} ({wait.why})", False


def _sync_of(node: ControlNode, actor: Actor) -> MachineWait | None:
    """Return the core sync that the control task ``actor`` waits for; None: it waits for none."""
    wait = node.waits.get(actor.index)
    return wait if wait is not None and wait.kind in _ANSWERED else None


def _fetched(system: Exploration, vcpu: VcpuState) -> str:
    """Return which bytes the vCPU fetches, and which ones the text has there."""
    now, chosen = (system.fetches.ways(vcpu)[number].insn for number in (0, vcpu.chosen))
    size = max(len(now), len(chosen))
    text = system.port.text
    there = text.read(system.node.version, system.port.cpus.ip(vcpu.index), size)
    return f"fetches {chosen.hex(' ')}, where the text has {there.hex(' ')}"


def _vcpu(system: Exploration, vcpu: VcpuState) -> tuple[str, bool]:
    if vcpu.mode is not Mode.CALL:
        return "call", False
    if vcpu.hit is not None:
        return f"{_KINDS[vcpu.hit.kind]}: {_piece(vcpu.hit)}", False
    ways = system.fetches.ways(vcpu)
    insn = ways[vcpu.chosen].insn if ways else None
    text, own = system.port.text.next_instruction(vcpu.index, insn)
    return text, not own


def _piece(hit: Hit) -> str:
    """Return what the piece of ``hit`` does that comes next."""
    if hit.kind is HitKind.INT3:
        if hit.phase is HitPhase.TRAP:
            return _WHOSE
        if hit.phase is HitPhase.FOUND and not hit.probe:
            return _NO_PROBE
    return _PIECES[hit.phase]
