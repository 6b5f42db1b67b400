"""An exploration as a product of automata: a system whose states are numbers.

It offers the same choices as the plain exploration, and comes to the same states
(:class:`engine.patching.exploration.Exploration`), but it touches the machine only for a transition
of a vCPU that it has not met before. A state is the number of each vCPU's record, the number of
what they share, the control state, the waits of the control tasks, and the actor that went on last.

What a run of a vCPU leads to is looked up by the vCPU's record, by what the vCPUs share, by the
waits that concern the vCPU, and by a class of the control state
(:mod:`engine.patching.automata.transition_table`). Which class it depends on is seen when the run
is made: a control state notes when somebody looks at more of it than the class of its text has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from engine.patching.automata.control_moves import ControlMoves
from engine.patching.automata.rules import Rules
from engine.patching.automata.shared_state import SharedStates
from engine.patching.automata.state_names import StateNames
from engine.patching.automata.transition_table import TransitionTable
from engine.patching.automata.vcpu_record import Records
from engine.patching.automata.vcpu_run import VcpuRun, run_of
from engine.patching.automata.vcpu_transitions import Row, Transitions, joined
from engine.patching.automata.wait_numbers import NO_WAITS, WaitNumbers
from engine.patching.control_tree import STEPS_MAX, ControlNode, endless
from engine.patching.exploration import Exploration
from engine.patching.vcpu_runs import ODD, ODDER, POINT_MASK
from engine.search.actor import Actor, ActorKind
from engine.search.explorable import Choice, Coverage, Trace, Violation
from engine.search.parts import ReplayDivergence, run_again
from engine.search.schedule import segments_of

__all__ = ("ROWS_MOST", "NumberedExploration", "NumberedState")


ROWS_MOST: Final = 1_000_000
"""So many transitions are kept, which take some hundred MiB; then all of them are forgotten."""


class NumberedState(NamedTuple):
    """A state, as :meth:`NumberedExploration.save` returns it.

    :ivar records: of each vCPU, the number of its record.
    :ivar left: the number of what the waits of control tasks are left with.
    :ivar positions: of each vCPU, how many steps it has made.
    :ivar spent: of each vCPU, how many instructions its present call has retired.
    :ivar made: the steps that control tasks have made in the schedule.
    """

    node: ControlNode
    records: tuple[int, ...]
    shared: int
    left: int
    actor: Actor | None
    positions: tuple[int, ...]
    spent: tuple[int, ...]
    made: int
    trace: Trace


class NumberedExploration:
    """The exploration ``plain`` as a :class:`engine.search.explorable.System` of numbers.

    Nobody else may use ``plain`` while this object explores.

    :param again_every: one in so many of the schedules that :meth:`check_repeats` is asked to check
        is run on the machine.
    """

    def __init__(self, plain: Exploration, *, again_every: int = 10) -> None:
        self.plain = plain
        self.again_every = again_every
        self._asked_to_check = 0
        self._limited = False
        self._confirmed: Trace = None
        plain.reset()
        port, vcpus = plain.port, plain.vcpus
        port.memory.begin_to_keep()
        self._limit = plain.experiment.max_instructions
        self._apart = plain.choice.apart
        self._reduce = plain.experiment.reduce
        # Where tasks share data, the buffers of their calls are part of that data.
        own = [
            [
                (span.start, span.stop)
                for task in plain.now.calls
                if task // 2 == vcpu.index and not plain.shares
                for span in list(port.memory.buffers(task))
            ]
            for vcpu in vcpus
        ]
        self._records = Records(
            port,
            buffers=own,
            lock=plain.experiment.lock,
            user=plain.experiment.user,
            preempt=plain.experiment.preempt,
        )
        self._shared_states = SharedStates(plain, [span for spans in own for span in spans])
        self._rules = Rules(plain, self._records)
        self._transitions = Transitions(plain, self._records, self._shared_states)
        self._all = self._records.all
        self._waits = WaitNumbers(self._rules, len(vcpus))
        self._names = StateNames(self._rules, apart=self._apart, alike=plain.choice.alike)
        self._table = TransitionTable()
        self._moves = ControlMoves(plain, self._rules, self._all, self._waits, self._forget)
        self._forget()
        start = plain.tree.root
        self._first = tuple(self._records.present(vcpu, start.lives).number for vcpu in vcpus)
        self._first_shared = self._shared_states.present()
        self.coverage = Coverage()
        self.points: set[int] = set()
        self.violation: Violation | None = None
        self.reset()

    def _forget(self) -> None:
        """Forget all transitions.

        There are too many, or runs stop at places at which they did not stop before.
        """
        self._table.clear()
        self._offered: dict[tuple[Any, ...], list[Choice]] = {}
        self._moves.clear()
        self._ends: dict[tuple[Any, ...], Violation | None] = {}

    # States ---------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Go to the start of a schedule, where no call and no control task has begun."""
        root = self.plain.tree.root
        none = (0,) * len(self._first)
        self.violation = self.plain.judge.known_bad(root)
        self.node: ControlNode = root
        self._sids = self._first
        self._shared = self._first_shared
        self._left = NO_WAITS
        self._actor: Actor | None = None
        self._positions, self._spent, self._made = none, none, 0
        self.trace: Trace = None

    def save(self) -> NumberedState:
        """Return a record of the present state, for :meth:`restore`."""
        return NumberedState(
            self.node,
            self._sids,
            self._shared,
            self._left,
            self._actor,
            self._positions,
            self._spent,
            self._made,
            self.trace,
        )

    def restore(self, state: NumberedState) -> None:
        """Go back to a state that :meth:`save` has returned."""
        (
            self.node,
            self._sids,
            self._shared,
            self._left,
            self._actor,
            self._positions,
            self._spent,
            self._made,
            self.trace,
        ) = state
        self.violation = None

    @property
    def states_are_small(self) -> bool:
        """Return True: a state is a few numbers."""
        return True

    def release(self, state: NumberedState) -> None:
        """Do nothing: a state is a few numbers."""

    def key(self) -> int:
        """Return a hash of all that decides what can happen from the present state on.

        Two states have equal hashes exactly where the plain exploration's have, but for
        collisions.
        """
        records = [self._all[number] for number in self._sids]
        actor = self._actor
        who = -1
        if actor is not None and actor.kind is ActorKind.VCPU and records[actor.index].live:
            who = actor.index
        left, shared = self._waits.names[self._left], self._shared_states.names[self._shared]
        return hash((self.node.name, who, left, shared, *self._names.of(records))) & POINT_MASK

    # Choices --------------------------------------------------------------------------------------

    def choices(self) -> Sequence[Choice]:
        """Return the choices of the present state, the actor that went on last first."""
        if self.violation is not None:
            self._confirm()
            return ()
        everyone = self._all
        facts = tuple([everyone[number].facts for number in self._sids])
        key = (self.node.number, self._actor, self._left, facts)
        found = self._offered.get(key)
        if found is None:
            found = self._offered[key] = self._rules.offered(
                self.node,
                [everyone[number] for number in self._sids],
                self._waits.lefts[self._left],
                self._actor,
            )
        if not found:
            self._end()
            if self.violation is not None:
                self._confirm()
        return found

    def _end(self) -> None:
        """Let the oracles look at what the schedule has left."""
        held = [
            number
            for number in self._sids
            if self._all[number].asleep or self._all[number].held_back
        ]
        key = (self.node.number, self._shared, tuple(held))
        if key in self._ends and self._ends[key] is None:
            return
        plain = self.plain
        self._shared_states.put(self._shared)
        for vcpu, number in zip(plain.vcpus, self._sids, strict=True):
            self._records.put(self._all[number], vcpu, 0)
        plain.steps.show(self.node)
        plain.end()
        self._ends[key] = self.violation = plain.judge.violation

    def check_repeats(self) -> None:
        """Run the present schedule again on the machine, and compare what it comes to.

        This is done once in :attr:`again_every` times that it is asked for, since it takes as long
        as a hundred schedules of numbers.

        :raises ReplayDivergence: the machine comes to another state, or to another verdict.
        """
        self._asked_to_check += 1
        if self._asked_to_check % self.again_every == 0:
            self._run_on_machine()

    def _confirm(self) -> None:
        """Let the machine show the present violation, too.

        :raises ReplayDivergence: the machine comes to another verdict.
        """
        if self._confirmed is not self.trace:
            self._confirmed = self.trace
            self._run_on_machine()

    def _run_on_machine(self) -> None:
        """Run the present schedule on the machine, and compare what the machine comes to.

        :raises ReplayDivergence: the machine comes to another state, or to another verdict.
        """
        plain, violation, segments = self.plain, self.violation, segments_of(self.trace)
        run_again(plain, segments, violation)
        same = plain.violation == violation
        if same and violation is None:
            records = tuple(
                self._records.present(vcpu, plain.node.lives).number for vcpu in plain.vcpus
            )
            left = self._waits.number_of(plain.waits.left)
            here = (plain.node, records, self._shared_states.present(), left)
            same = here == (self.node, self._sids, self._shared, self._left)
        if not same:
            raise ReplayDivergence(
                f"a schedule of {len(segments)} segments ended differently on the machine, which is"
                " a fault of optprobe's own; --plain searches without numbers"
            )

    # Steps ----------------------------------------------------------------------------------------

    def take(self, actor: Actor, most: int | None = None, *, alone: bool = False) -> int:
        """Let ``actor`` go on, and return how many steps it made.

        :param most: the most steps that it may make; None leaves the number to the actor.
        :param alone: the actor goes on past choice points where every other choice costs
            something.
        """
        kind, index = actor
        if kind is ActorKind.CONTROL:
            steps = self._step(index, most)
            self._actor = actor
        elif kind is ActorKind.VCPU:
            self._actor = actor
            steps = self._run(index, most, alone=alone)
        else:
            steps = self._happens(kind, index)
            self._actor = self.plain.vcpus[index].actor
        trace = self.trace
        if trace is not None and trace[1] == actor:
            self.trace = (trace[0], actor, trace[2] + steps)
        else:
            self.trace = (trace, actor, steps)
        return steps

    def _goes_whole(self, index: int) -> bool:
        """Return whether another task than the one that runs on a vCPU is in its call."""
        everyone = self._all
        for number in self._sids:
            record = everyone[number]
            if record.parked_busy or (record.busy and record.index != index):
                return True
        return False

    def _run(self, index: int, most: int | None, *, alone: bool) -> int:
        whole = self._apart and self._goes_whole(index)
        waits = self._waits.concern[self._left][index]
        if self._rules.follows or not self._reduce:
            return self._go(index, run_of(waits, most, alone=alone, whole=whole)).steps
        if not (alone or whole):
            return self._go_up_to(index, waits, most).steps
        if most is not None:
            return self._go_on_alone(index, waits, most, None)
        table, node = self._table, self.node
        record, shared, how = self._sids[index], self._shared, run_of(waits, alone=True).how
        row = table.find(record, how, shared, node)
        if row is not None and not self._is_over(row, index):
            return self._come_to(row, index).steps
        rows: list[Row] = []
        table.asked = self._limited = False
        steps = self._go_on_alone(index, waits, None, rows)
        if self.violation is None and rows and not self._limited:
            key = table.key(record, how, shared, node, asked=table.asked)
            table.add(key, joined(rows), asked=table.asked, made=False)
        return steps

    def _go_on_alone(self, index: int, waits: int, most: int | None, rows: list[Row] | None) -> int:
        """Let a vCPU go on past choice points where every other choice costs something.

        :param rows: gets the rows of the way, or nothing if they make no row together.
        """
        steps, first = 0, waits
        while True:
            row = self._go_up_to(index, waits, None if most is None else most - steps)
            steps += row.steps
            if rows is not None:
                rows.append(row)
            if steps == most or self.violation is not None:
                break
            record = self._all[self._sids[index]]
            if record.rests or ((waits & 2 or self.node.stopped) and record.stops):
                break
            if record.held_back and self._rules.waits_to_run(self.node, record):
                break
            waits = self._waits.concern[self._left][index]
        if rows is not None and waits != first:
            rows.clear()
        return steps

    def _go_up_to(self, index: int, waits: int, most: int | None) -> Row:
        """Let a vCPU go on to its next choice point, but by ``most`` steps at most."""
        run = run_of(waits)
        if most is not None:
            row = self._table.find(self._sids[index], run.how, self._shared, self.node)
            if row is None or row.steps > most:
                run = run_of(waits, most)
        return self._go(index, run)

    def _happens(self, kind: ActorKind, index: int) -> int:
        """Let an event come to a vCPU."""
        waits = self._waits.concern[self._left][index]
        return self._go(index, run_of(waits, None, kind)).steps

    def _go(self, index: int, run: VcpuRun) -> Row:
        """Let a vCPU go on, or let an event come to it, and return what it has come to."""
        row = self._table.find(self._sids[index], run.how, self._shared, self.node)
        if row is None:
            row = self._watched(index, run)
        if row is None:
            row = self._make(index, run)
        if self.violation is None and self._is_over(row, index):
            # The call dies on the way. Where it does is told by no key, so the table does not have
            # that.
            self._limited = True
            row, self.violation = self._make_on_machine(index, run, self._spent[index])
        return self._come_to(row, index, event=run.kind is not ActorKind.VCPU)

    def _is_over(self, row: Row, index: int) -> bool:
        """Return whether the call retires more instructions on the way than a call may."""
        return not row.begins and self._spent[index] + row.spent > self._limit

    def _make(self, index: int, run: VcpuRun) -> Row:
        """Make a transition on the machine, and add it to the table."""
        number, shared, node = self._sids[index], self._shared, self.node
        row, self.violation = self._make_on_machine(index, run)
        if self.violation is None:
            if len(self._table.rows) >= ROWS_MOST:
                self._forget()
            asked = self._transitions.asked
            key = self._table.key(number, run.how, shared, node, asked=asked)
            self._table.add(key, row, asked=asked, made=run.most is None)
        return row

    def _make_on_machine(
        self, index: int, run: VcpuRun, spent: int = 0
    ) -> tuple[Row, Violation | None]:
        return self._transitions.make(
            run, self._all[self._sids[index]], self.node, self._shared, spent
        )

    def _watched(self, index: int, run: VcpuRun) -> Row | None:
        """Return what is known of a transition that is made again in each new control state.

        :raises ReplayDivergence: the transition comes to something else than before.
        """
        number, shared = self._sids[index], self._shared
        row, new = self._table.find_watched(number, run.how, shared, self.node)
        if new and self._make_on_machine(index, run) != (row, None):
            raise ReplayDivergence(
                f"CPU {index} came to something else when a run of it was made again"
            )
        return row

    def _come_to(self, row: Row, index: int, *, event: bool = False) -> Row:
        """Let a vCPU come to where a transition leads.

        :param event: the transition is an event, which is no step of the vCPU's own.
        """
        at = self._positions[index]
        name = self.node.name + index * ODDER
        for offset in row.points:
            self.points.add((name + (at + offset) * ODD) & POINT_MASK)
        if row.coverage is not None:
            self.coverage.add(row.coverage)
        if not event:
            self._positions = _with(self._positions, index, at + row.steps)
        spent = row.spent + (0 if row.begins else self._spent[index])
        self._spent = _with(self._spent, index, spent)
        self._sids = _with(self._sids, index, row.record)
        self._shared = row.shared
        if self._left and row.event is not None:
            self._left = self._waits.behind(self._left, index, row.event)
        return row

    # Control steps --------------------------------------------------------------------------------

    def _step(self, task: int, most: int | None) -> int:
        """Let a control task go on to the next point where the order of actors matters."""
        self._follow(task)
        steps = 1
        while (
            self._reduce
            and most != steps
            and self.violation is None
            and self._moves.goes_on(self.node, task)
        ):
            self._follow(task)
            steps += 1
        return steps

    def _follow(self, task: int) -> None:
        self._made += 1
        if self._made > STEPS_MAX:
            raise endless(self.node.state.plane.tasks[task].name)
        self.node, self._sids, self._left, freed, in_flight, parked = self._moves.follow(
            self.node, self._sids, self._left, task
        )
        if in_flight or parked:
            self.coverage.in_flight_at_write += in_flight
            self.coverage.parked_in_range += parked
        self.violation = self.plain.judge.known_bad(self.node)
        if freed and self.violation is None:
            self.violation = self._freed()

    def _freed(self) -> Violation | None:
        """Return the violation of a task in a slot or detour buffer that is not in use."""
        plain = self.plain
        for vcpu, number in zip(plain.vcpus, self._sids, strict=True):
            self._records.put(self._all[number], vcpu, 0)
        plain.steps.show(self.node)
        plain.judge.forget_violation()
        plain.steps.look_into_buffers()
        return plain.judge.violation


def _with(numbers: tuple[int, ...], index: int, number: int) -> tuple[int, ...]:
    """Return ``numbers`` with ``number`` at ``index``."""
    return (*numbers[:index], number, *numbers[index + 1 :])
