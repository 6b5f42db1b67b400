"""Steps of control tasks: how far one goes without a choice, and what it changes for the vCPUs."""

from __future__ import annotations

from collections.abc import Sequence

from engine.patching.control_tree import STEPS_MAX, ControlNode, ControlTree, endless
from engine.patching.judge import Judge
from engine.patching.parked_task import Mode
from engine.patching.places import Places
from engine.patching.situation import Situation
from engine.patching.vcpu import VcpuState
from engine.patching.waits import Waits

__all__ = ("ControlSteps",)


class ControlSteps:
    """Lets control tasks go on. The control states that they lead to are shown to the vCPUs, and
    the oracles look at them.
    """

    def __init__(
        self, now: Situation, judge: Judge, *, tree: ControlTree, places: Places, waits: Waits
    ) -> None:
        self._now = now
        self._judge = judge
        self._tree = tree
        self._places = places
        self._waits = waits
        self._text = now.port.text
        self._buffers = now.port.text.buffers
        self._cpus = now.port.cpus
        self._reduce = now.experiment.reduce

    # Showing states -------------------------------------------------------------------------------

    def show(self, node: ControlNode) -> None:
        """The vCPUs fetch what ``node`` has as text, and its core takes their traps."""
        self._now.node = node
        self._text.show(node.state, node.version)
        if self._places.new:
            self._places.install()

    def enter(self, node: ControlNode, stepped: int) -> None:
        """Control task ``stepped`` (-1: none) has led to ``node``."""
        self.show(node)
        self._waits.entered(node.waits, stepped)
        self._judge.enter(node)

    # Steps ----------------------------------------------------------------------------------------

    def step(self, task: int, most: int | None) -> int:
        """A control task goes on to the next point where it makes a difference who comes first, for
        ``most`` steps at most. Returns how many it made.
        """
        self._follow(task)
        steps = 1
        while (
            self._reduce and most != steps and self._judge.violation is None and self.goes_on(task)
        ):
            self._follow(task)
            steps += 1
        return steps

    def goes_on(self, task: int) -> bool:
        """It makes no difference whether anybody comes before the next step of a control task
        (docs/explore.md, "Control tasks and locks").

        One step is that from the last lock that the task dropped to the end of its operation, or to
        a wait, if that changes nothing that anybody shares: what the operation reads there goes
        into its result only. (Where tasks share variables the scenario's code is not part of that
        step, for it may read what another task has stored.) The next one begins to wait for what
        other control tasks bring about, and changes nothing else: whoever comes first, the task
        goes on when that is so. The last is that which takes a lock, if the others left are delayed
        work only, so that no other operation can change what this one has looked at before.
        """
        node = self._now.node
        dropped = node.just_dropped(task)
        if dropped or node.is_between_operations(task):
            following = self._tree.step(node, task).node
            goes_on = following.waits_for_tasks(task) or (dropped and following.has_returned(task))
            return goes_on and following.is_alike_but_for(task, node)
        return node.takes_lock(task) and not node.others_operate(task)

    def without_those_that_only_wait(self, tasks: Sequence[int]) -> Sequence[int]:
        """While one that holds a lock can go on, one that could only come to wait for a lock is not
        worth a choice.
        """
        held = self._now.node.held
        if not any(held[task] for task in tasks):
            return tasks
        return [task for task in tasks if held[task] or not self.only_waits(task)]

    def only_waits(self, task: int) -> bool:
        """The next step of a control task does nothing but come to wait for a lock that delayed
        work has.
        """
        node = self._now.node
        if node.others_operate(task):
            return False
        following = self._tree.step(node, task).node
        return following.is_alike_but_for(task, node) and following.locked_out(task)

    def _follow(self, task: int) -> None:
        now = self._now
        now.made += 1
        # control states may be met again, so a loop without an end need not be a long way to a new
        # one
        if now.made > STEPS_MAX:
            raise endless(now.node.state.plane.tasks[task].name)
        edge = self._tree.step(now.node, task)
        for write in edge.writes:
            if write.addr not in self._buffers:
                self._note_write(write.addr)
        self.enter(edge.node, task)
        for vcpu in now.vcpus:
            for ip in self._places_of(vcpu):
                if ip in self._buffers and self._judge.violation is None:
                    self._judge.in_buffer(vcpu.index, ip)

    def _places_of(self, vcpu: VcpuState) -> list[int]:
        """Where the task stands that has the vCPU, if it is in a call, and those that do not
        run.
        """
        away = [one.resume for one in vcpu.parked] if vcpu.parked else []
        return [self._cpus.ip(vcpu.index), *away] if vcpu.mode is Mode.CALL else away

    def _note_write(self, addr: int) -> None:
        """Coverage: which vCPUs are where while live text is written."""
        now = self._now
        site = next((site for site in now.sites.values() if site.addr <= addr < site.end), None)
        for vcpu in now.vcpus:
            inside = site is not None and any(
                site.addr < ip < site.end for ip in self._places_of(vcpu)
            )
            passing = vcpu.passing is not None or any(
                one.passing is not None for one in vcpu.parked
            )
            now.coverage.parked_in_range += inside
            now.coverage.in_flight_at_write += inside or passing or vcpu.hit is not None
