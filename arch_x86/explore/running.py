"""The vCPUs of an exploration: each runs to its next choice point, and the oracles look at what it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from arch_x86.emu.cpu import TRAPS, Cpu, ExitReason, NmiPhase
from arch_x86.emu.entry import wrong_call, wrong_entry, wrong_step
from arch_x86.emu.execute import Executor
from arch_x86.emu.machine import Machine
from arch_x86.emu.nested import NestedCall
from arch_x86.emu.task import TaskState
from arch_x86.explore.hit import (
    NO_HIT,
    Hit,
    HitKind,
    HitPhase,
    advance_hit,
    begin_ftrace,
    begin_int3,
    begin_optimized,
    load_block,
    store_block,
)
from arch_x86.explore.lane import Interrupted, Lane, Mode
from arch_x86.explore.oracles import FreedOracle, ResultOracle, Site, TornOracle
from arch_x86.explore.orders import Left, Orders, add_call, how_it_died, name_of
from arch_x86.explore.parking import park, switch_to
from arch_x86.explore.passes import Pass
from arch_x86.explore.returns import NO_CALLS, OpenCalls, load_calls, store_calls
from arch_x86.explore.waits import Waits
from arch_x86.explore.witness import Witness
from arch_x86.explore.world import ControlCodes, Node, World
from arch_x86.isa.constants import FLAG_IF, FLAG_TF
from arch_x86.lab.calls import CallFrame
from arch_x86.probes.ftrace_site import FTRACE_SIZE_MAX, FtraceInsn
from engine.core.profiles import Profile
from engine.kprobe import AggrKprobe, Method
from engine.search.explorable import Coverage, Violation, ViolationKind

__all__ = ("CpuSide", "Plan")

_BIG: Final = 1 << 40
_ODD, _ODDER, _MASK = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, (1 << 64) - 1
_WAYS: Final = {Method.BOOSTED: "boosted", Method.INT3: "stepped"}
_CALLBACK, _INT3_STUB, _DEBUG_STUB, _FTRACE_CALLER = "optimized_callback", "exception:3", "exception:1", "ftrace_caller"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What happens in a scenario.

    :ivar calls: of each task, its call and how often it makes it. The tasks of vCPU ``n`` are ``2n`` and, with ``preempt``, ``2n + 1``.
    :ivar code: makes the control tasks, by name, for each control state.
    :ivar interrupts: external interrupts may come at every boundary that is a choice point.
    :ivar nmis: NMIs, too.
    :ivar preempt: each vCPU has a second task, which makes the call once, and an interrupt may give it the CPU.
    :ivar resched: in front of the instructions at these addresses a task calls ``schedule()``.
    :ivar asleep: in front of the instructions at these addresses a task falls asleep in the middle of its call, and nobody wakes it.
    :ivar reduce: choice points are where something of the vCPU meets somebody else's doing; else at every instruction.
    :ivar apart: with ``reduce``, of tasks that share nothing one at a time is in the middle of its call (:mod:`arch_x86.explore.apart`).
    :ivar points: ``stores``: control tasks also stop in front of their stores to what hits read without a lock.
    :ivar limit: most instructions of one call.
    :ivar restores: after the last control task has ended the text has to be the original.
    """

    calls: dict[int, tuple[CallFrame, int]]
    code: ControlCodes
    profile: Profile
    interrupts: bool = True
    nmis: bool = False
    preempt: bool = False
    resched: frozenset[int] = frozenset()
    asleep: frozenset[int] = frozenset()
    reduce: bool = True
    apart: bool = True
    points: str = "locks"
    limit: int = 1_000_000
    restores: bool = True


