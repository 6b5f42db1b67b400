"""Probes in code that goes away. Answers to kill_kprobe() and kprobes_module_callback() in
kernel/kprobes.c.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from engine.arch import Arch
from engine.control.sync import Mutex
from engine.core.arming import Arming
from engine.core.optprobes import Optprobes
from engine.kprobe import AggrKprobe, Kprobe, KprobeFlag

__all__ = ("ProbesOfModules", "kill_kprobe", "kprobes_module_going")


class ProbesOfModules(Protocol):
    """What is asked of the core."""

    arch: Arch
    arming: Arming
    optprobes: Optprobes
    kprobe_mutex: Mutex
    kprobe_table: dict[int, Kprobe]
    kprobes_all_disarmed: bool

    def locked(self, why: str) -> AbstractContextManager[None]:
        """Hold kprobe_mutex, and below it the locks that a change of text needs."""
        ...


def kill_kprobe(core: ProbesOfModules, entry: Kprobe) -> None:
    """Mark the probes of a table's ``entry`` as GONE, since the code under them is, and free their
    slot and detour buffer. The text is not touched, but by ftrace, which takes its call away.
    """
    core.kprobe_mutex.assert_held()
    if entry.ftrace and not entry.disabled and not core.kprobes_all_disarmed:
        core.arming.disarm(entry)
        core.arming.flush()
    entry.flags |= KprobeFlag.GONE
    if isinstance(entry, AggrKprobe):
        for child in entry.children:
            child.flags |= KprobeFlag.GONE
        entry.post_handler = entry.break_handler = None
        core.optprobes.kill_optimized_kprobe(entry)
    core.arch.arch_remove_kprobe(entry)


def kprobes_module_going(core: ProbesOfModules, start: int, size: int) -> int:
    """See :meth:`engine.core.kprobes.Kprobes.kprobes_module_going`."""
    with core.locked("module going"):
        entries = [
            p
            for addr, p in core.kprobe_table.items()
            if start <= addr < start + size and not p.gone
        ]
        for entry in entries:
            kill_kprobe(core, entry)
    return len(entries)
