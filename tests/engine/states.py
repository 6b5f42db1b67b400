"""What a law of the core looks at: text, flags and list of the entry at an offset of f, and the
order of what is done to the text.
"""

from __future__ import annotations

from typing import NamedTuple

from arch_x86.lab.bench import Workbench
from engine.kprobe import AggrKprobe, Kprobe, KprobeFlag, Queue
from tests.conftest import BASE

INT3, JMP = 0xCC, 0xE9
NONE, DISABLED, OPTIMIZED = KprobeFlag(0), KprobeFlag.DISABLED, KprobeFlag.OPTIMIZED

# Bytes that a jump replaces, from its offset on: 0 -> 7, 1 -> 6, 2 -> 5, 4 -> 8, 7 -> 5, 8 -> 5;
# none fits at 12.
NOPS = "nop; nop; mov eax, edi; add rax, rdi; nop; lea rax, [rax + 1]; ret"


class State(NamedTuple):
    """``text``: jump, int3, or original (all 5 bytes, or up to the next probe)."""

    text: str
    flags: KprobeFlag
    queue: Queue


def text_at(bench: Workbench, offset: int = 0) -> str:
    addr = BASE + offset
    first = bench.machine.text.read(addr, 1)[0]
    if first in (INT3, JMP):
        return "jump" if first == JMP else "int3"
    original = bench.image.read(addr, 5)
    size = next(
        (size for size in range(1, len(original)) if bench.kprobes.get_kprobe(addr + size)),
        len(original),
    )
    assert bench.machine.text.read(addr, size) == original[:size], "the tail of a jump is left"
    return "original"


def entry_at(bench: Workbench, offset: int = 0) -> Kprobe:
    entry = bench.kprobes.get_kprobe(BASE + offset)
    assert entry is not None
    return entry


def aggr_at(bench: Workbench, offset: int = 0) -> AggrKprobe:
    entry = entry_at(bench, offset)
    assert isinstance(entry, AggrKprobe)
    return entry


def state(bench: Workbench, offset: int = 0) -> State:
    entry = entry_at(bench, offset)
    queue = entry.queue if isinstance(entry, AggrKprobe) else Queue.NONE
    for name, listed in bench.kprobes.optimizer.lists.items():
        assert (entry in listed) == (name is queue), "the entry says another list than it is on"
    return State(text_at(bench, offset), entry.flags & ~KprobeFlag.ON_FUNC_ENTRY, queue)


def put(
    bench: Workbench, offset: int = 0, *, wait: bool = False, symbol: str = "f", **fields
) -> Kprobe:
    """Register one; ``wait``: and let the optimizer come."""
    p = Kprobe(symbol_name=symbol, offset=offset, **fields)
    bench.kprobes.register_kprobe(p)
    if wait:
        bench.kprobes.wait_for_kprobe_optimizer()
    return p


def whole(bench: Workbench) -> bool:
    """The text is as it was loaded."""
    segment = bench.image.segments[0]
    return bench.machine.text.read(segment.addr, len(segment.data)) == segment.data


def recorded(bench: Workbench, monkeypatch) -> list[str]:
    """From now on: the reason of every write to text, and ``grace period`` where one begins."""
    log: list[str] = []
    bench.machine.text.listeners.append(lambda write: log.append(write.reason))
    wait = bench.plane.synchronize_sched

    def synchronize_sched(why: str) -> None:
        log.append("grace period")
        wait(why)

    monkeypatch.setattr(bench.plane, "synchronize_sched", synchronize_sched)
    return log
