"""Steps of control tasks: how far one goes without a choice, and what vCPUs see of that."""

from __future__ import annotations

from collections.abc import Sequence

from engine.patching.control_tree import STEPS_MAX, ControlNode, ControlStep, ControlTree, endless
from engine.patching.fetches import Fetches
from engine.patching.judge import Judge
from engine.patching.parked_task import Mode
from engine.patching.places import Places
from engine.patching.situation import Situation
from engine.patching.suspended_tasks import SuspendedTasks
from engine.patching.vcpu import VcpuState
from engine.patching.waits import Waits

__all__ = ("ControlSteps",)


class ControlSteps:
    """This object lets control tasks go on.

    The vCPUs are shown each control state that a task leads to, and the oracles look at that
    state.
    """

    def __init__(
        self,
        now: Situation,
        judge: Judge,
        *,
        tree: ControlTree,
        places: Places,
        waits: Waits,
        fetches: Fetches,
        suspended: SuspendedTasks,
    ) -> None:
        self._now = now
        self._judge = judge
        self._tree = tree
        self._places = places
        self._waits = waits
        self._fetches = fetches
        self._suspended = suspended
        self._text = now.port.text
        self._buffers = now.port.text.buffers
        self._cpus = now.port.cpus
        self._reduce = now.experiment.reduce

    # Showing states -------------------------------------------------------------------------------

    def show(self, node: ControlNode) -> None:
        """Let the vCPUs fetch the text of ``node``, and let its core take their traps."""
        self._now.node = node
        self._text.show(node.state, node.version)
        if self._places.new:
            self._places.install()

    def enter(self, node: ControlNode, stepped: int) -> None:
        """Make ``node`` the present control state.

        :param stepped: the number of the control task that has led to it, or -1 for none.
        """
        self.show(node)
        self._waits.entered(node.waits, stepped)
        self._judge.enter(node)

    # Steps ----------------------------------------------------------------------------------------

    def step(self, task: int, most: int | None) -> int:
        """Let a control task go on to the next point where the order of actors makes a difference.

        :param most: the most steps that it may make; None sets no limit.
        :returns: how many steps the task made.
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
        """Return whether it makes no difference if another actor comes before the task's next step.

        It makes none for three kinds of steps (docs/explore.md, "Control tasks and locks"):

        * The step from the last lock that the task dropped to the end of its operation, or
          to a wait, if it changes nothing that is shared: what the operation reads there
          decides its result only. Where tasks share variables the scenario's code is not
          part of that step, since it may read what another task has stored.
        * The step that begins to wait for what other control tasks bring about, and changes
          nothing else: in whatever order the actors come, the task goes on when that has
          come about.
        * The step that takes a lock, if the other tasks that are left are delayed work
          only, so that no other operation can change what this one has looked at before.
        """
        node = self._now.node
        dropped = node.just_dropped(task)
        if dropped or node.is_between_operations(task):
            following = self._tree.step(node, task).node
            goes_on = following.waits_for_tasks(task) or (dropped and following.has_returned(task))
            return goes_on and following.is_alike_but_for(task, node)
        return node.takes_lock(task) and not node.others_operate(task)

    def without_those_that_only_wait(self, tasks: Sequence[int]) -> Sequence[int]:
        """Return ``tasks`` without those that could only come to wait for a lock.

        They are left out only while a task that holds a lock can go on: a step of theirs
        would only bring them to a wait that lasts until that task has gone on.
        """
        held = self._now.node.held
        if not any(held[task] for task in tasks):
            return tasks
        return [task for task in tasks if held[task] or not self.only_waits(task)]

    def only_waits(self, task: int) -> bool:
        """Return whether the task's next step only comes to wait for a lock of delayed work."""
        node = self._now.node
        if node.others_operate(task):
            return False
        following = self._tree.step(node, task).node
        return following.is_alike_but_for(task, node) and following.locked_out(task)

    def _follow(self, task: int) -> None:
        now = self._now
        now.made += 1
        # A loop without an end may come to the same control states again and again, so the length
        # of a node's path can't tell that a schedule has no end: the steps made are counted.
        if now.made > STEPS_MAX:
            raise endless(now.node.state.plane.tasks[task].name)
        before = now.node
        edge = self._tree.step(before, task)
        self.meet(before, edge, task)
        self.enter(edge.node, task)
        self.look_into_buffers()

    def meet(self, before: ControlNode, edge: ControlStep, task: int) -> None:
        """Let the vCPUs meet what a step of control task ``task`` stores, suspends and lets go.

        :param before: the control state in front of the step.
        """
        for write in edge.writes:
            if write.addr not in self._buffers:
                self._note_write(write.addr)
        self._fetches.stored(before, edge, task)
        self._suspended.step(before, edge.node)

    def look_into_buffers(self) -> None:
        """Let the oracles look at each task that stands in a slot or detour buffer."""
        for vcpu in self._now.vcpus:
            for ip in self.places_of(vcpu):
                if ip in self._buffers and self._judge.violation is None:
                    self._judge.in_buffer(vcpu.index, ip)

    def places_of(self, vcpu: VcpuState) -> list[int]:
        """Return where the tasks of the vCPU stand that are in a call or do not run.

        The task that has the vCPU counts only if it is in a call.
        """
        away = [one.resume for one in vcpu.parked] if vcpu.parked else []
        return [self._cpus.ip(vcpu.index), *away] if vcpu.mode is Mode.CALL else away

    def _note_write(self, addr: int) -> None:
        """Count in the coverage the vCPUs that are in flight while live text is written."""
        now = self._now
        sites = (*now.sites.values(), *now.patches)
        site = next((site for site in sites if site.addr <= addr < site.end), None)
        for vcpu in now.vcpus:
            inside = site is not None and any(
                site.addr < ip < site.end for ip in self.places_of(vcpu)
            )
            passing = vcpu.passing is not None or any(
                one.passing is not None for one in vcpu.parked
            )
            now.coverage.parked_in_range += inside
            now.coverage.in_flight_at_write += inside or passing or vcpu.hit is not None
