"""vCPUs, interrupts and control tasks of one scenario as something that can be explored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

from arch_x86.emu.cpu import FLAG_IF, CpuState, ExitReason
from arch_x86.emu.execute import Executor
from arch_x86.emu.machine import Machine
from arch_x86.emu.task import TaskState
from arch_x86.emu.uc import RSP
from arch_x86.explore.hit import HitKind, HitPhase, advance_hit, begin_int3, begin_optimized, load_block, store_block
from arch_x86.explore.invariants import InvariantOracle
from arch_x86.explore.lane import Lane, Mode
from arch_x86.explore.oracles import FreedOracle, HitOracle, RestoredOracle, Site, TornOracle
from arch_x86.explore.waits import Waits
from arch_x86.explore.world import ControlCode, Node, NodeTree, Stage
from arch_x86.lab.calls import CallFrame
from arch_x86.probes.singlestep import FLAG_TF
from engine.explore.plane import MachineWait
from engine.explore.system import Choice, Coverage, Violation, ViolationKind
from engine.kprobe import AggrKprobe
from engine.profile import Profile

__all__ = ("Plan", "X86System")

_BIG: Final = 1 << 40
_CALLBACK, _INT3_STUB = "optimized_callback", "exception:3"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What happens in a scenario.

    :ivar calls: of each vCPU, its call and how often it makes it.
    :ivar code: the control tasks, by name.
    :ivar interrupts: external interrupts may come at every boundary that is a choice point.
    :ivar nmis: NMIs, too.
    :ivar reduce: choice points are where something of the vCPU meets somebody else's doing; else at every instruction.
    :ivar limit: most instructions of one call.
    :ivar restores: after the last control task has ended the text has to be the original.
    """

    calls: tuple[tuple[CallFrame, int], ...]
    code: tuple[tuple[str, ControlCode], ...]
    profile: Profile
    interrupts: bool = True
    nmis: bool = False
    reduce: bool = True
    limit: int = 1_000_000
    restores: bool = True


class _Saved:
    """A state to go back to."""

    __slots__ = ("cpus", "cur", "lanes", "left", "node", "ram", "tasks", "trace")

    cpus: list[CpuState]
    cur: str
    lanes: list[tuple[Any, ...]]
    left: dict[int, tuple[MachineWait, frozenset[int]]]
    node: Node
    ram: bytes
    tasks: list[tuple[Any, ...]]
    trace: Any