class CpuSide:
    """The vCPUs, and what is known of the places where it matters what they do.

    :ivar violation: the first thing that went wrong in the present state.
    :ivar node: the control state that the vCPUs see.
    :ivar points: names, of 64 bits, of the pairs of a vCPU's position and a control state that were met.
    :ivar orders: where calls share data, what they may leave; ``left``: what they have left so far, by name.
    """

    node: Node

    def __init__(self, machine: Machine, executor: Executor, plan: Plan) -> None:
        self.machine = machine
        self.executor = executor
        self.plan = plan
        self.coverage = Coverage()
        self.points: set[int] = set()
        self.violation: Violation | None = None
        layout = machine.layout
        self._buffers = range(layout.slots, layout.detours + layout.detours_size)
        self.lanes = [Lane(cpu.index) for cpu in machine.cpus]
        self._waits = Waits(self.lanes, self._takes_interrupt, self._tasks_of, self._stops)
        self.torn = TornOracle(machine.text.store, self.where)
        self.freed = FreedOracle(self.where)
        self.witness = Witness(machine, plan.profile, self.where)
        self.results = ResultOracle()
        self._sites: dict[int, Site] = self.torn.sites
        self._watched: set[int] = set()
        self._new_watches: list[tuple[int, int]] = []
        for addr in plan.resched | plan.asleep:
            self._watch(addr, addr + 1)
        self._methods: set[str] = set()
        self._golden: dict[int, list[tuple[Any, ...]]] = {}
        self.calls: OpenCalls = NO_CALLS
        self.orders: Orders | None = None
        self.left: Left = {}
        self._handler_length = executor.handler_length(machine.cpus[0])

    def where(self, addr: int) -> str:
        """An address as people name it."""
        found = self.machine.kallsyms.lookup(addr)
        if found is not None:
            return f"{found[0].name}+{found[1]:#x}"
        if addr in self._buffers:
            layout = self.machine.layout
            return f"{'slot' if addr < layout.detours else 'detour buffer'} {addr:#x}"
        return f"{addr:#x}"

    # Places -----------------------------------------------------------------------------------------------------------

    def _learn_places(self, node: Node) -> None:
        """A new control state: its sites, jumps and buffers, and what of them to watch."""
        image, arch = self.machine.image, node.world.arch
        for number, p in enumerate(node.world.control.probes):
            if p.addr is None:
                continue
            entry = node.world.core.get_kprobe(p.addr)
            if entry is None and p.addr not in self._sites:
                continue  # refused, or not there yet: nothing is written for it
            size = entry.optinsn.size if isinstance(entry, AggrKprobe) and entry.optinsn is not None else 0
            site = self._sites.get(p.addr)
            if site is None or site.end < p.addr + size:
                site = self.torn.learn(p.addr, arch.originals(image, p.addr, size))
                self._watch(site.addr, site.end + 1)
            site.probes.add(number)
            if entry is not None and isinstance(entry.ainsn, FtraceInsn):
                site.calls.add(entry.ainsn.call)
            elif entry is not None and entry.ainsn is not None and not site.jumps:
                self._methods.add(_WAYS.get(arch.method_of(entry), "int3"))
            if isinstance(entry, AggrKprobe) and entry.optinsn is not None:
                site.jumps.add(entry.optinsn.jump)
        for start, end in arch.watch_ranges():
            self._watch(start, end)

    def _watch(self, start: int, end: int) -> None:
        """Each address is watched once, or it would stop a run that starts there."""
        for addr in range(start, end):
            if addr not in self._watched:
                self._watched.add(addr)
                if self._new_watches and self._new_watches[-1][1] == addr:
                    self._new_watches[-1] = (self._new_watches[-1][0], addr + 1)
                else:
                    self._new_watches.append((addr, addr + 1))

    def _install_watches(self) -> None:
        for cpu in self.machine.cpus:
            for start, end in self._new_watches:
                cpu.uc.watch(start, end)
            cpu.uc.flush_translations()
        self._new_watches.clear()

    def _outcome(self, task: int) -> tuple[Any, ...]:
        """What a call of ``task`` has left: registers, flags, vectors, x87, buffers, fault."""
        vcpu = self.machine.cpus[task // 2]
        buffers = tuple(self.machine.ram.read(addr, len(content)) for addr, content in self.plan.calls[task][0].buffers)
        fault = self.machine.tasks[task // 2].fault
        return (vcpu.registers(), vcpu.uc.vector_state(), vcpu.uc.fpu_state(), buffers, fault and fault.kind)

    # vCPUs ------------------------------------------------------------------------------------------------------------

    def _takes_interrupt(self, cpu: int) -> bool:
        """It would take one where it stands; the handlers behind a jump run with IF as the code that they interrupt has it."""
        lane, vcpu = self.lanes[cpu], self.machine.cpus[cpu]
        if lane.nmi:
            return False
        return lane.mode is not Mode.CALL or (bool(vcpu.rflags & FLAG_IF) and not vcpu.in_shadow)

    def _preempts(self, cpu: int) -> bool:
        """The return of an interrupt may give it to another task: not in a hit, whose handlers run with preemption off."""
        return self.plan.preempt and self.lanes[cpu].hit is None and self._takes_interrupt(cpu)

    def _interrupt(self, lane: Lane) -> None:
        """An interrupt. In the middle of a hit its handler runs to its end at once: none of the probed code, or of ours, runs in it."""
        cpu = self.machine.cpus[lane.index]
        self.executor.interrupt(lane.index)
        if lane.hit is not None:
            cpu.run(self._handler_length)

    def _tasks_of(self, cpu: int) -> frozenset[int]:
        lane = self.lanes[cpu]
        away = (*lane.parked, *lane.asleep) if self.plan.preempt else lane.parked  # else it is synchronize_sched()
        inside = {one.task for one in away if one.in_call}
        return frozenset(inside if lane.off_call else inside | {lane.task})

    def _stops(self, cpu: int) -> bool:
        """``stop_machine`` can park it: at a quiescent point; where tasks can be preempted, wherever one can be."""
        return self.lanes[cpu].quiescent or self._preempts(cpu)

    def _is_parked(self, lane: Lane) -> bool:
        """``stop_machine`` has it, or would have it here; an NMI goes on."""
        waits = self._waits
        return not lane.nmi and (self.node.stopped or (bool(waits.left) and waits.stopping and self._stops(lane.index)))

    def _preempt(self, lane: Lane) -> None:
        """An interrupt, which on its return gives the CPU to the other task."""
        cpu = self.machine.cpus[lane.index]
        rip = cpu.rip
        self.executor.interrupt(lane.index)
        cpu.run(self._handler_length - 1)
        self._switch(lane, rip)

    def _switch(self, lane: Lane, resume: int) -> None:
        gone, following = park(self.machine, lane, resume), lane.parked[0]
        switch_to(self.machine, lane, following)
        lane.parked = (*lane.parked[1:], gone) if gone.mode is not Mode.DONE else lane.parked[1:]
        self._waits.quiescent(lane.index)
        if self._waits.left:
            self._waits.ran(lane)

    def _run(self, lane: Lane, most: int | None, *, alone: bool) -> int:
        """To the next choice point, at least a step; at most ``most``."""
        if most is None and not self.plan.reduce and not alone:
            most = 1
        self.witness.lane = lane
        left = _BIG if most is None else most
        began, name = lane.position, self.node.name + lane.index * _ODDER
        while left > 0:
            awaited = self._is_awaited(lane)
            steps, stop = self._stretch(lane, 1 if awaited else left)
            stop = stop or (awaited and self._takes_interrupt(lane.index))
            left -= steps
            lane.position += steps
            if self.violation is not None:
                break
            if stop:
                # Alone: all that could be chosen here costs something, unless it stands in schedule(), is between calls, or is parked.
                if not alone or lane.quiet or lane.mode is not Mode.CALL or self._is_parked(lane):
                    break
                if self._waits.left:
                    self._waits.ran(lane)
                self.points.add((name + lane.position * _ODD) & _MASK)
        if self._waits.left:
            self._waits.ran(lane)
        self.points.add((name + lane.position * _ODD) & _MASK)
        return lane.position - began

    def _is_awaited(self, lane: Lane) -> bool:
        """Somebody can tell when this vCPU, with IF clear, comes to take an interrupt, be it where nobody else could tell where it is:
        a core sync waits for that, or the interrupt may give the vCPU to another task."""
        asked = self.plan.reduce and (self.plan.preempt or (bool(self._waits.left) and self._waits.syncs_with(lane.index)))
        if not asked or lane.mode is not Mode.CALL or lane.nmi or lane.hit is not None or self._takes_interrupt(lane.index):
            return False
        rip = self.machine.cpus[lane.index].rip
        return not (rip in self._buffers or rip in self.machine.stubs.frames)  # there each place where IF is set again is a choice point

    def _stretch(self, lane: Lane, limit: int) -> tuple[int, bool]:
        """Steps made, and whether this is a choice point."""
        cpu = self.machine.cpus[lane.index]
        if lane.mode is not Mode.CALL and not lane.nmi:
            self._begin_call(lane)
            return 1, False
        if lane.hit is not None:
            self._advance_hit(lane)
            return 1, True
        lane.quiet = lane.quiet and lane.nmi
        self._look(lane)
        if self.violation is not None:
            return 1, True  # the step that it would have been
        reason, retired = cpu.run(limit)
        if reason is ExitReason.EXCEPTION and cpu.vector not in TRAPS:
            retired += 1  # a faulting instruction is one step, also where the run did not begin with it: a schedule has to mean the same
        match reason:
            case ExitReason.WATCH | ExitReason.BUDGET:
                stop = reason is ExitReason.WATCH or cpu.rip in self._watched
                if cpu.rip in self.plan.resched and not lane.nmi:
                    self._schedules(lane)
                if cpu.rip in self.plan.asleep and not lane.nmi:
                    self._falls_asleep(lane)
            case ExitReason.HYPERCALL:
                stop = self._hypercall(lane)
            case _:
                stop = self._exit(lane, reason)
        if cpu.retired - self.machine.tasks[lane.index].started > self.plan.limit and lane.mode is Mode.CALL:
            self.executor.limit_reached(lane.index, self.plan.limit)
            self._died(lane)
        return max(retired, 1), stop

    def _look(self, lane: Lane) -> None:
        """Before the instruction at RIP: is it whole, and is it a site's?"""
        cpu = self.machine.cpus[lane.index]
        rip = cpu.rip
        if rip in self._buffers:
            self.violation = self.freed.check(lane.index, rip, self.node.world.arch.in_use)
            return
        if rip in self.machine.stubs.frames:
            return
        if lane.passing is not None:
            self._pass_over(lane)
        near = self._near(rip)
        if near is None:
            return
        self.violation = self.violation or self.torn.check(cpu)
        site = self._sites.get(rip)
        if site is not None:
            fetched = self.machine.text.store.read(cpu.view, rip, FTRACE_SIZE_MAX)
            busy = lane.interrupted is not None and lane.interrupted.busy
            lane.passing = Pass(rip, site.armed(fetched), busy, self.node.lives)

    def _near(self, rip: int) -> Site | None:
        for site in self._sites.values():
            if site.addr <= rip < site.end:
                return site
        return None

    def _pass_over(self, lane: Lane) -> None:
        assert lane.passing is not None
        self.witness.passed(self._sites[lane.passing.addr])
        self.violation = self.violation or self.witness.verdict() or self._still_in_hit(lane)
        lane.passing, lane.stepping = None, False

    def _still_in_hit(self, lane: Lane) -> Violation | None:
        """A hit is over: the CPU's record of it has to be what it was before."""
        before = NO_HIT if lane.interrupted is None else lane.interrupted.block
        if lane.block == before:
            return None
        rip = self.machine.cpus[lane.index].rip
        text = f"CPU {lane.index} goes on at {self.where(rip)}, and its record says that it is still in the last hit"
        return Violation(ViolationKind.INVARIANT, lane.index, rip, text)

    # NMIs -------------------------------------------------------------------------------------------------------------

    def _deliver_nmi(self, lane: Lane) -> None:
        """Its handler runs the workload's function. An idle CPU takes it on the empty stack of its task."""
        cpu, task = self.machine.cpus[lane.index], self.machine.tasks[lane.index]
        if lane.mode is not Mode.CALL:
            cpu.rip = self.machine.stubs.call_return
            cpu.uc.set_stack_and_flags(task.stack_top - 64, FLAG_IF)
        cpu.nmi = NmiPhase.NONE
        vectors = cpu.uc.vector_state() + cpu.uc.fpu_state() if lane.mode is Mode.CALL else b""
        if self.executor.deliver_nmi(lane.index):
            lane.interrupted = Interrupted(lane.hit, lane.passing, lane.stepping, lane.block, vectors)
            lane.nmi, lane.hit, lane.passing, lane.stepping = True, None, None, False

    def _nmi_handler(self, lane: Lane) -> None:
        frame, _ = self.plan.calls[lane.task if lane.mode is Mode.CALL else 2 * lane.index]
        cpu = self.machine.cpus[lane.index]
        lane.nested = NestedCall(self.machine, cpu)
        lane.nested.enter(frame.addr, frame.integers)
        self._must_be_well(cpu, wrong_call(cpu))

    def _nmi_over(self, lane: Lane) -> None:
        """The function has returned: on to the end of the stub, and to what was interrupted."""
        cpu = self.machine.cpus[lane.index]
        assert lane.nested is not None
        assert lane.interrupted is not None
        if lane.passing is not None:
            self._pass_over(lane)
        lane.nested.leave(died=False)
        cpu.run(sum(addr >= cpu.rip for addr in self.machine.stubs.frames))
        cpu.nmi = NmiPhase.NONE
        hit, passing, stepping, _, _ = lane.interrupted
        lane.nmi, lane.nested, lane.interrupted = False, None, None
        lane.hit, lane.passing, lane.stepping = hit, passing, stepping
        if lane.quiescent:
            self._waits.quiescent(lane.index)

    def _begin_call(self, lane: Lane) -> None:
        frame, _ = self.plan.calls[lane.task]
        self.executor.begin_call(lane.index, frame.addr, frame.integers, frame.floats)
        lane.mode = Mode.CALL
        lane.calls += 1

    def _hypercall(self, lane: Lane) -> bool:
        cpu = self.machine.cpus[lane.index]
        name = self.machine.stubs.hypercalls.get(cpu.rip)
        if name == _INT3_STUB:
            lane.hit = begin_int3(cpu)
            self._look_at_entry(cpu)
        elif name == _CALLBACK:
            lane.hit = begin_optimized(cpu)
            self._look_at_entry(cpu)
        elif name == _FTRACE_CALLER:
            lane.hit = begin_ftrace(self.executor, cpu)
            self._look_at_entry(cpu)
        elif name == "nmi":
            self._nmi_handler(lane)
        elif name == "nested_return" and lane.nested is not None:
            self._nmi_over(lane)
        else:
            return self._exit(lane, ExitReason.HYPERCALL, name)
        return True

    def _look_at_entry(self, cpu: Cpu) -> None:
        """A stub asks for handlers: are things as they may expect?"""
        self._must_be_well(cpu, wrong_entry(self.machine, cpu))

    def _must_be_well(self, cpu: Cpu, wrong: str | None) -> None:
        """``wrong``: what is not as it should be where ``cpu`` stands, if anything."""
        if wrong is not None and self.violation is None:
            self.violation = Violation(ViolationKind.INVARIANT, cpu.index, cpu.rip, f"CPU {cpu.index}: {wrong}")

    def _exit(self, lane: Lane, reason: ExitReason, name: str | None = None) -> bool:
        """Whatever else ends a run is the executor's. True: a choice point."""
        world, index = self.node.world, lane.index
        if self._goes_on_freed(lane):
            return True
        self._load(world, lane)
        self._handle(world, lane, reason, name)
        state = self.machine.tasks[index].state
        ended = name == "call_return" and lane.mode is Mode.CALL
        if ended:
            self.violation = self.violation or self._still_in_hit(lane)
        if ended or state is TaskState.FAULTED:
            world.arch.call_ended(index)
        self._store(world, lane)
        if name == "trampoline":
            self.violation = self.violation or self.witness.calls.balanced(index, lane.task, self.calls)
        if state is TaskState.FAULTED:
            self._died(lane)
            return True
        if ended:
            self._ended(lane)
            return True
        if name == "schedule":
            self._schedules(lane)
            return True
        return reason is not ExitReason.EXCEPTION

    def _handle(self, world: World, lane: Lane, reason: ExitReason, name: str | None) -> None:
        """The executor does what has to be done, and is watched."""
        cpu, witness = self.machine.cpus[lane.index], self.witness
        returning = witness.call_returns() if name == "trampoline" else None
        if returning is not None:
            self._look_at_entry(cpu)
        missed = witness.misses(world)
        self.executor.handle_exit(cpu, reason)
        witness.missed(world, missed)
        if returning is not None and self.machine.tasks[lane.index].state is not TaskState.FAULTED:
            witness.call_returned(returning)
        if name == _DEBUG_STUB:
            lane.stepping = False
        self.violation = self.violation or witness.verdict()

    def _schedules(self, lane: Lane) -> None:
        """Its task calls ``schedule()``: a quiescent point, until it goes on."""
        lane.quiet = True
        self._waits.quiescent(lane.index)
        self._waits.task_passed(lane.task)

    def _falls_asleep(self, lane: Lane) -> None:
        """Its task goes off the CPU where it stands, without a call of ``schedule()`` that would count, and for ever."""
        lane.asleep = (*lane.asleep, park(self.machine, lane, self.machine.cpus[lane.index].rip))
        lane.mode, lane.passing = Mode.DONE, None
        if lane.parked:
            switch_to(self.machine, lane, lane.parked[0])
            lane.parked = lane.parked[1:]
        self._waits.quiescent(lane.index)

    def _load(self, world: World, lane: Lane) -> None:
        """What the kprobes layer knows of this CPU, into the core of the present control state."""
        load_block(world, lane.index, lane.block)
        if world.control.returns:
            world.arch.tasks[lane.index] = lane.task
            load_calls(world, self.calls)

    def _store(self, world: World, lane: Lane) -> None:
        """And back."""
        lane.block = store_block(world, lane.index)
        if world.control.returns:
            self.calls = store_calls(world)

    def _goes_on_freed(self, lane: Lane, probe: int = 0) -> bool:
        """A hit goes on: with the probe of that name, and the one that the CPU says it is in, if it does."""
        for name in {probe, lane.block[0]}:
            self.violation = self.violation or self.freed.check_probe(lane.index, self.node.world.named(name))
        return self.violation is not None

    def _advance_hit(self, lane: Lane) -> None:
        world, index, hit = self.node.world, lane.index, lane.hit
        assert hit is not None
        if self._goes_on_freed(lane, hit.probe):
            return
        self._load(world, lane)
        missed, flags = self.witness.misses(world), self._flags_of(hit)
        lane.hit = advance_hit(self.executor, world, index, hit)
        self.witness.missed(world, missed)
        self.violation = self.violation or self.witness.verdict()
        self._store(world, lane)
        if hit.phase is HitPhase.FOUND and not hit.probe:
            lane.stepping = False  # a breakpoint behind the copy has ended the step, if there was one
        if self.machine.tasks[index].state is TaskState.FAULTED:
            self._died(lane)
        elif hit.phase is HitPhase.HANDLED:
            self._note_method(lane, hit, flags)

    def _flags_of(self, hit: Hit) -> int:
        """RFLAGS of what was hit, while a hit in progress has not changed them."""
        return self.executor.traps.regs_at(hit.at).flags if hit.phase is HitPhase.HANDLED and hit.kind is HitKind.INT3 else 0

    def _note_method(self, lane: Lane, hit: Hit, flags: int) -> None:
        """The handlers of a hit have run, and it goes on: coverage, and whether a single step begins.

        :param flags: what RFLAGS were until now.
        """
        if hit.kind is HitKind.OPTIMIZED:
            self.coverage.jump += 1
            return
        if hit.kind is HitKind.FTRACE:
            self.coverage.ftrace += 1
            return
        self.coverage.int3 += 1
        regs = self.executor.traps.regs_at(hit.at)
        layout = self.machine.layout
        if regs.ip in range(layout.slots, layout.slots + layout.slots_size):
            if regs.flags & FLAG_TF or flags & FLAG_IF:
                stepped = bool(regs.flags & FLAG_TF) or not regs.flags & FLAG_IF
            else:  # interrupts were off anyway: a step is what the CPU's block says is under way
                stepped = bool(lane.block[0])
            lane.stepping = stepped
            if lane.block[0]:  # else the hit is over: its copy is boosted
                self._must_be_well(self.machine.cpus[lane.index], wrong_step(regs.flags))
            self.coverage.stepped += stepped
            self.coverage.boosted += not stepped

    def _ended(self, lane: Lane) -> None:
        """A call has returned."""
        if lane.passing is not None:
            self._pass_over(lane)
        frame, times = self.plan.calls[lane.task]
        violation = self._judge(lane, frame.addr, self._outcome(lane.task))
        self.violation = self.violation or violation
        self.witness.call_ended()
        self.violation = self.violation or self.witness.verdict()
        lane.mode = Mode.DONE if lane.calls >= times else Mode.IDLE
        self._waits.quiescent(lane.index)
        self._waits.task_passed(lane.task)

    def _judge(self, lane: Lane, addr: int, got: tuple[Any, ...]) -> Violation | None:
        """A call of ``addr`` has left ``got``: is that what it leaves without probes?"""
        if self.orders is None:
            return self.results.check(lane, addr, got, self._golden[lane.task][lane.calls - 1])
        name = name_of(got)
        self.left = add_call(self.left, lane.task, name)
        return self.orders.check_call((lane.task, lane.calls - 1), addr, name, got)

    def _dies_unprobed(self, lane: Lane, outcome: tuple[Any, ...]) -> bool:
        """A call that shares data has died with ``outcome``: does it die so in some order without probes? If so, others go on."""
        return self.orders is not None and self._judge(lane, 0, outcome) is None

    def _died(self, lane: Lane) -> None:
        lane.mode = Mode.DONE
        lane.hit = None
        fault = self.machine.tasks[lane.index].fault
        assert fault is not None
        if self.violation is not None:
            return
        rip = self.machine.cpus[lane.index].rip
        if fault.rip in self._buffers and not self.node.world.arch.in_use(fault.rip):
            self.violation = self.freed.check(lane.index, fault.rip, self.node.world.arch.in_use)
        if self.violation is not None:
            return
        if self._dies_unprobed(lane, how_it_died(fault, self._outcome(lane.task)[3])):
            lane.passing = None
            self._waits.quiescent(lane.index)
            self._waits.task_passed(lane.task)
        else:
            text = f"CPU {lane.index} at {fault.place}: {fault.kind}: {fault.explain}"
            self.violation = Violation(ViolationKind.GUEST_FAULT, lane.index, fault.rip or rip, text)
