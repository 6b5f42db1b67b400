"""A vCPU's run to its next choice point, with the calls, traps and oracles on its way."""

from __future__ import annotations

from typing import Final

from engine.patching.boundaries import Boundaries
from engine.patching.fetches import Fetches
from engine.patching.handler_events import HandlerEvents
from engine.patching.hit_in_progress import NO_HIT
from engine.patching.hit_pieces import HitPieces
from engine.patching.judge import Judge
from engine.patching.nmis import Nmis
from engine.patching.parked_task import Mode
from engine.patching.passes import Pass
from engine.patching.places import Places
from engine.patching.port_records import Stop
from engine.patching.situation import Situation
from engine.patching.task_switches import TaskSwitches
from engine.patching.vcpu import VcpuState
from engine.patching.waits import Waits

__all__ = ("ODD", "ODDER", "POINT_MASK", "VcpuRuns")

_NO_LIMIT: Final = 1 << 40
"""A run that has no limit of its own ends after so many steps.

A call ends long before, at its limit of instructions.
"""
ODD: Final = 0x9E3779B97F4A7C15
"""This factor spreads the positions of a vCPU over the 64 bits of a point's name.

The factor is large and odd, and has about as many bits set as not.
"""
ODDER: Final = 0xC2B2AE3D27D4EB4F
"""This factor spreads the vCPUs over the 64 bits of a point's name.

The factor is large and odd, and has about as many bits set as not.
"""
POINT_MASK: Final = (1 << 64) - 1
"""This mask has the bits of a point's name."""