class X86System:
    """One scenario on one machine. See :class:`engine.explore.system.System`."""

    def __init__(self, machine: Machine, executor: Executor, plan: Plan) -> None:
        self.machine = machine
        self.executor = executor
        self.plan = plan
        self.coverage = Coverage()
        self.points: set[tuple[int, int, int]] = set()
        self.violation: Violation | None = None
        self.trace: Any = None
        self.cur = ""
        layout = machine.layout
        self._buffers = range(layout.slots, layout.detours + layout.detours_size)
        self._lanes = [Lane(cpu.index) for cpu in machine.cpus]
        self._waits = Waits(self._lanes, self._takes_interrupt, self._tasks_of)
        store = machine.text.store
        self.torn = TornOracle(store, self.where)
        self.hits = HitOracle(self.where)
        self.freed = FreedOracle(self.where)
        self.restored = RestoredOracle(store, self._buffers.__contains__, self.where)
        self.invariants = InvariantOracle()
        self._sites: dict[int, Site] = self.torn.sites
        self._watched: set[int] = set()
        self._new_watches: list[tuple[int, int]] = []
        self._known_bad: dict[int, Violation] = {}
        self._spare: list[list[CpuState]] = []
        self._lane = self._lanes[0]
        self._tree = NodeTree(Stage(machine, _NoTime(), plan.profile, self._hit, self._missed, plan.code), self._learn)
        self.node = self._tree.root
        self._probes = self._dry_run()
        self._data = _data_spans(machine)
        self._golden = self._run_golden()
        self._start = self._save_machine()
        self.reset()

    def close(self) -> None:
        """End what is under way."""
        self._tree.close()

    def where(self, addr: int) -> str:
        """An address as people name it."""
        found = self.machine.kallsyms.lookup(addr)
        if found is not None:
            return f"{found[0].name}+{found[1]:#x}"
        if addr in self._buffers:
            layout = self.machine.layout
            return f"{'slot' if addr < layout.detours else 'detour buffer'} {addr:#x}"
        return f"{addr:#x}"

    # Setting up -------------------------------------------------------------------------------------------------------

    def _dry_run(self) -> int:
        """Run the control tasks alone, first come first, to meet their sites and buffers. Returns how many probes there are."""
        node = self._tree.root
        while node.tasks:
            node = self._tree.step(node, node.tasks[0]).node
        return len(node.world.control.probes)

    def _learn(self, node: Node) -> None:
        """A new control state: sites, jumps, what to watch, and whether it is sound."""
        bad = self.invariants.check(node)
        if bad is not None:
            self._known_bad[node.number] = bad
        image, arch = self.machine.image, node.world.arch
        for number, p in enumerate(node.world.control.probes):
            if p.addr is None:
                continue
            entry = node.world.core.get_kprobe(p.addr)
            size = entry.optinsn.size if isinstance(entry, AggrKprobe) and entry.optinsn is not None else 0
            site = self._sites.get(p.addr)
            if site is None or site.end < p.addr + size:
                site = Site(p.addr, arch.originals(image, p.addr, size), site.jumps if site else set(), site.probes if site else set())
                self.torn.learn(site)
                self._watch(site.addr, site.end + 1)
            site.probes.add(number)
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

    def _run_golden(self) -> list[list[tuple[Any, ...]]]:
        """The unprobed calls, one vCPU after the other: what each leaves behind."""
        start = self._save_machine()
        golden: list[list[tuple[Any, ...]]] = []
        for lane in self._lanes:
            frame, times = self.plan.calls[lane.index]
            outcomes: list[tuple[Any, ...]] = []
            for _ in range(times):
                self.executor.begin_call(lane.index, frame.addr, frame.integers, frame.floats)
                self.executor.run_call(lane.index, self.plan.limit)
                outcomes.append(self._outcome(lane.index))
            golden.append(outcomes)
        self._restore_machine(start)
        return golden

    def _outcome(self, cpu: int) -> tuple[Any, ...]:
        """What a call has left: registers, flags, vectors, buffers, fault."""
        vcpu = self.machine.cpus[cpu]
        buffers = tuple(self.machine.ram.read(addr, len(content)) for addr, content in self.plan.calls[cpu][0].buffers)
        fault = self.machine.tasks[cpu].fault
        return (vcpu.registers(), vcpu.uc.vector_state(), buffers, fault and fault.kind)

    # State ------------------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """To the start: nothing has happened."""
        self._restore_machine(self._start)
        for lane in self._lanes:
            lane.reset(self._probes)
        self.violation = None
        self.trace = None
        self.cur = ""
        self._waits.left = {}
        self._enter(self._tree.root)

    def _save_machine(self) -> tuple[bytes, list[CpuState], list[tuple[Any, ...]]]:
        machine = self.machine
        if self._spare:
            states = self._spare.pop()
            for cpu, state in zip(machine.cpus, states, strict=True):
                cpu.save_into(state)
        else:
            states = [cpu.save() for cpu in machine.cpus]
        return machine.ram.room[: machine.ram.used], states, [task.save() for task in machine.tasks]

    def _restore_machine(self, saved: tuple[bytes, list[CpuState], list[tuple[Any, ...]]]) -> None:
        machine = self.machine
        ram, states, tasks = saved
        machine.ram.room[: len(ram)] = ram
        for cpu, state in zip(machine.cpus, states, strict=True):
            cpu.restore(state)
        for task, state in zip(machine.tasks, tasks, strict=True):
            task.restore(state)

    def save(self) -> _Saved:
        """The present state."""
        saved = _Saved()
        saved.ram, saved.cpus, saved.tasks = self._save_machine()
        saved.lanes = [lane.save() for lane in self._lanes]
        saved.left = self._waits.left.copy()
        saved.node, saved.cur, saved.trace = self.node, self.cur, self.trace
        return saved

    def restore(self, state: _Saved) -> None:
        """Go back."""
        self._restore_machine((state.ram, state.cpus, state.tasks))
        for lane, saved in zip(self._lanes, state.lanes, strict=True):
            lane.restore(saved)
        self._waits.left = state.left.copy()
        self.cur, self.trace = state.cur, state.trace
        self.violation = None
        self._show(state.node)

    def release(self, state: _Saved) -> None:
        """``state`` is not needed any more."""
        self._spare.append(state.cpus)

    def key(self) -> int:
        """A hash of all that decides what can happen from here: registers, live memory, control state, lanes, waits, who runs."""
        machine = self.machine
        digest = blake2b(digest_size=8)
        room = machine.ram.room
        for cpu, task in zip(machine.cpus, machine.tasks, strict=True):
            uc = cpu.uc
            uc.load()
            digest.update(uc.gpr)
            digest.update(uc.vector_state())
            low = machine.ram.physical(uc.gpr[RSP] - 128)
            top = machine.ram.physical(task.stack_top - 1)
            if low is not None and top is not None:
                digest.update(room[low : top + 1])
        for start, end in self._data:
            digest.update(room[start:end])
        lanes = tuple(lane.key() for lane in self._lanes)
        rips = tuple(cpu.rip for cpu in machine.cpus)
        actor = int(self.cur[-1:] or 0) + (0 if self.cur[:1].isdigit() else 64)
        return hash((int.from_bytes(digest.digest()), rips, lanes, self._waits.key(), self.node.number, actor))

    def _show(self, node: Node) -> None:
        """The vCPUs fetch what ``node`` has as text, and its core takes their traps."""
        self.node = node
        for cpu in self.machine.cpus:
            cpu.view = node.version
        self.machine.trap_handler = node.world.arch
        if self._new_watches:
            self._install_watches()

    def _enter(self, node: Node) -> None:
        self._show(node)
        self._waits.entered(node.waits)
        if self.violation is None:
            self.violation = self._known_bad.get(node.number)

    # Choices ----------------------------------------------------------------------------------------------------------

    def choices(self) -> Sequence[Choice]:
        """How to go on; as before first, where that can be."""
        if self.violation is not None:
            return ()
        cur, found = self.cur, list[Choice]()
        stopping = self._waits.stopping
        runnable = [lane for lane in self._lanes if lane.mode is not Mode.DONE and not (stopping and lane.quiescent)]
        controls = [task for task in self.node.tasks if self._waits.over(task)]
        if not runnable and not controls:
            self._end()
            return ()
        if self.plan.reduce:
            controls = self._who_holds(controls)
        lane = self._lanes[int(cur)] if cur[:1].isdigit() else None
        price = 0
        if lane is not None and lane in runnable:
            found.append(Choice(cur, 0))
            price = 0 if lane.mode is Mode.IDLE or (lane.quiet and self._waits.left) else 1
            if lane.mode is Mode.CALL and lane.hit is None and self.plan.interrupts and self._takes_interrupt(lane.index):
                found.append(Choice(f"i{cur}", 1))
        elif cur[:1] == "c" and int(cur[1:]) in controls:
            found.append(Choice(cur, 0))
        found += [Choice(f"c{task}", price) for task in controls if f"c{task}" != cur]
        found += [Choice(str(other.index), price) for other in runnable if other is not lane]
        return found

    def _who_holds(self, controls: list[int]) -> list[int]:
        """Who else could only come to wait for the lock is not worth a choice: of the tasks that can go on, one that holds a lock."""
        holders = [task for task in controls if self.node.held[task]]
        return holders or controls

    def _end(self) -> None:
        """Nobody can go on."""
        if not self.node.done:
            waiting = "; ".join(self.node.at(task.index) for task in self.node.world.plane.tasks if not task.done)
            self.violation = Violation(ViolationKind.DEADLOCK, None, None, f"nobody can go on: {waiting}")
        elif self.plan.restores:
            self.violation = self.restored.check(self.node.version)

    def take(self, actor: str, most: int | None = None) -> int:
        """One choice; see :class:`engine.explore.system.System`."""
        kind = actor[0]
        if kind == "c":
            steps = self._step_control(int(actor[1:]))
            self.cur = actor
        elif kind == "i":
            steps = self._interrupt(int(actor[1:]))
            self.cur = actor[1:]
        else:
            self.cur = actor
            steps = self._run(self._lanes[int(actor)], most)
        trace = self.trace
        if trace is not None and trace[1] == actor:
            self.trace = (trace[0], actor, trace[2] + steps)
        else:
            self.trace = (trace, actor, steps)
        return steps

    # Control ----------------------------------------------------------------------------------------------------------

    def _step_control(self, task: int) -> int:
        edge = self._tree.step(self.node, task)
        for write in edge.writes:
            if write.addr not in self._buffers:
                self._note_write(write.addr)
        self._enter(edge.node)
        for lane in self._lanes:
            rip = self.machine.cpus[lane.index].rip
            if rip in self._buffers and lane.mode is Mode.CALL and self.violation is None:
                self.violation = self.freed.check(lane.index, rip, edge.node.world.arch.in_use)
        return 1

    def _note_write(self, addr: int) -> None:
        """Coverage: who is where while live text is written."""
        site = next((site for site in self._sites.values() if site.addr <= addr < site.end), None)
        for lane in self._lanes:
            if lane.mode is not Mode.CALL:
                continue
            rip = self.machine.cpus[lane.index].rip
            inside = site is not None and site.addr < rip < site.end
            self.coverage.parked_in_range += inside
            self.coverage.in_flight_at_write += inside or lane.passing is not None or lane.hit is not None

    # vCPUs ------------------------------------------------------------------------------------------------------------

    def _takes_interrupt(self, cpu: int) -> bool:
        lane = self._lanes[cpu]
        return lane.mode is not Mode.CALL or (lane.hit is None and bool(self.machine.cpus[cpu].rflags & FLAG_IF))

    def _tasks_of(self, cpu: int) -> frozenset[int]:
        return frozenset() if self._lanes[cpu].quiescent else frozenset({cpu})

    def _interrupt(self, cpu: int) -> int:
        self.executor.interrupt(cpu)
        return 1

    def _run(self, lane: Lane, most: int | None) -> int:
        """To the next choice point, at least a step; at most ``most``."""
        if most is None and not self.plan.reduce:
            most = 1
        self._lane = lane
        limit = _BIG if most is None else most
        done = 0
        while done < limit:
            steps, stop = self._stretch(lane, limit - done)
            done += steps
            if stop or self.violation is not None:
                break
        lane.position += done
        if self._waits.left:
            self._waits.ran(lane)
        self.points.add((lane.index, lane.position, self.node.number))
        return done

    def _stretch(self, lane: Lane, limit: int) -> tuple[int, bool]:
        """Steps made, and whether this is a choice point."""
        if lane.mode is Mode.IDLE:
            self._begin_call(lane)
            return 1, False
        if lane.hit is not None:
            self._advance_hit(lane)
            return 1, True
        cpu = self.machine.cpus[lane.index]
        lane.quiet = False
        self._look(lane)
        if self.violation is not None:
            return 0, True
        reason, retired = cpu.run(limit)
        match reason:
            case ExitReason.WATCH | ExitReason.BUDGET:
                stop = True
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
            fetched = self.machine.text.store.read(cpu.view, rip, 5)
            lane.passing = (rip, site.armed(fetched), self.node.lives, lane.counts)

    def _near(self, rip: int) -> Site | None:
        for site in self._sites.values():
            if site.addr <= rip < site.end:
                return site
        return None

    def _pass_over(self, lane: Lane) -> None:
        assert lane.passing is not None
        site = self._sites[lane.passing[0]]
        self.violation = self.violation or self.hits.passed(lane, site, self.node.lives)
        lane.passing = None

    def _begin_call(self, lane: Lane) -> None:
        frame, _ = self.plan.calls[lane.index]
        self.executor.begin_call(lane.index, frame.addr, frame.integers, frame.floats)
        lane.mode = Mode.CALL
        lane.calls += 1

    def _hypercall(self, lane: Lane) -> bool:
        cpu = self.machine.cpus[lane.index]
        name = self.machine.stubs.hypercalls.get(cpu.rip)
        if name == _INT3_STUB:
            self.coverage.int3 += 1
            lane.hit = begin_int3(cpu)
        elif name == _CALLBACK:
            self.coverage.jump += 1
            lane.hit = begin_optimized(cpu)
        else:
            return self._exit(lane, ExitReason.HYPERCALL, name)
        return True

    def _exit(self, lane: Lane, reason: ExitReason, name: str | None = None) -> bool:
        """Whatever else ends a run is the executor's. True: a choice point."""
        world, index = self.node.world, lane.index
        load_block(world, index, lane.block)
        self.executor.handle_exit(self.machine.cpus[index], reason)
        lane.block = store_block(world, index)
        state = self.machine.tasks[index].state
        if state is TaskState.FAULTED:
            self._died(lane)
            return True
        if state is TaskState.IDLE:
            self._ended(lane)
            return True
        if name == "schedule":
            lane.quiet = True
            self._waits.quiescent(index)
            self._waits.task_passed(index)
            return True
        return reason is not ExitReason.EXCEPTION

    def _advance_hit(self, lane: Lane) -> None:
        world, index, hit = self.node.world, lane.index, lane.hit
        assert hit is not None
        load_block(world, index, lane.block)
        lane.hit = advance_hit(self.executor, world, index, hit)
        lane.block = store_block(world, index)
        if self.machine.tasks[index].state is TaskState.FAULTED:
            self._died(lane)
        elif hit.kind is HitKind.INT3 and hit.phase is HitPhase.HANDLED:
            self._note_method(hit.at)

    def _note_method(self, at: int) -> None:
        regs = self.executor.traps.regs_at(at)
        layout = self.machine.layout
        if regs.ip in range(layout.slots, layout.slots + layout.slots_size):
            stepped = regs.flags & FLAG_TF or not regs.flags & FLAG_IF
            self.coverage.stepped += bool(stepped)
            self.coverage.boosted += not stepped

    def _ended(self, lane: Lane) -> None:
        """A call has returned."""
        if lane.passing is not None:
            self._pass_over(lane)
        frame, times = self.plan.calls[lane.index]
        got, want = self._outcome(lane.index), self._golden[lane.index][lane.calls - 1]
        if got != want and self.violation is None:
            text = f"call {lane.calls} of CPU {lane.index} left {_difference(got, want)}"
            self.violation = Violation(ViolationKind.WRONG_RESULT, lane.index, frame.addr, text)
        lane.mode = Mode.DONE if lane.calls >= times else Mode.IDLE
        self._waits.quiescent(lane.index)
        self._waits.task_passed(lane.index)

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
        if self.violation is None:
            text = f"CPU {lane.index} at {fault.place}: {fault.kind}: {fault.explain}"
            self.violation = Violation(ViolationKind.GUEST_FAULT, lane.index, fault.rip or rip, text)

    # Handlers ---------------------------------------------------------------------------------------------------------

    def _hit(self, probe: int, _regs: Any) -> int:
        lane = self._lane
        lane.count(probe)
        self.violation = self.violation or self.hits.ran(lane, probe, self.node.lives)
        return 0

    def _missed(self, probe: int) -> None:
        self._lane.count(probe)


