"""Tasks that a control task has suspended, and the places to which it moves them meanwhile.

A hooking library suspends all threads while it writes code, and moves those that stand in the bytes
which it replaces. So does stop-the-world of a runtime that patches its own code.
"""

from __future__ import annotations

from dataclasses import replace

from engine.patching.control_tree import ControlNode
from engine.patching.parked_task import Mode, ParkedTask
from engine.patching.situation import Situation

__all__ = ("SuspendedTasks",)


class SuspendedTasks:
    """This object suspends the tasks of all vCPUs, and lets them go on."""

    def __init__(self, now: Situation) -> None:
        self._vcpus = now.vcpus
        self._cpus = now.port.cpus

    def step(self, before: ControlNode, behind: ControlNode) -> None:
        """Note that a control task's step has led from ``before`` to ``behind``."""
        if before.hidden is not None and behind.hidden is None:
            for vcpu in self._vcpus:
                if vcpu.shut_out:
                    # While it had no translation the vCPU could fetch nothing of that code.
                    vcpu.synchronize()
                    vcpu.shut_out = False
        if before.frozen is behind.frozen:
            return
        if behind.frozen is None:
            for vcpu in self._vcpus:
                if vcpu.frozen:
                    vcpu.frozen = False
                    vcpu.synchronize()  # A suspended task goes on through the kernel's IRET.
            return
        moves = dict(behind.frozen.moves)
        for vcpu in self._vcpus:
            vcpu.frozen = vcpu.live or behind.frozen.new_tasks
            if vcpu.mode is Mode.CALL and (ip := self._cpus.ip(vcpu.index)) in moves:
                self._cpus.move(vcpu.index, moves[ip])
            vcpu.parked = tuple(self._moved(one, moves) for one in vcpu.parked)

    def _moved(self, one: ParkedTask, moves: dict[int, int]) -> ParkedTask:
        """Return the task ``one``, which is off its CPU, at the place to which it is moved."""
        if one.mode is not Mode.CALL or one.resume not in moves:
            return one
        self._cpus.move_parked(one, moves[one.resume])
        return replace(one, resume=moves[one.resume])