class VcpuRuns:
    """This object lets one vCPU go on."""

    def __init__(
        self,
        now: Situation,
        judge: Judge,
        *,
        places: Places,
        fetches: Fetches,
        waits: Waits,
        boundaries: Boundaries,
        tasks: TaskSwitches,
        events: HandlerEvents,
        hits: HitPieces,
        nmis: Nmis,
    ) -> None:
        self._now = now
        self._judge = judge
        self._experiment = now.experiment
        self._calls = now.calls
        self._cpus = now.port.cpus
        self._memory = now.port.memory
        self._text = now.port.text
        self._buffers, self._stubs = self._text.buffers, self._text.stubs
        self._places = places
        self._fetches = fetches
        self._waits = waits
        self._boundaries = boundaries
        self._guarded = any(site.guards for site in now.patches)
        self._tasks = tasks
        self._events = events
        self._hits = hits
        self._nmis = nmis

    def run(self, vcpu: VcpuState, most: int | None, *, alone: bool, whole: bool) -> int:
        """Let the vCPU go on to the next choice point, by at least one step.

        :param most: the most steps that the vCPU may make; None sets no limit.
        :param alone: no choice that costs anything is made, so the vCPU goes on to the next
            point where there is a choice at no cost.
        :param whole: the vCPU's call is made whole, so it goes on past these points, too, but for
            those where control tasks wait for it.
        :returns: how many steps the vCPU made.
        """
        alone = alone or whole
        if most is None and not self._experiment.reduce and not alone:
            most = 1
        now, waits = self._now, self._waits
        now.vcpu = vcpu
        left = _NO_LIMIT if most is None else most
        began, name = vcpu.position, now.node.name + vcpu.index * ODDER
        while left > 0:
            awaited = self._is_awaited(vcpu)
            steps, stop = self._stretch(vcpu, 1 if awaited or vcpu.shut_out else left)
            stop = stop or (awaited and self._boundaries.takes_interrupt(vcpu.index))
            fetches = False
            if vcpu.view and not whole:
                # There is a choice at no cost where the vCPU may fetch its next instruction in
                # several ways.
                fetches = bool(self._fetches.ways(vcpu))
                stop = stop or fetches
            left -= steps
            vcpu.position += steps
            if self._judge.violation is not None:
                break
            if (vcpu.shut_out or self._guarded) and self._boundaries.waits_to_run(vcpu):
                break  # The vCPU has come to hidden code or to a jump to itself, and waits.
            if stop:
                self._memory.clear_dead(vcpu.index, live=vcpu.live)
                # Where the vCPU goes on alone, each choice here costs something, unless the vCPU
                # stands in schedule(), is between calls, or is parked.
                if (
                    not alone
                    or fetches
                    or vcpu.quiet
                    or vcpu.mode is not Mode.CALL
                    or self._is_parked(vcpu)
                ):
                    break
                if waits.left:
                    waits.ran(vcpu)
                now.points.add((name + vcpu.position * ODD) & POINT_MASK)
        if waits.left:
            waits.ran(vcpu)
        now.points.add((name + vcpu.position * ODD) & POINT_MASK)
        return vcpu.position - began

    def _is_parked(self, vcpu: VcpuState) -> bool:
        """Return whether ``stop_machine`` holds the vCPU or would hold it here.

        A vCPU in an NMI is not held.
        """
        waits = self._waits
        stopping = bool(waits.left) and waits.stopping
        return not vcpu.nmi and (
            self._now.node.stopped or (stopping and self._boundaries.stops(vcpu.index))
        )

    def _is_awaited(self, vcpu: VcpuState) -> bool:
        """Return whether it matters when a vCPU with interrupts off can take an interrupt again.

        A core sync may wait for that, or the interrupt may give the vCPU to another task.
        The vCPU then has to stop where interrupts come on, even if nothing else depends on
        where it stands.
        """
        waits = self._waits
        asked = self._experiment.reduce and (
            self._experiment.preempt or (bool(waits.left) and waits.syncs_with(vcpu.index))
        )
        if (
            not asked
            or vcpu.mode is not Mode.CALL
            or vcpu.nmi
            or vcpu.hit is not None
            or self._boundaries.takes_interrupt(vcpu.index)
        ):
            return False
        ip = self._cpus.ip(vcpu.index)
        # In buffers and stubs each place where interrupts come on again is a choice point already.
        return not (ip in self._buffers or ip in self._stubs)

    def _stretch(self, vcpu: VcpuState, limit: int) -> tuple[int, bool]:
        """Let the vCPU go on by at most ``limit`` steps.

        :returns: how many steps it made, and whether it stands at a choice point.
        """
        if vcpu.mode is not Mode.CALL and not vcpu.nmi:
            self.begin_call(vcpu)
            return 1, False
        if vcpu.hit is not None:
            self._advance_hit(vcpu)
            return 1, True
        vcpu.quiet = vcpu.quiet and vcpu.nmi
        if not vcpu.view:
            return self._execute(vcpu, limit)
        fetch = self._fetches.begin(vcpu)
        done = self._execute(vcpu, 1 if fetch.alone else limit)
        self._fetches.end(vcpu, fetch)
        return done

    def _execute(self, vcpu: VcpuState, limit: int) -> tuple[int, bool]:
        """Let the vCPU execute instructions, at most ``limit``, and handle what ends the run.

        :returns: as :meth:`_stretch` does.
        """
        self._look(vcpu)
        if self._judge.violation is not None:
            return 1, True  # The step counts, though the vCPU has not made it.
        cpus, cpu = self._cpus, vcpu.index
        stop, steps = cpus.run(cpu, limit)
        chosen = (
            self._came_to(vcpu, stop)
            if stop is Stop.WATCHED or stop is Stop.BUDGET
            else self._answer(vcpu, stop)
        )
        if vcpu.mode is Mode.CALL and cpus.spent(cpu) > self._experiment.max_instructions:
            cpus.out_of_instructions(cpu, self._experiment.max_instructions)
            self._died(vcpu)
        return steps, chosen

    def begin_call(self, vcpu: VcpuState) -> None:
        """Let the task that has the vCPU begin its next call."""
        self._cpus.begin_call(vcpu.index, vcpu.task)
        vcpu.mode = Mode.CALL
        vcpu.calls += 1

    def _look(self, vcpu: VcpuState) -> None:
        """Let the oracles look at the vCPU's next instruction, and begin a pass at a site."""
        cpu = vcpu.index
        ip = self._cpus.ip(cpu)
        if ip in self._buffers:
            self._judge.in_buffer(cpu, ip)
            return
        if ip in self._stubs:
            return
        if vcpu.passing is not None:
            self._hits.end_pass(vcpu)
        if ip not in self._places.near:
            return
        self._judge.instruction(vcpu, ip)
        if ip in self._now.patched_bytes:
            self._count_patched(cpu, ip)
        site = self._now.sites.get(ip)
        if site is not None:
            fetched = self._text.fetched(cpu, ip, self._text.facts.patch_size_max)
            busy = vcpu.interrupted is not None and vcpu.interrupted.busy
            node = self._now.node
            armed, foreign = site.armed(fetched), node.foreign_lives
            vcpu.passing = Pass(ip, armed, busy, node.lives, foreign=foreign)

    def _count_patched(self, cpu: int, ip: int) -> None:
        """Count which code the vCPU executes, if a site that is being replaced begins at ``ip``."""
        site, coverage = self._now.patched_bytes[ip], self._now.coverage
        if ip != site.addr:
            return
        fetched = self._text.fetched(cpu, ip, self._text.facts.insn_size_max)
        coverage.old_code += fetched.startswith(site.first(site.old))
        coverage.new_code += fetched.startswith(site.first(site.new))
        coverage.trapped += fetched.startswith(self._text.facts.traps)

    def _came_to(self, vcpu: VcpuState, stop: Stop) -> bool:
        """Handle a run that has ended in front of an instruction like any other.

        :returns: whether the vCPU stands at a choice point.
        """
        ip, experiment = self._cpus.ip(vcpu.index), self._experiment
        if ip in experiment.resched and not vcpu.nmi:
            self._tasks.schedules(vcpu)
        if ip in experiment.asleep and not vcpu.nmi:
            self._tasks.falls_asleep(vcpu)
        return ip in self._places.watched

    # What the machine has to answer ---------------------------------------------------------------

    def _answer(self, vcpu: VcpuState, stop: Stop) -> bool:
        """Handle a run that has come back for something that has to be answered.

        :returns: whether the vCPU stands at a choice point.
        """
        if stop is Stop.HIT:
            vcpu.hit = self._now.port.hits.begin(vcpu.index)
            self._judge.handlers_asked(vcpu)
        elif stop is Stop.NMI:
            self._nmis.call_function(vcpu)
        elif stop is Stop.NESTED_RETURN and vcpu.nested is not None:
            self._nmis.leave(vcpu)
        else:
            return self._let_machine_answer(vcpu, stop)
        return True

    def _let_machine_answer(self, vcpu: VcpuState, stop: Stop) -> bool:
        """Let the machine answer in one step what is no piece of a hit.

        :returns: whether the vCPU stands at a choice point.
        """
        asks = self._asks_core(vcpu, stop)
        if asks:
            if self._hits.goes_on_freed(vcpu):
                return True
            self._hits.load(vcpu)
            self._core_answers(vcpu, stop)
        else:
            self._cpus.answer(vcpu.index)
        died = self._cpus.died(vcpu.index)
        ended = stop is Stop.CALL_RETURN and vcpu.mode is Mode.CALL
        if ended:
            self._judge.call_ending(vcpu)
        if asks:
            if ended or died:
                self._now.node.state.arch.call_ended(vcpu.index)
            self._hits.store(vcpu)
        if stop is Stop.RETURN_PROBE:
            self._judge.return_over(vcpu)
        if died:
            self._died(vcpu)
        elif ended:
            self._ended(vcpu)
        elif stop is Stop.SCHEDULE:
            self._tasks.schedules(vcpu)
        else:
            return stop is not Stop.EXCEPTION
        return True

    def _asks_core(self, vcpu: VcpuState, stop: Stop) -> bool:
        """Return whether the core, or the arch layer on it, decides what the machine answers.

        A call that returns, or calls ``schedule()``, outside of every hit is no business of theirs.
        """
        own = stop is Stop.CALL_RETURN or stop is Stop.SCHEDULE
        return not own or vcpu.block is not NO_HIT or self._now.node.follows_calls

    def _core_answers(self, vcpu: VcpuState, stop: Stop) -> None:
        cpus, events, state = self._cpus, self._events, self._now.node.state
        if stop is Stop.RETURN_PROBE:
            self._judge.return_begins(vcpu, *self._now.port.hits.returning_call(vcpu.index))
            self._judge.handlers_asked(vcpu)
        missed = events.misses(state)
        cpus.answer(vcpu.index)
        events.missed(state, missed)
        if stop is Stop.RETURN_PROBE and not cpus.died(vcpu.index):
            self._judge.return_handled(vcpu)
        if stop is Stop.STEPPED:
            vcpu.stepping = False

    def _advance_hit(self, vcpu: VcpuState) -> None:
        if self._hits.advance(vcpu) is not None and self._cpus.died(vcpu.index):
            self._died(vcpu)

    # Ends of calls --------------------------------------------------------------------------------

    def _ended(self, vcpu: VcpuState) -> None:
        """Judge the call that has returned, and let waits know that the vCPU is between calls."""
        if vcpu.passing is not None:
            self._hits.end_pass(vcpu)
        self._judge.call_ended(vcpu, self._cpus.outcome(vcpu.task))
        vcpu.mode = Mode.DONE if vcpu.calls >= self._calls[vcpu.task].times else Mode.IDLE
        if vcpu.over:
            vcpu.synchronize()  # The vCPU fetches nothing any more, so all its views are alike.
        self._waits.quiescent(vcpu.index)
        self._waits.task_passed(vcpu.task)

    def _died(self, vcpu: VcpuState) -> None:
        """Judge the call that has died, and let the others go on if it is no violation.

        It is none where calls also die without probes.
        """
        vcpu.mode, vcpu.hit = Mode.DONE, None
        fault = self._cpus.fault(vcpu.index)
        assert fault is not None
        if self._judge.violation is not None:
            return
        self._judge.died(vcpu, fault)
        if self._judge.violation is None:
            vcpu.passing = None
            self._waits.quiescent(vcpu.index)
            self._waits.task_passed(vcpu.task)
