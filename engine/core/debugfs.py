"""What debugfs kprobes/list shows. Answers to report_probe() and show_kprobe_addr() in
kernel/kprobes.c.
"""

from __future__ import annotations

from engine.core.kprobes import Kprobes
from engine.kprobe import AggrKprobe, Kprobe, KprobeFlag

__all__ = ("kprobes_list", "listed_probes", "status_words")


def listed_probes(core: Kprobes) -> list[tuple[Kprobe, Kprobe]]:
    """``(probe, entry of the table)`` of all registered probes: in address order, the newest at an
    address first.
    """
    found: list[tuple[Kprobe, Kprobe]] = []
    for _addr, entry in sorted(core.kprobe_table.items()):
        if isinstance(entry, AggrKprobe):
            found += ((child, entry) for child in entry.children)
        else:
            found.append((entry, entry))
    return found


def status_words(p: Kprobe, entry: Kprobe) -> str:
    """``[GONE]``, ``[DISABLED]``, ``[OPTIMIZED]``, ``[FTRACE]``: the first two of the probe itself,
    the others of what stands in the table.
    """
    words = "[GONE]" if p.gone else "[DISABLED]" if p.disabled else ""
    return (
        words
        + ("[OPTIMIZED]" if entry.flags & KprobeFlag.OPTIMIZED else "")
        + ("[FTRACE]" if entry.ftrace else "")
    )


def kprobes_list(core: Kprobes) -> str:
    """One line a probe: ``ADDR  KIND  SYMBOL+0xOFFSET  [FLAGS]``, the address in 16 hex digits."""
    lines = [
        f"{p.at:016x}  {p.kind}  {core.kallsyms.describe(p.at)}  {status_words(p, entry)}\n"
        for p, entry in listed_probes(core)
    ]
    return "".join(lines)
