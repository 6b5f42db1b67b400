"""The record of a task that is off its CPU, and of what a task can be doing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from engine.patching.expectations import Lives
from engine.patching.passes import Pass, pass_key

__all__ = ("Mode", "ParkedTask")


class Mode(IntEnum):
    """What a task is doing."""

    IDLE = 0
    """It is between calls."""
    CALL = 1
    DONE = 2
    """All its calls are made."""


@dataclass(frozen=True, slots=True)
class ParkedTask:
    """One task that is not running. Nothing in it changes.

    :ivar task: its number: 2 * vCPU, and one more for the second.
    :ivar rip: where the CPU goes on; ``resume``: the instruction that was interrupted.
    :ivar registers: its registers; ``vectors``: the state of its vector and floating-point units.
    :ivar stack_top: the address above its stack.
    :ivar context: what the port needs to let it run again.
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
        """It is neither between calls nor in ``schedule()``."""
        return self.mode is Mode.CALL and not self.quiet

    def key(self, lives: Lives) -> tuple[Any, ...]:
        """For a state's hash; its stack is hashed with the memory."""
        if self.mode is not Mode.CALL:
            return (self.task, self.calls)
        passing = pass_key(self.passing, lives)
        return (self.task, self.calls, passing, self.quiet, self.rip, self.registers, self.vectors)
