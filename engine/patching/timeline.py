"""The timeline of a schedule, which tells line by line what happens in it.

There is a lane for the control tasks and one for each vCPU. The timeline also has the text wherever
it changes, and what went wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Final

from engine.patching.exploration import Exploration
from engine.patching.parked_task import Mode
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
    ActorKind.PREEMPTION: "interrupt; on its return another task runs",
    ActorKind.SWITCH: "schedule(): another task",
}


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
                    insn = system.fetches.ways(vcpu)[vcpu.chosen].insn
                    yield actor.index + 1, f"-- still fetches {insn.hex(' ')} --", False
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
    yield 0, before.at(actor.index), False
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


def _vcpu(system: Exploration, vcpu: VcpuState) -> tuple[str, bool]:
    if vcpu.mode is not Mode.CALL:
        return "call", False
    if vcpu.hit is not None:
        return f"hit: {vcpu.hit.kind.name.lower()}, {vcpu.hit.phase.name.lower()}", False
    ways = system.fetches.ways(vcpu)
    insn = ways[vcpu.chosen].insn if ways else None
    text, own = system.port.text.next_instruction(vcpu.index, insn)
    return text, not own
