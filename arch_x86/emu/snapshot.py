"""Snapshots: the state of a machine at a moment."""

from __future__ import annotations

import ctypes
from typing import Any

from arch_x86.emu.cpu import CpuState
from arch_x86.emu.memory import Ram
from arch_x86.emu.task import TaskSaved
from arch_x86.text.text_version import TextVersion

__all__ = ("Snapshot",)


class Snapshot:
    """The state of a machine, as its method ``snapshot`` returns it.

    It is legal only for the machine that took it.

    :ivar owner: the memory of the machine that took it.
    :ivar released: its room may be in use for another snapshot.
    :ivar ram: the content of memory, of which the first ``ram_len`` bytes were in use.
    :ivar cpus: the state of each vCPU.
    :ivar text: the text.
    :ivar unloaded: the start and end of each piece of text that was unloaded.
    :ivar clock: the machine's time.
    :ivar tasks: the state of each task.
    :ivar others: what each participant has saved.
    """

    __slots__ = (
        "clock",
        "cpus",
        "others",
        "owner",
        "ram",
        "ram_len",
        "released",
        "tasks",
        "text",
        "unloaded",
    )

    def __init__(
        self,
        owner: Ram,
        ram: ctypes.Array[ctypes.c_char],
        ram_len: int,
        cpus: list[CpuState],
        text: TextVersion,
    ) -> None:
        self.owner = owner
        self.released = False
        self.ram = ram
        self.ram_len = ram_len
        self.cpus = cpus
        self.text = text
        self.unloaded: dict[int, int] = {}
        self.clock = 0
        self.tasks: list[TaskSaved] = []
        self.others: list[Any] = []
