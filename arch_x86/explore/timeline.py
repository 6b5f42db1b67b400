"""A schedule, line by line: a lane for the control tasks and one for each vCPU, the text whenever it changes, and what went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from arch_x86.explore.lane import Lane, Mode
from arch_x86.explore.system import X86System
from arch_x86.isa.constants import MAX_INSN_SIZE
from arch_x86.isa.decode import decode
from arch_x86.isa.disasm import disassemble
from engine.search.schedule import Segments

__all__ = ("timeline",)

_WIDTH = 46
_FEW = 3
_SHOWN = 8


def timeline(system: X86System, segments: Segments) -> Iterator[str]:
    """Replay ``segments`` and tell. Runs of instructions in stubs and detour buffers are one line."""
    heads = ["control", *(f"cpu {lane.index}" for lane in system.lanes)]
    yield "  ".join(head.ljust(_WIDTH) for head in heads).rstrip()
    for (column, _), group in groupby(_events(system, segments), key=lambda event: (event[0], event[2])):
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


def _events(system: X86System, segments: Segments) -> Iterator[tuple[int, str, bool]]:
    """Column, text, and whether it is of the dull kind."""
    system.reset()
    for actor, steps in segments:
        left = steps
        while left > 0 and system.choices():
            if actor[0] == "c":
                yield from _control(system, actor)
                left -= 1
            elif actor[0].isdigit():
                text, dull = _vcpu(system, system.lanes[int(actor)])
                left -= max(1, system.take(actor, 1))
                yield int(actor) + 1, text, dull
            else:
                name = {"i": "interrupt", "n": "NMI", "p": "interrupt; on its return another task runs", "s": "schedule(): another task"}
                yield int(actor[1:]) + 1, f"-- {name[actor[0]]} --", False
                system.take(actor)
                left -= 1
    choices = system.choices()  # a violation may show only where it would go on
    if choices and system.violation is None:
        actor = choices[0].actor
        if actor.isdigit():
            text, dull = _vcpu(system, system.lanes[int(actor)])
            system.take(actor, 1)
            yield int(actor) + 1, text, dull


def _control(system: X86System, actor: str) -> Iterator[tuple[int, str, bool]]:
    before = system.node
    yield 0, before.at(int(actor[1:])), False
    system.take(actor)
    for site in sorted(system.torn.sites):
        size = max(5, system.torn.sites[site].end - site)
        store = system.machine.text.store
        old, new = store.read(before.version, site, size), store.read(system.node.version, site, size)
        if old != new:
            yield 0, f"  {system.where(site)}: {old[:_SHOWN].hex(' ')}\n  {' ' * len(system.where(site))}-> {new[:_SHOWN].hex(' ')}", False


def _vcpu(system: X86System, lane: Lane) -> tuple[str, bool]:
    if lane.mode is not Mode.CALL:
        return "call", False
    if lane.hit is not None:
        return f"hit: {lane.hit.kind.name.lower()}, {lane.hit.phase.name.lower()}", False
    cpu = system.machine.cpus[lane.index]
    raw = system.machine.text.store.read(cpu.view, cpu.rip, MAX_INSN_SIZE)
    insn = decode(raw, cpu.rip)
    text = disassemble(raw[:1] if insn is None else insn.raw, cpu.rip)
    place = system.where(cpu.rip)
    own = system.machine.kallsyms.lookup(cpu.rip) is not None
    return f"{place if own else _short(system, cpu.rip)}  {text}", not own


def _short(system: X86System, addr: int) -> str:
    stubs = system.machine.stubs
    if addr in stubs.frames:
        starts = {stubs.interrupt: "interrupt", stubs.nmi: "nmi", stubs.schedule: "schedule", stubs.trampoline: "trampoline"}
        starts |= {at: f"exception {vector}" for vector, at in stubs.exceptions.items()}
        starts |= {stubs.optimized_callback: "callback", stubs.ftrace_caller: "ftrace_caller"}
        start = max((at for at in starts if at <= addr), default=addr)
        return f"stub {starts.get(start, '')}+{addr - start:#x}"
    return system.where(addr)
