"""Tasks: each has a register context, a stack, and the outcome of the call that it makes."""

from __future__ import annotations

from enum import Enum, auto
from typing import TypeAlias

from arch_x86.emu.fault import GuestFault

__all__ = ("Task", "TaskSaved", "TaskState")


class TaskState(Enum):
    """The states of a task between and in its calls."""

    IDLE = auto()
    """The task is between two calls, and nothing is on its stack: a quiescent point."""
    RUNNING = auto()
    """The task is in a call."""
    FAULTED = auto()
    """The task's last call has died."""


TaskSaved: TypeAlias = tuple[TaskState, GuestFault | None, int, int, int]
"""The state of a task that :meth:`Task.save` returns."""


class Task:
    """One task; on a machine without a scheduler each vCPU has one.

    :ivar stack_top: the first address above its stack.
    :ivar base_rsp: RSP as the call's caller would see it after the return.
    :ivar fault: the fault that its last call died of.
    :ivar started: how many instructions the vCPU had retired when the call began.
    :ivar passed: how often the task has called ``schedule()``.
    """

    __slots__ = ("base_rsp", "fault", "name", "passed", "stack_top", "started", "state")

    def __init__(self, name: str, stack_top: int) -> None:
        self.name = name
        self.stack_top = stack_top
        self.base_rsp = stack_top
        self.state = TaskState.IDLE
        self.fault: GuestFault | None = None
        self.started = 0
        self.passed = 0

    def reset(self) -> None:
        """Go back to the state that the task was made in."""
        self.base_rsp = self.stack_top
        self.state = TaskState.IDLE
        self.fault = None
        self.started = 0

    def save(self) -> TaskSaved:
        """Return the task's state, for a snapshot."""
        return (self.state, self.fault, self.base_rsp, self.started, self.passed)

    def restore(self, saved: TaskSaved) -> None:
        """Go back to a state from a snapshot."""
        self.state, self.fault, self.base_rsp, self.started, self.passed = saved
