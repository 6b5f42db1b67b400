"""Tasks: a register context and a stack, and what became of the call that it makes."""

from __future__ import annotations

from enum import Enum, auto
from typing import Any

from arch_x86.emu.fault import GuestFault

__all__ = ("Task", "TaskState")


class TaskState(Enum):
    """``IDLE`` is a quiescent point: between calls, nothing on the stack."""

    IDLE = auto()
    RUNNING = auto()
    FAULTED = auto()


class Task:
    """One task; on a machine without a scheduler each vCPU has one.

    ``passed``: how often it has called ``schedule()``. ``stack_top`` is the first address above its
    stack. ``base_rsp`` is RSP as the call's caller would see it after the return.
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
        """As it was made."""
        self.base_rsp = self.stack_top
        self.state = TaskState.IDLE
        self.fault = None
        self.started = 0

    def save(self) -> tuple[Any, ...]:
        """For a snapshot."""
        return (self.state, self.fault, self.base_rsp, self.started, self.passed)

    def restore(self, saved: tuple[Any, ...]) -> None:
        """From a snapshot."""
        self.state, self.fault, self.base_rsp, self.started, self.passed = saved