class _NoTime:
    """Time does not pass: what it would bring is a choice."""

    jiffies = 0

    def run_turn(self) -> bool:
        """Nobody runs but by choice."""
        return False

    def advance_to(self, jiffy: int) -> None:
        """No clock."""

    def quiescent(self) -> tuple[tuple[bool, int], ...]:
        """The explorer knows."""
        return ()

    def sync_core(self, cpu: int) -> bool:
        """The explorer knows."""
        del cpu
        return True


def _difference(got: tuple[Any, ...], want: tuple[Any, ...]) -> str:
    from arch_x86.emu.uc import GPR_NAMES

    for name, new, old in zip((*GPR_NAMES, "rflags"), got[0], want[0], strict=True):
        if new != old:
            return f"{name} = {new:#x}, without probes {old:#x}"
    parts = ("vector registers", "a buffer", "the fault")
    return next(f"{part} that differs from the unprobed run" for part, new, old in zip(parts, got[1:], want[1:], strict=True) if new != old)


def _data_spans(machine: Machine) -> list[tuple[int, int]]:
    """Physical spans of the data pages but stacks and per-CPU areas."""
    own = {machine.layout.gs_base(cpu.index) >> 12 for cpu in machine.cpus}
    for task in machine.tasks:
        top = task.stack_top >> 12
        own |= set(range(top - machine.config.stack_pages, top))
    return [(phys, phys + 4096) for vpn, phys in machine.ram.pages() if vpn not in own]
