"""The calls without probes: what each leaves, for the result oracle, and what the tasks have in common (:mod:`arch_x86.explore.apart`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from arch_x86.emu.execute import Executor
from arch_x86.emu.fault import FaultKind
from arch_x86.explore.apart import own_writes
from arch_x86.isa.constants import PAGE_SIZE
from arch_x86.lab.calls import CallFrame
from engine.errors import UnprobedFault
from engine.kretprobe import Kretprobe

__all__ = ("Unprobed", "own_spans", "refuse_bad_calls", "run_unprobed")

Calls = dict[int, tuple[CallFrame, int]]
"""Of each task, its call and how often it makes it. Tasks ``2n`` and ``2n + 1`` are those of vCPU ``n``."""
Outcome = tuple[Any, ...]


@dataclass(slots=True)
class Unprobed:
    """What was seen.

    :ivar outcomes: of each task, what each of its calls left.
    :ivar shares: a call wrote to memory that another one might read.
    :ivar alike: all calls retire as many instructions, and leave the same in their buffers.
    :ivar entries: of each address that was asked for, how often one call came there at the most.
    """

    outcomes: dict[int, list[Outcome]] = field(default_factory=dict[int, list[Outcome]])
    shares: bool = False
    alike: bool = True
    entries: dict[int, int] = field(default_factory=dict[int, int])

    def instances_suffice(self, returns: Iterable[Kretprobe], calls: int) -> bool:
        """No call finds the instances of a return probe taken, even if so many ``calls`` are under way at once, each wherever it gets."""
        return all(rp.kp.addr is None or rp.maxactive >= calls * self.entries.get(rp.kp.addr, 1 << 30) for rp in returns)


def refuse_bad_calls(executor: Executor, calls: Calls, stacks: dict[int, int], limit: int) -> None:
    """Make all calls as :func:`run_unprobed` does, at full speed: recording what one does takes a hundred times as long, and of one that
    does not end it takes for ever. The caller restores the machine.

    :raises UnprobedFault: a call dies, or retires ``limit`` instructions without coming to its end.
    """
    for number, (frame, times) in calls.items():
        cpu = number // 2
        task = executor.machine.tasks[cpu]
        first = task.stack_top
        task.stack_top = stacks.get(number, first)
        for made in range(times):
            executor.begin_call(cpu, frame.addr, frame.integers, frame.floats)
            fault = executor.run_call(cpu, limit)
            if fault is None:
                continue
            which = "unprobed call" if made == 0 else f"unprobed call, made {made + 1} times,"
            if fault.kind is FaultKind.INSTRUCTION_LIMIT:
                raise UnprobedFault(f"the {which} does not end: it is at {fault.place} after {limit:,} instructions")
            raise UnprobedFault(f"the {which} ends in a guest fault at {fault.place} ({fault.rip:#x}): {fault.kind}: {fault.explain}")
        task.stack_top = first


def run_unprobed(
    executor: Executor, calls: Calls, stacks: dict[int, int], limit: int, outcome: Callable[[int], Outcome], entries: Iterable[int]
) -> Unprobed:  # fmt: skip
    """Make all calls, one task after the other. The caller restores the machine.

    :param stacks: tops of the stacks of those tasks that do not have their vCPU's.
    :param outcome: what the last call of a task has left: registers, vectors, x87, then what does not depend on where its stack lies.
    :param entries: addresses to count.
    """
    machine = executor.machine
    seen = Unprobed(entries=dict.fromkeys(entries, 0))
    ways: list[list[tuple[Any, ...]]] = []
    for number, (frame, times) in calls.items():
        cpu = number // 2
        task, uc = machine.tasks[cpu], machine.cpus[cpu].uc
        first = task.stack_top
        task.stack_top = stacks.get(number, first)
        writes, outcomes, way = set[tuple[int, int]](), list[Outcome](), list[tuple[Any, ...]]()
        for _ in range(times):
            counts = dict.fromkeys(seen.entries, 0)
            uc.record(writes, counts)
            executor.begin_call(cpu, frame.addr, frame.integers, frame.floats)
            executor.run_call(cpu, limit)
            uc.stop_recording()
            outcomes.append(outcome(number))
            way.append((machine.cpus[cpu].retired - task.started, *outcomes[-1][3:]))
            seen.entries = {addr: max(most, counts[addr]) for addr, most in seen.entries.items()}
        seen.outcomes[number] = outcomes
        ways.append(way)
        seen.shares = seen.shares or not own_writes(writes, own_spans(executor, calls, number, task.stack_top))
        task.stack_top = first
    longest = max(ways, key=len)
    seen.alike = all(way == longest[: len(way)] for way in ways)
    return seen


def own_spans(executor: Executor, calls: Calls, number: int, top: int) -> Iterator[range]:
    """Physical spans of what only task ``number`` has: its stack, which ends at ``top``, and its buffers."""
    machine = executor.machine
    spans = [(top - PAGE_SIZE * machine.config.stack_pages, PAGE_SIZE * machine.config.stack_pages)]
    spans += [(addr, len(content)) for addr, content in calls[number][0].buffers]
    for addr, size in spans:
        at, end = addr, addr + size
        while at < end:
            stop = min(end, (at // PAGE_SIZE + 1) * PAGE_SIZE)
            phys = machine.ram.physical(at)
            if phys is not None:
                yield range(phys, phys + stop - at)
            at = stop
