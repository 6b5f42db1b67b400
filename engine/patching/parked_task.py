"""The record of a task that is off its CPU, and the modes in which a task can be."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from engine.patching.expectations import Lives
from engine.patching.passes import Pass, pass_key

__all__ = ("Mode", "ParkedTask")


class Mode(IntEnum):
    """The mode says what a task is doing."""

    IDLE = 0
    """The task is between calls."""
    CALL = 1
    """The task is in a call."""
    DONE = 2
    """The task has made all its calls."""


@dataclass(frozen=True, slots=True)
class ParkedTask:
    """This record has the state of a task that is off its CPU, and never changes.

    :ivar task: the number of the task: 2 * vCPU, and one more for the vCPU's second task.
    :ivar mode: whether it is in a call.
    :ivar calls: how many calls it has begun.
    :ivar passing: the pass over a site that it is in, or None.
    :ivar quiet: it stands in ``schedule()``.
    :ivar rip: the address at which the CPU goes on when it gets the task.
    :ivar resume: the address of the instruction at which the task was interrupted.
    :ivar registers: its registers.
    :ivar vectors: the state of its vector and floating-point units.
    :ivar stack_top: the address above its stack.
    :ivar context: what the port needs to let the task run again.
    """

    task: int
    mode: Mode
    calls: int
    passing: Pass | None
    quiet: bool
    rip: int
    resume: int
    registers: tuple[int, ...]
    vectors: bytes
    stack_top: int
    context: Any

    @property
    def in_call(self) -> bool:
        """Return whether the task is neither between calls nor in ``schedule()``."""
        return self.mode is Mode.CALL and not self.quiet

    def key(self, lives: Lives) -> tuple[Any, ...]:
        """Return what the hash of a state has of this task.

        The task's stack is not in it, since that is hashed with the memory.
        """
        if self.mode is not Mode.CALL:
            return (self.task, self.calls)
        passing = pass_key(self.passing, lives)
        return (self.task, self.calls, passing, self.quiet, self.rip, self.registers, self.vectors)
