"""vCPUs, interrupts and control tasks of one scenario as something that can be explored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any, Final

from arch_x86.emu.cpu import CpuState
from arch_x86.emu.execute import Executor
from arch_x86.emu.machine import Machine
from arch_x86.emu.stubs import GS_END, GS_INTERRUPTS
from arch_x86.emu.uc import RSP
from arch_x86.explore.apart import others_in_flight
from arch_x86.explore.control import EndlessTaskError
from arch_x86.explore.invariants import InvariantOracle
from arch_x86.explore.lane import Lane, Mode
from arch_x86.explore.oracles import DeadlockOracle, MemoryOracle, RestoredOracle
from arch_x86.explore.orders import Left, Memory, Orders
from arch_x86.explore.parking import Parked, live_stack, new_task
from arch_x86.explore.return_oracle import OpenCalls as ModelCalls
from arch_x86.explore.returns import NO_CALLS, OpenCalls
from arch_x86.explore.running import CpuSide, Plan
from arch_x86.explore.shared_variables import share_variables
from arch_x86.explore.unprobed import Unprobed, own_spans, refuse_bad_calls, run_unprobed
from arch_x86.explore.world import STEPS_MAX, Node, NodeTree, Stage, endless
from arch_x86.isa.constants import PAGE_SIZE
from engine.control.stepped_plane import MachineWait
from engine.errors import InputError, KprobeError
from engine.search.explorable import Choice, Violation

__all__ = ("X86System",)

_BIG: Final = 1 << 40
_STEPS_ALONE: Final = 5_000
"""Steps in which all control tasks, alone, have to end."""
_CALLBACK, _INT3_STUB = "optimized_callback", "exception:3"


class _Saved:
    """A state to go back to."""

    __slots__ = ("calls", "cpus", "cur", "ended", "lanes", "left", "made", "node", "opened", "ram", "tasks", "trace")

    calls: OpenCalls
    opened: ModelCalls
    cpus: list[CpuState]
    cur: str
    ended: Left
    lanes: list[tuple[Any, ...]]
    left: dict[int, tuple[MachineWait, frozenset[int]]]
    made: int
    node: Node
    ram: bytes
    tasks: list[tuple[Any, ...]]
    trace: Any


class X86System(CpuSide):
    """One scenario on one machine. See :class:`engine.search.explorable.System`.

    :ivar refused: a line for each probe that the core refuses when the control tasks run alone.
    :raises InputError: a control task does not end.
    """

    made: int
    """Steps of control tasks in this schedule."""

    def __init__(self, machine: Machine, executor: Executor, plan: Plan) -> None:
        super().__init__(machine, executor, plan)
        self.trace: Any = None
        self.cur = ""
        self._lane_of = {str(lane.index): lane for lane in self.lanes}
        self.restored = RestoredOracle(machine.text.store, self._buffers.__contains__, self.where)
        self.invariants = InvariantOracle()
        self.deadlocks = DeadlockOracle()
        self._known_bad: dict[int, Violation] = {}
        self._apart = False
        self._spare: list[list[CpuState]] = []
        shared = share_variables(work for _, work in plan.code())
        stage = Stage(machine, _NoTime(), plan.profile, self.witness, plan.code, plan.nmis, plan.points, shared)
        self._tree = NodeTree(stage, self._learn)
        self.node = self._tree.root
        self._dry_run()
        size = machine.config.stack_pages * 4096
        self._stacks = {task: machine.allocate(size) + size for task in plan.calls if task % 2}
        self._unprobed = unprobed = self._run_unprobed()
        self._golden = unprobed.outcomes
        enough = self._instances_suffice(self._tree.nodes[-1])
        self._apart = plan.reduce and plan.apart and enough and not unprobed.shares
        self._alike = self._apart and unprobed.alike
        self._tasks = [self._second_tasks(lane.index) for lane in self.lanes]
        self._data_names: dict[tuple[int, int], tuple[bytes, bytes]] = {}
        self._data = _data_spans(machine, set(self._stacks.values()), per_cpu=unprobed.shares)
        self._start = self._save_machine()
        own = [span for task in plan.calls for span in own_spans(executor, plan.calls, task, machine.tasks[task // 2].stack_top)]
        self._own = own
        self.memory = MemoryOracle(self._start[0], self._data, own) if not unprobed.shares else None
        self.reset()

    @property
    def shares(self) -> bool:
        """Calls write to memory that others may read, so what each leaves depends on their order: see :meth:`judge_by`."""
        return self._unprobed.shares

    def judge_by(self, orders: Orders) -> None:
        """From now on what calls leave has to be what they leave in one of ``orders``, and a vCPU can be left in front of each
        instruction where they meet."""
        self.orders = orders
        self.memory = MemoryOracle(self._start[0], self._data, [*self._own, *orders.written])
        for rip in sorted(orders.points):
            self._watch(rip, rip + 1)
        self.reset()

    def close(self) -> None:
        """End what is under way, and give the machine's emulators back. Nothing of the system may be used any more."""
        self._tree.close()
        self.machine.close()

    # Setting up -------------------------------------------------------------------------------------------------------

    def _dry_run(self) -> None:
        """Run the control tasks alone, to meet their sites and buffers.

        :raises EndlessTaskError: one of them does not end.
        """
        nodes = self._run_alone()
        self.refused = tuple(dict.fromkeys(line for node in nodes for line in node.world.control.refused))

    def _run_alone(self) -> list[Node]:
        """The control states on the way when the control tasks run alone: first come first. Where that does not end, it is in turns:
        one may wait in a loop for what another one does.

        :raises EndlessTaskError: that does not end, either.
        """
        path, _ = self._tree.run_alone(_STEPS_ALONE, in_turns=False)
        if path is None:
            path, where = self._tree.run_alone(_STEPS_ALONE, in_turns=True)
            if path is None:
                steps = f"{_STEPS_ALONE:,} steps of the control tasks alone"
                raise EndlessTaskError(f"control task {where}: it has not ended after {steps}; a control task has to end")
        nodes = [self._tree.root]
        for task in path:
            nodes.append(self._tree.step(nodes[-1], task).node)
        return nodes

    def _learn(self, node: Node) -> None:
        """A new control state: what to watch in it, and whether it is sound."""
        bad = self.invariants.check(node)
        if bad is not None:
            self._known_bad[node.number] = bad
        self._learn_places(node)
        if self._apart and not self._instances_suffice(node):
            raise InputError(
                "a return probe comes only with some schedules, so it is not known what tasks share; explore with --no-reduction"
            )

    def _instances_suffice(self, node: Node) -> bool:
        """No call can find the instances of a return probe taken; each vCPU may be in an NMI that interrupted one of its tasks."""
        calls = len(self.plan.calls) + self.plan.nmis * len(self.lanes)
        return self._unprobed.instances_suffice(node.world.control.returns.values(), calls)

    def _run_unprobed(self) -> Unprobed:
        start = self._save_machine()
        returns = self._tree.nodes[-1].world.control.returns.values()
        plan = self.plan
        refuse_bad_calls(self.executor, plan.calls, self._stacks, plan.limit)
        self._restore_machine(start)
        entries = [rp.kp.addr for rp in returns if rp.kp.addr is not None]  # one that was never registered has none
        unprobed = run_unprobed(self.executor, plan.calls, self._stacks, plan.limit, self._outcome, entries)
        self._restore_machine(start)
        return unprobed

    def _second_tasks(self, cpu: int) -> tuple[Parked, ...]:
        task = 2 * cpu + 1
        if task not in self._stacks:
            return ()
        return (new_task(task, self.machine.cpus[cpu], self._stacks[task], self.machine.tasks[cpu].save()),)

    def refuse_bad_start(self) -> None:
        """Control tasks alone, before anybody runs, end well.

        :raises KprobeError: the core refuses one of their probes.
        """
        for task in self._run_alone()[-1].world.plane.tasks:
            if isinstance(task.error, KprobeError):
                raise task.error

    def allowed_methods(self) -> tuple[str, ...]:
        """How the sites can be hit: words of :class:`Coverage`; none, where no probe was registered."""
        sites = self._sites.values()
        by_ftrace = ("ftrace",) if any(site.calls for site in sites) else ()
        if all(site.calls for site in sites):
            return by_ftrace
        if any(site.jumps for site in sites):
            return (*by_ftrace, "int3", "jump")
        return (*by_ftrace, "int3", *sorted(self._methods - {"int3"}))

    # State ------------------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """To the start: nothing has happened."""
        self._restore_machine(self._start)
        for lane, parked in zip(self.lanes, self._tasks, strict=True):
            lane.reset(parked)
        self.violation = None
        self.trace = None
        self.cur = ""
        self.made = 0
        self._waits.left = {}
        self.calls = NO_CALLS
        self.left = {}
        self.witness.calls.opened = ()
        self._enter(self._tree.root, -1)

    def _save_machine(self) -> tuple[bytes, list[CpuState], list[tuple[Any, ...]]]:
        machine = self.machine
        if self._spare:
            states = self._spare.pop()
            for cpu, state in zip(machine.cpus, states, strict=True):
                cpu.save_into(state)
        else:
            states = [cpu.save() for cpu in machine.cpus]
        return machine.ram.room[: machine.ram.used], states, [(task.stack_top, *task.save()) for task in machine.tasks]

    def _restore_machine(self, saved: tuple[bytes, list[CpuState], list[tuple[Any, ...]]]) -> None:
        machine = self.machine
        ram, states, tasks = saved
        machine.ram.room[: len(ram)] = ram
        for cpu, state in zip(machine.cpus, states, strict=True):
            cpu.restore(state)
        for task, state in zip(machine.tasks, tasks, strict=True):
            task.stack_top = state[0]
            task.restore(state[1:])

    def save(self) -> _Saved:
        """The present state."""
        saved = _Saved()
        saved.ram, saved.cpus, saved.tasks = self._save_machine()
        saved.lanes = [lane.save() for lane in self.lanes]
        saved.left = self._waits.left.copy()
        saved.node, saved.cur, saved.trace, saved.made = self.node, self.cur, self.trace, self.made
        saved.calls, saved.opened, saved.ended = self.calls, self.witness.calls.opened, self.left
        return saved

    def restore(self, state: _Saved) -> None:
        """Go back."""
        self._restore_machine((state.ram, state.cpus, state.tasks))
        for lane, saved in zip(self.lanes, state.lanes, strict=True):
            lane.restore(saved)
        self._waits.left = state.left.copy()
        self.cur, self.trace, self.calls, self.left, self.made = state.cur, state.trace, state.calls, state.ended, state.made
        self.witness.calls.opened = state.opened
        self.violation = None
        self._show(state.node)

    def release(self, state: _Saved) -> None:
        """``state`` is not needed any more."""
        self._spare.append(state.cpus)

    def key(self) -> int:
        """A hash of all that decides what can happen from here: registers, live memory, control state, lanes, waits, who runs."""
        machine = self.machine
        digest = blake2b(digest_size=8)
        for lane, cpu, task in zip(self.lanes, machine.cpus, machine.tasks, strict=True):
            if lane.live:
                uc = cpu.uc
                uc.load()
                digest.update(uc.gpr)
                digest.update(uc.vector_state())
                digest.update(uc.fpu_state())
                digest.update(b"\1" if cpu.in_shadow else b"\0")
                digest.update(live_stack(machine, uc.gpr[RSP], task.stack_top))
            for parked in lane.parked:
                digest.update(parked.stack(machine))
        digest.update(b"".join(self._data_digests()))
        lanes = self._lane_names()
        rips = [cpu.rip for lane, cpu in zip(self.lanes, machine.cpus, strict=True) if lane.live]
        current = self._current
        who = -1 if current is None else current.index
        digest.update(repr((rips, lanes, self._waits.key(), self.node.name, who, self.calls, self.witness.calls.opened)).encode())
        if self.left:  # the verdict at the end is on all that was left
            digest.update(repr(sorted(self.left.items())).encode())
        return int.from_bytes(digest.digest())

    def _data_digests(self) -> list[bytes]:
        """The name of the content of each span of data."""
        room, digests = self.machine.ram.room, list[bytes]()
        for span in self._data:
            data = bytes(room[span[0] : span[1]])
            known = self._data_names.get(span)
            if known is None or known[0] != data:  # it seldom changes, and comparing is faster than hashing
                known = self._data_names[span] = (data, blake2b(data, digest_size=16).digest())
            digests.append(known[1])
        return digests

    def _changed_data(self) -> Memory:
        """The spans of data whose content is not that of the start, by name."""
        digests = zip(self._data, self._data_digests(), strict=True)
        ram, room = self._start[0], self.machine.ram.room
        return {begin: name for (begin, end), name in digests if room[begin:end] != ram[begin:end]}

    def _content(self, phys: int) -> tuple[bytes, bytes]:
        """What the span of data at ``phys`` held at the start, and what it holds now."""
        end = next(end for begin, end in self._data if begin == phys)
        return self._start[0][phys:end], bytes(self.machine.ram.room[phys:end])

    def _lane_names(self) -> tuple[Any, ...]:
        """What the vCPUs are doing. Of tasks apart, what those between calls have left is left out while another one is in a call: it ends
        in a state that was met without it. If all calls go alike, it is all the same which of the vCPUs between calls has how many left.
        """
        lives, lanes = self.node.lives, self.lanes
        busy = [(lane.index, lane.key(lives)) for lane in lanes if not (self._apart and lane.idle)]
        if busy:
            return tuple(busy)
        if not self._alike:
            return tuple(lane.key(lives) for lane in lanes)
        return tuple(sorted(map(self._left, lanes)))

    def _show(self, node: Node) -> None:
        """The vCPUs fetch what ``node`` has as text, and its core takes their traps."""
        self.node = self.witness.node = node
        for cpu in self.machine.cpus:
            cpu.view = node.version
        self.machine.trap_handler = node.world.arch
        if self._new_watches:
            self._install_watches()

    def _enter(self, node: Node, stepped: int) -> None:
        self._show(node)
        self._waits.entered(node.waits, stepped)
        if self.violation is None:
            self.violation = self._known_bad.get(node.number)

    @property
    def _current(self) -> Lane | None:
        """The vCPU that went on last, if it is not between calls: whom to leave may cost something."""
        lane = self._lane_of.get(self.cur)
        return lane if lane is not None and lane.live else None

    # Choices ----------------------------------------------------------------------------------------------------------

    def choices(self) -> Sequence[Choice]:
        """How to go on; as before first, where that can be."""
        if self.violation is not None:
            return ()
        node, waits, lane = self.node, self._waits, self._current
        stopped, stopping = node.stopped, bool(waits.left) and waits.stopping
        whole = lane is not None and self._goes_whole(lane)
        if lane is not None and whole and not (lane.quiet or stopped or stopping):
            return (Choice(self.cur, 0),)
        runnable = [one for one in self.lanes if one.nmi or not (stopped or one.over or (stopping and self._stops(one.index)))]
        controls: Sequence[int] = [task for task in node.tasks if waits.over(task)] if waits.left else node.tasks
        if self.plan.reduce and len(controls) > 1:
            controls = self._without_who_waits(controls)
        if not runnable and not controls:
            self._end()
            return ()
        price, found = 0, list[Choice]()
        if lane is not None and lane in runnable:
            found.append(Choice(self.cur, 0))
            price = 0 if lane.quiet and waits.left and not lane.nmi else 1
            if not whole:
                found += self._events(lane)
            if lane.parked and lane.quiescent:
                found.append(Choice(f"s{self.cur}", 0))
        if stopped and self.plan.nmis:
            found += [Choice(f"n{one.index}", 1) for one in self.lanes if not one.nmi and not self._goes_whole(one)]
        if price and whole:
            return found
        first = len(found)
        for task in controls:
            found.append(Choice(f"c{task}", price))
        for other in self._different(runnable):
            if other is not lane:
                found += self._other(other, price)
        for index in range(first, len(found)):
            if found[index].actor == self.cur:
                found.insert(0, found.pop(index))
                break
        return found

    def _different(self, lanes: Sequence[Lane]) -> Sequence[Lane]:
        """While a task is in a call, of the vCPUs that are between alike ones the first will do."""
        if not self._alike or len(lanes) < 3 or all(lane.idle for lane in lanes):
            return lanes
        seen = set[tuple[Any, ...]]()
        return [lane for lane in lanes if not lane.idle or not ((left := self._left(lane)) in seen or seen.add(left))]

    def _left(self, lane: Lane) -> tuple[Any, ...]:
        """What calls the tasks of a vCPU between calls have left, whoever they are."""
        return tuple(sorted((self.plan.calls[task][1], done) for task, done in lane.key(())[0]))

    def _other(self, lane: Lane, price: int) -> Iterator[Choice]:
        """How a vCPU can go on that was not the last to do so."""
        if lane.mode is not Mode.DONE or lane.nmi:
            yield Choice(str(lane.index), price)
        if lane.parked and lane.quiescent:
            yield Choice(f"s{lane.index}", price)

    def _goes_whole(self, lane: Lane) -> bool:
        """Nothing that costs anything has to happen to ``lane`` before its call is over (:mod:`arch_x86.explore.apart`)."""
        return self._apart and others_in_flight(self.lanes, lane)

    def _events(self, lane: Lane) -> Iterator[Choice]:
        """What can happen to a vCPU that runs: an NMI, an interrupt, one that gives the CPU to another task."""
        cpu = self.machine.cpus[lane.index]
        if self.plan.nmis and not lane.nmi and lane.mode is Mode.CALL and not self.executor.traps.nmi_is_blocked(cpu):
            yield Choice(f"n{lane.index}", 1)
        if lane.mode is Mode.CALL and self.plan.interrupts and self._takes_interrupt(lane.index):
            yield Choice(f"i{lane.index}", 1)
            if self._preempts(lane.index) and any(one.mode is not Mode.DONE for one in lane.parked):
                yield Choice(f"p{lane.index}", 1)

    def _without_who_waits(self, controls: Sequence[int]) -> Sequence[int]:
        """While one that holds a lock can go on, who else could only come to wait for one is not worth a choice."""
        if not any(self.node.held[task] for task in controls):
            return controls
        return [task for task in controls if self.node.held[task] or not self._only_waits(task)]

    def _only_waits(self, task: int) -> bool:
        """The next step of a control task does nothing but come to wait for a lock that delayed work has."""
        if self.node.others_operate(task):
            return False
        following = self._tree.step(self.node, task).node
        return following.is_alike_but_for(task, self.node) and following.locked_out(task)

    def _end(self) -> None:
        """Nobody can go on."""
        waiting = [self.node.at(task.index) for task in self.node.world.plane.tasks if not task.done]
        waiting += [f"a task of CPU {lane.index} sleeps at {self.where(one.rip)}" for lane in self.lanes for one in lane.asleep if waiting]
        self.violation = self.deadlocks.check(waiting)
        if self.violation is None and self.plan.restores:
            self.violation = self.restored.check(self.node.version)
        if self.violation is None and self.memory is not None:
            self.violation = self.memory.check(self.machine.ram.room)
        if self.violation is None and self.orders is not None:
            self.violation = self.orders.check_end(self.left, self._changed_data(), self._content, self._data_name)

    def _data_name(self, phys: int) -> str:
        """Memory as people name it: by symbol or virtual address."""
        addr = self.machine.ram.virtual(phys)
        symbol = next((one for one in self.machine.image.symbols if one.addr <= addr < one.addr + one.size), None)
        return f"{addr:#x}" if symbol is None else f"{symbol.name}+{addr - symbol.addr:#x}"

    def take(self, actor: str, most: int | None = None, *, alone: bool = False) -> int:
        """One choice; see :class:`engine.search.explorable.System`."""
        kind = actor[0]
        if kind == "c":
            steps = self._step_control(int(actor[1:]), most)
            self.cur = actor
        elif kind in "inps":
            lane = self.lanes[int(actor[1:])]
            if kind == "i":
                self._interrupt(lane)
            elif kind == "p":
                self._preempt(lane)
            elif kind == "n":
                self._deliver_nmi(lane)
            else:
                self._switch(lane, self.machine.cpus[lane.index].rip)
                if lane.mode is Mode.IDLE:  # which of two idle tasks has the CPU is all the same, so one that gets it makes its call
                    self._begin_call(lane)
            steps = 1
            self.cur = actor[1:]
        else:
            self.cur = actor
            lane = self.lanes[int(actor)]
            steps = self._run(lane, most, alone=alone or self._goes_whole(lane))
        trace = self.trace
        if trace is not None and trace[1] == actor:
            self.trace = (trace[0], actor, trace[2] + steps)
        else:
            self.trace = (trace, actor, steps)
        return steps

    # Control ----------------------------------------------------------------------------------------------------------

    def _step_control(self, task: int, most: int | None) -> int:
        self._follow(task)
        steps = 1
        while self.plan.reduce and most != steps and self.violation is None and self._goes_on(task):
            self._follow(task)
            steps += 1
        return steps

    def _goes_on(self, task: int) -> bool:
        """It makes no difference whether anybody comes before the next step of a control task (docs/explore.md, "Control tasks and locks").

        One step is that from the last lock that the task dropped to the end of its operation, or to a wait, if that changes nothing that
        anybody shares: what the operation reads there goes into its result only. (Where tasks share variables the scenario's code is not
        part of that step, for it may read what another task has stored.) The next one begins to wait for what other control tasks bring
        about, and changes nothing else: whoever comes first, the task goes on when that is so. The last is that which takes a lock, if
        the others left are delayed work only, so that no other operation can change what this one has looked at before.
        """
        node = self.node
        dropped = node.just_dropped(task)
        if dropped or node.is_between_operations(task):
            following = self._tree.step(node, task).node
            goes_on = following.waits_for_tasks(task) or (dropped and following.has_returned(task))
            return goes_on and following.is_alike_but_for(task, node)
        return node.takes_lock(task) and not node.others_operate(task)

    def _follow(self, task: int) -> None:
        self.made += 1
        if self.made > STEPS_MAX:  # control states may be met again, so a loop without an end need not be a long way to a new one
            raise endless(self.node.world.plane.tasks[task].name)
        edge = self._tree.step(self.node, task)
        for write in edge.writes:
            if write.addr not in self._buffers:
                self._note_write(write.addr)
        self._enter(edge.node, task)
        for lane in self.lanes:
            rips = [self.machine.cpus[lane.index].rip] if lane.mode is Mode.CALL else []
            for rip in (*rips, *(one.resume for one in lane.parked)):
                if rip in self._buffers and self.violation is None:
                    self.violation = self.freed.check(lane.index, rip, edge.node.world.arch.in_use)

    def _note_write(self, addr: int) -> None:
        """Coverage: who is where while live text is written."""
        site = next((site for site in self._sites.values() if site.addr <= addr < site.end), None)
        for lane in self.lanes:
            rips = [self.machine.cpus[lane.index].rip] if lane.mode is Mode.CALL else []
            inside = site is not None and any(site.addr < rip < site.end for rip in (*rips, *(one.resume for one in lane.parked)))
            passing = lane.passing is not None or any(one.passing is not None for one in lane.parked)
            self.coverage.parked_in_range += inside
            self.coverage.in_flight_at_write += inside or passing or lane.hit is not None


class _NoTime:
    """Time does not pass: what it would bring is a choice."""

    jiffies = 0
    in_handler = False

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


def _data_spans(machine: Machine, tops: set[int], *, per_cpu: bool) -> list[tuple[int, int]]:
    """Physical spans of the data pages but stacks: those of the machine's tasks, and what ends at ``tops``.

    :param per_cpu: with per-CPU areas, but for what the machine's own handlers keep there.
    """
    areas = {machine.layout.gs_base(cpu.index) >> 12 for cpu in machine.cpus}
    own = set[int]() if per_cpu else areas
    for stack_top in (*(task.stack_top for task in machine.tasks), *tops):
        top = stack_top >> 12
        own |= set(range(top - machine.config.stack_pages, top))
    spans: list[tuple[int, int]] = []
    for vpn, phys in machine.ram.pages():
        if vpn in own:
            continue
        end = phys + PAGE_SIZE
        spans += [(phys, phys + GS_INTERRUPTS), (phys + GS_END, end)] if vpn in areas else [(phys, end)]
    return spans
