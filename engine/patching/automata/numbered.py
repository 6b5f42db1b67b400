"""An exploration as a product of automata: a system whose states are numbers.

It offers the same choices as the plain exploration, and comes to the same states
(:class:`engine.patching.exploration.Exploration`), but it touches the machine only for a transition
of a vCPU that it has not met before. A state is the number of each vCPU's record, the number of what they share, the
control state, the waits of the control tasks, and the actor that went on last.

What a run of a vCPU leads to is looked up by

* the vCPU's record, and the number of the shared state;
* which waits concern the vCPU, and how far the run may go;
* the class of the control state (:meth:`engine.patching.control_tree.ControlNode.text_class`), if
  the run asks the core nothing, and else the control state itself.

Which of the two a run depends on is seen when the run is made: a control state notes when somebody
looks at more of it than its class has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from engine.patching.automata.rules import Left, Met, Rules
from engine.patching.automata.shared_state import SharedStates
from engine.patching.automata.transitions import Event, Row, Transitions, joined
from engine.patching.automata.vcpu_record import Records, VcpuRecord, stable_hash
from engine.patching.control_tree import STEPS_MAX, ControlNode, ControlStep, endless
from engine.patching.exploration import Exploration
from engine.patching.vcpu_runs import ODD, ODDER, POINT_MASK
from engine.search.actor import Actor, ActorKind
from engine.search.explorable import Choice, Coverage, Trace, Violation
from engine.search.parts import ReplayDivergence, run_again
from engine.search.schedule import segments_of

__all__ = ("NumberedExploration", "NumberedState")

_WATCHED: Final = 100
"""One transition in so many, chosen by its key, is made again in each control state."""
_NO_WAITS: Final = 0
"""The number of the waits where no control task waits for vCPUs."""


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
        self._confirmed: Trace = None
        plain.reset()
        port, vcpus = plain.port, plain.vcpus
        port.memory.begin_to_keep()
        self._limit = plain.experiment.max_instructions
        self._apart = plain.choice.apart
        self._alike = plain.choice.alike
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
        self._lefts: list[Left] = [{}]
        self._left_numbers: dict[tuple[Any, ...], int] = {(): _NO_WAITS}
        self._left_names: list[int] = [0]
        self._waits_of: list[tuple[int, ...]] = [(0,) * len(vcpus)]
        self._idle_names: dict[int, int] = {}
        self._class_numbers: dict[Any, int] = {}
        self._classes: dict[int, int] = {}
        self._cores: dict[int, int] = {}
        self._forget()
        start = plain.tree.root
        self._first = tuple(self._records.present(vcpu, start.lives).number for vcpu in vcpus)
        self._first_shared = self._shared_states.present()
        self.coverage = Coverage()
        self.points: set[int] = set()
        self.violation: Violation | None = None
        self.reset()

    def _forget(self) -> None:
        """Forget all transitions, since runs stop at places at which they did not stop before."""
        self._rows: dict[tuple[int, ...], Row] = {}
        self._watched: dict[tuple[int, ...], Row] = {}
        self._made_again: set[tuple[tuple[int, ...], int]] = set()
        self._offered: dict[tuple[Any, ...], list[Choice]] = {}
        self._entered: dict[tuple[Any, ...], tuple[int, tuple[int, ...]]] = {}
        self._met: dict[tuple[int, int, int], Met] = {}
        self._dropped: dict[tuple[int, int, Event], int] = {}
        self._asked = False
        self._going_on: dict[tuple[int, int], bool] = {}
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
        self._left = _NO_WAITS
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
        if any([record.leaves_status for record in records]):
            names = [record.name for record in records]
        elif self._apart:
            names = [record.name for record in records if not record.idle]
            if not names:
                names = (
                    sorted(map(self._idle_name, records))
                    if self._alike
                    else [record.name for record in records]
                )
        else:
            names = [record.name for record in records]
            if self._alike and all(record.idle for record in records):
                names = sorted(map(self._idle_name, records))
        told = (
            self.node.name,
            who,
            self._left_names[self._left],
            self._shared_states.names[self._shared],
            *names,
        )
        return hash(told) & POINT_MASK

    def _idle_name(self, record: VcpuRecord) -> int:
        """Return a hash of the calls that the tasks of a vCPU between calls have left."""
        name = self._idle_names.get(record.number)
        if name is None:
            told = self._rules.calls_left(record)
            name = self._idle_names[record.number] = stable_hash(told)
        return name

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
                self._lefts[self._left],
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
            left = self._number_of(plain.waits.left)
            here = (plain.node, records, self._shared_states.present(), left)
            same = here == (self.node, self._sids, self._shared, self._left)
        if not same:
            raise ReplayDivergence(
                f"a schedule of {len(segments)} segments ended differently on the machine"
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
        waits = self._waits_of[self._left][index]
        if self._rules.follows or not self._reduce:
            how = (waits << 2 | alone << 1 | whole) + (0 if most is None else (most + 1) << 4)
            return self._go(ActorKind.VCPU, index, how, waits, most, alone, whole).steps
        if not (alone or whole):
            return self._go_up_to(index, waits, most).steps
        if most is not None:
            return self._go_on_alone(index, waits, most, None)
        how = waits << 2 | 2
        if self._row(index, how) is not None:
            row = self._go(ActorKind.VCPU, index, how, waits, None, alone=True, whole=False)
            return row.steps
        key = self._key(index, how, asked=False), self._key(index, how, asked=True)
        rows: list[Row] = []
        self._asked = False
        steps = self._go_on_alone(index, waits, None, rows)
        if self.violation is None and rows:
            self._rows[key[self._asked]] = joined(rows)
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
            waits = self._waits_of[self._left][index]
        if rows is not None and waits != first:
            rows.clear()
        return steps

    def _go_up_to(self, index: int, waits: int, most: int | None) -> Row:
        """Let a vCPU go on to its next choice point, but by ``most`` steps at most."""
        if most is not None:
            row = self._row(index, waits << 2)
            if row is None or row.steps > most:
                how = (waits << 2) + ((most + 1) << 4)
                return self._go(ActorKind.VCPU, index, how, waits, most, alone=False, whole=False)
        how = waits << 2
        return self._go(ActorKind.VCPU, index, how, waits, None, alone=False, whole=False)

    def _row(self, index: int, how: int) -> Row | None:
        """Return what is known of a transition from the present state."""
        node, number, rows = self.node, self._sids[index], self._rows
        row = rows.get((number, how, self._shared, self._class_of(node)))
        if row is not None:
            return row
        row = rows.get((number, how, self._shared, ~self._core_of(node)))
        self._asked = self._asked or row is not None
        return row

    def _checked(self, kind: ActorKind, index: int, how: int, waits: int) -> Row | None:
        """Return what is known of a transition that is made again in each new control state.

        :raises ReplayDivergence: the transition comes to something else than before.
        """
        for asked in (False, True):
            key = self._key(index, how, asked=asked)
            row = self._watched.get(key)
            if row is None:
                continue
            self._asked = self._asked or asked
            if (key, self.node.number) not in self._made_again:
                self._made_again.add((key, self.node.number))
                record = self._all[key[0]]
                again, violation = self._transitions.make(
                    kind, record, self.node, self._shared, waits=waits
                )
                if again != row or violation is not None:
                    raise ReplayDivergence(
                        f"CPU {index} came to something else when a run of it was made again"
                    )
            return row
        return None

    def _key(self, index: int, how: int, *, asked: bool) -> tuple[int, int, int, int]:
        """Return the key of a transition from the present state.

        :param asked: the transition asks the core.
        """
        last = ~self._core_of(self.node) if asked else self._class_of(self.node)
        return (self._sids[index], how, self._shared, last)

    def _happens(self, kind: ActorKind, index: int) -> int:
        waits = self._waits_of[self._left][index]
        how = -(_EVENTS[kind] << 4 | waits)
        return self._go(kind, index, how, waits, None, alone=False, whole=False).steps

    def _go(
        self,
        kind: ActorKind,
        index: int,
        how: int,
        waits: int,
        most: int | None,
        alone: bool,
        whole: bool,
    ) -> Row:
        """Let a vCPU go on, or let an event come to it, and return what it has come to."""
        node, number = self.node, self._sids[index]
        row = self._row(index, how)
        plainly = most is None and not alone and not whole
        if row is None and plainly:
            row = self._checked(kind, index, how, waits)
        spent = self._spent[index]
        if row is None or (not row.begins and spent + row.spent > self._limit):
            row, violation = self._transitions.make(
                kind,
                self._all[number],
                node,
                self._shared,
                waits=waits,
                most=most,
                alone=alone,
                whole=whole,
                spent=spent if row is not None else 0,
            )
            if violation is None:
                asked = self._transitions.asked
                key = self._key(index, how, asked=asked)
                watched = plainly and hash(key) % _WATCHED == 0
                (self._watched if watched else self._rows)[key] = row
                self._asked = self._asked or asked
            self.violation = violation
        at = self._positions[index]
        name = node.name + index * ODDER
        for offset in row.points:
            self.points.add((name + (at + offset) * ODD) & POINT_MASK)
        if row.coverage is not None:
            self.coverage.add(row.coverage)
        if kind is ActorKind.VCPU:
            self._positions = _with(self._positions, index, at + row.steps)
        self._spent = _with(self._spent, index, row.spent + (0 if row.begins else spent))
        self._sids = _with(self._sids, index, row.record)
        self._shared = row.shared
        if self._left and row.event is not None:
            self._left = self._drop(index, row.event)
        return row

    def _class_of(self, node: ControlNode) -> int:
        number = self._classes.get(node.number)
        if number is None:
            number = self._classes[node.number] = self._class_numbers.setdefault(
                node.text_class(), len(self._class_numbers)
            )
        return number

    def _core_of(self, node: ControlNode) -> int:
        number = self._cores.get(node.number)
        if number is None:
            told = (self._class_of(node), node.core_class())
            number = self._cores[node.number] = self._class_numbers.setdefault(
                told, len(self._class_numbers)
            )
        return number

    def _drop(self, index: int, event: Event) -> int:
        """Return the number of what is left of the waits behind ``event`` on a vCPU."""
        key = (self._left, index, event)
        left = self._dropped.get(key)
        if left is None:
            left = self._dropped[key] = self._number_of(
                self._rules.dropped(
                    self._lefts[self._left],
                    index,
                    quiescent=event.quiescent,
                    passed=event.passed,
                    synced=event.synced,
                )
            )
        return left

    def _number_of(self, left: Left) -> int:
        """Return the number of what the waits are left with."""
        key = tuple((task, wait.kind, who) for task, (wait, who) in left.items())
        number = self._left_numbers.get(key)
        if number is None:
            number = self._left_numbers[key] = len(self._lefts)
            self._lefts.append(dict(left))
            self._left_names.append(stable_hash(self._rules.name_of(left)))
            self._waits_of.append(self._rules.concerned(left))
        return number

    # Control steps --------------------------------------------------------------------------------

    def _step(self, task: int, most: int | None) -> int:
        """Let a control task go on to the next point where the order of actors matters."""
        self._follow(task)
        steps = 1
        while self._reduce and most != steps and self.violation is None and self._goes_on(task):
            self._follow(task)
            steps += 1
        return steps

    def _goes_on(self, task: int) -> bool:
        key = (self.node.number, task)
        known = self._going_on.get(key)
        if known is None:
            known = self._going_on[key] = self._rules.goes_on(self.node, task)
        return known

    def _follow(self, task: int) -> None:
        before = self.node
        self._made += 1
        if self._made > STEPS_MAX:
            raise endless(before.state.plane.tasks[task].name)
        edge = self.plain.tree.step(before, task)
        freed = False
        sids: list[int] = []
        for number in self._sids:
            met = self._met.get((number, before.number, task))
            if met is None:
                met = self._meet(before, edge, task, number)
            sids.append(met.record.number)
            freed = freed or met.freed
            if met.in_flight or met.parked_in_range:
                self.coverage.in_flight_at_write += met.in_flight
                self.coverage.parked_in_range += met.parked_in_range
        self.node = edge.node
        self._sids = tuple(sids)
        if self._left or edge.node.waits:
            self._enter(task)
        self.violation = self.plain.judge.known_bad(edge.node)
        if freed and self.violation is None:
            self.violation = self._freed()

    def _meet(self, before: ControlNode, edge: ControlStep, task: int, number: int) -> Met:
        """Return what a step of a control task is to a vCPU that was not seen there before."""
        record, node = self._all[number], edge.node
        if (
            record.alone
            and not self._rules.follows
            and not edge.writes
            and before.frozen is node.frozen
            and before.hidden is node.hidden
        ):
            met = Met(record, 0, 0, freed=False)
        else:
            met = self._rules.met(before, edge, task, record)
        if self.plain.places.new:
            self.plain.steps.show(edge.node)
            self._forget()
        self._met[(number, before.number, task)] = met
        return met

    def _enter(self, stepped: int) -> None:
        """Let the waits of the present control state begin, go on and end."""
        node, everyone = self.node, self._all
        records = [everyone[number] for number in self._sids]
        # Where all vCPUs have seen all stores, a core sync changes none of them.
        seen = node.hidden is None and not any([record.viewed for record in records])
        who = tuple([record.facts for record in records]) if seen else self._sids
        key = (node.number, self._left, stepped, seen, who)
        known = self._entered.get(key)
        if known is None:
            left, behind = self._rules.entered(node, records, self._lefts[self._left], stepped)
            known = self._number_of(left), tuple(record.number for record in behind)
            self._entered[key] = known
        self._left = known[0]
        if not seen:
            self._sids = known[1]

    def _freed(self) -> Violation | None:
        """Return the violation of a task in a slot or detour buffer that is not in use."""
        plain = self.plain
        for vcpu, number in zip(plain.vcpus, self._sids, strict=True):
            self._records.put(self._all[number], vcpu, 0)
        plain.steps.show(self.node)
        plain.judge.forget_violation()
        plain.steps.look_into_buffers()
        return plain.judge.violation


_EVENTS: Final = {kind: number for number, kind in enumerate(ActorKind)}


def _with(numbers: tuple[int, ...], index: int, number: int) -> tuple[int, ...]:
    """Return ``numbers`` with ``number`` at ``index``."""
    return (*numbers[:index], number, *numbers[index + 1 :])
