"""Calls without probes on an x86-64 machine, for the result oracle and for reductions.

They show what each call leaves, and what tasks have in common. The class implements
:class:`engine.patching.unprobed.UnprobedPort`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from arch_x86.emu.execute import Executor
from arch_x86.emu.fault import FaultKind
from arch_x86.explore.cpu_port import X86Cpus
from arch_x86.explore.memory_port import X86Memory
from arch_x86.isa.constants import PAGE_SIZE
from arch_x86.lab.calls import CallFrame
from arch_x86.probes.code import CodeCache
from arch_x86.probes.singlestep import changes_interrupt_flag
from engine.errors import UnprobedFault
from engine.patching.independence import own_writes
from engine.patching.unprobed import CallOutcome, Touched, UnprobedCalls

__all__ = ("X86Unprobed",)


class X86Unprobed:
    """The calls of ``frames``, each made as often as ``times`` says.

    :param stacks: the end of the stack of each task that does not use its vCPU's stack.
    :param limit: the most instructions that a call may retire.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        frames: dict[int, CallFrame],
        times: dict[int, int],
        stacks: dict[int, int],
        limit: int,
        cpus: X86Cpus,
        memory: X86Memory,
    ) -> None:
        self.page_size = PAGE_SIZE
        self._executor = executor
        self._machine = executor.machine
        self._frames = frames
        self._times = times
        self._stacks = stacks
        self._limit = limit
        self._cpus = cpus
        self._memory = memory
        self._code = CodeCache(executor.machine.image)
        layout, stubs = executor.machine.layout, executor.machine.stubs.frames
        self._ours = (
            range(layout.slots, layout.detours + layout.detours_size),
            range(min(stubs), max(stubs) + 1),
        )

    def run_all(self, entries: Iterable[int]) -> UnprobedCalls:
        """Make all calls, one task after the other, and bring the machine back to where it was.

        :param entries: the addresses whose executions are counted.
        :raises UnprobedFault: a call dies, or does not come to its end.
        """
        start = self._memory.save()
        self._refuse_bad_calls()
        self._memory.restore(start)
        seen = self._record(entries)
        self._memory.restore(start)
        return seen

    def _refuse_bad_calls(self) -> None:
        """Make all calls as :meth:`_record` does, at full speed, and refuse what goes wrong.

        To record a call takes a hundred times as long as to make it, so a call that does not end
        would take too long to find there.

        :raises UnprobedFault: a call dies, or retires as many instructions as it may without coming
            to its end.
        """
        for number, frame in self._frames.items():
            cpu = number // 2
            task = self._machine.tasks[cpu]
            first = task.stack_top
            task.stack_top = self._stacks.get(number, first)
            for made in range(self._times[number]):
                self._memory.clear_dead(cpu, live=False)
                self._executor.begin_call(cpu, frame.addr, frame.integers, frame.floats)
                fault = self._executor.run_call(cpu, self._limit)
                if fault is None:
                    continue
                which = "unprobed call" if made == 0 else f"unprobed call, made {made + 1} times,"
                if fault.kind is FaultKind.INSTRUCTION_LIMIT:
                    raise UnprobedFault(
                        f"the {which} does not end: it is at {fault.place} after {self._limit:,}"
                        " instructions"
                    )
                raise UnprobedFault(
                    f"the {which} ends in a guest fault at {fault.place} ({fault.rip:#x}):"
                    f" {fault.kind}: {fault.explain}"
                )
            task.stack_top = first

    def _record(self, entries: Iterable[int]) -> UnprobedCalls:
        """Make all calls, one task after the other, and record what they write, leave and enter."""
        machine = self._machine
        seen = UnprobedCalls(entries=dict.fromkeys(entries, 0))
        ways: list[list[tuple[Any, ...]]] = []
        for number, frame in self._frames.items():
            cpu = number // 2
            task, uc = machine.tasks[cpu], machine.cpus[cpu].uc
            first = task.stack_top
            task.stack_top = self._stacks.get(number, first)
            writes, outcomes, way = (
                set[tuple[int, int]](),
                list[CallOutcome](),
                list[tuple[Any, ...]](),
            )
            for _ in range(self._times[number]):
                counts = dict.fromkeys(seen.entries, 0)
                uc.hooks.record(writes, counts)
                self._memory.clear_dead(cpu, live=False)
                self._executor.begin_call(cpu, frame.addr, frame.integers, frame.floats)
                self._executor.run_call(cpu, self._limit)
                uc.hooks.stop_recording()
                outcomes.append(self._cpus.outcome(number))
                way.append((machine.cpus[cpu].retired - task.started, *outcomes[-1][3:]))
                seen.entries = {
                    addr: max(most, counts[addr]) for addr, most in seen.entries.items()
                }
            seen.outcomes[number] = outcomes
            ways.append(way)
            seen.shares = seen.shares or not own_writes(writes, self._memory.own(number))
            task.stack_top = first
        longest = max(ways, key=len)
        seen.alike = all(way == longest[: len(way)] for way in ways)
        return seen

    # Accesses -------------------------------------------------------------------------------------

    def trace(self, cpu: int, spans: Iterable[tuple[int, int]], touched: Touched) -> None:
        """Tell ``touched`` from now on what the vCPU loads and stores in the physical ``spans``."""
        self._machine.cpus[cpu].uc.hooks.trace(spans, touched)

    def stacks(self, cpu: int) -> list[range]:
        """Return the physical pages of the stacks of all tasks of the vCPU."""
        size = self._machine.config.stack_pages * PAGE_SIZE
        tops = (
            self._machine.tasks[cpu].stack_top,
            *(top for task, top in self._stacks.items() if task // 2 == cpu),
        )
        spans: list[range] = []
        for top in tops:
            for page in range(top - size, top, PAGE_SIZE):
                phys = self._machine.ram.physical(page)
                assert phys is not None
                spans.append(range(phys, phys + PAGE_SIZE))
        return spans

    def pages(self) -> list[int]:
        """Return the physical addresses of all pages of data, stacks included."""
        return [phys for _, phys in self._machine.ram.pages()]

    def is_machines_own(self, addr: int) -> bool:
        """Return whether ``addr`` is in a slot, a detour buffer or a stub of the machine."""
        return any(addr in span for span in self._ours)

    def flag_changes(self, addr: int) -> Iterator[int]:
        """Yield where the function that holds ``addr`` has instructions that change IF."""
        function = self._code.function_at(addr)
        if function is not None:
            yield from (
                insn.addr for insn in function.insns.values() if changes_interrupt_flag(insn)
            )
