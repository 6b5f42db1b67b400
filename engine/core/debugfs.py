"""The list of probes that debugfs kprobes/list shows. Answers to kernel/kprobes.c.

There it is made by report_probe() and show_kprobe_addr().
"""

from __future__ import annotations

from engine.core.kprobes import Kprobes
from engine.kprobe import AggrKprobe, Kprobe, KprobeFlag

__all__ = ("kprobes_list", "listed_probes", "status_words")


def listed_probes(core: Kprobes) -> list[tuple[Kprobe, Kprobe]]:
    """All registered probes in the order of addresses, the newest at an address first.

    :returns: pairs of a probe and the entry of the table that it belongs to, which is the probe
        itself or its aggregator.
    """
    found: list[tuple[Kprobe, Kprobe]] = []
    for _addr, entry in sorted(core.kprobe_table.items()):
        if isinstance(entry, AggrKprobe):
            found += ((child, entry) for child in entry.children)
        else:
            found.append((entry, entry))
    return found


def status_words(p: Kprobe, entry: Kprobe) -> str:
    """The flags of a probe as debugfs shows them, such as ``[DISABLED][OPTIMIZED]``.

    ``[GONE]`` or ``[DISABLED]`` is told of ``p`` itself, ``[OPTIMIZED]`` and ``[FTRACE]`` of
    ``entry``, which stands in the table.
    """
    words = "[GONE]" if p.gone else "[DISABLED]" if p.disabled else ""
    return (
        words
        + ("[OPTIMIZED]" if entry.flags & KprobeFlag.OPTIMIZED else "")
        + ("[FTRACE]" if entry.ftrace else "")
    )


def kprobes_list(core: Kprobes) -> str:
    """The list as text, one line a probe: ``ADDR  KIND  SYMBOL+0xOFFSET  [FLAGS]``.

    The address has 16 hexadecimal digits.
    """
    lines = [
        f"{p.at:016x}  {p.kind}  {core.kallsyms.describe(p.at)}  {status_words(p, entry)}\n"
        for p, entry in listed_probes(core)
    ]
    return "".join(lines)
