"""What the laws of the core look at: the text, flags and list of an entry, and the order of pokes.

The entry is at an offset of the function f.
"""

from __future__ import annotations

from typing import NamedTuple

from arch_x86.lab.bench import Workbench
from engine.kprobe import AggrKprobe, Kprobe, KprobeFlag, Queue
from tests.conftest import BASE

INT3, JMP = 0xCC, 0xE9
NONE, DISABLED, OPTIMIZED = KprobeFlag(0), KprobeFlag.DISABLED, KprobeFlag.OPTIMIZED

# The bytes that a jump replaces, by its offset: 7 at 0, 6 at 1, 5 at 2, 8 at 4, 5 at 7, 5 at 8.
# None fits at 12.
NOPS = "nop; nop; mov eax, edi; add rax, rdi; nop; lea rax, [rax + 1]; ret"


class State(NamedTuple):
    """The state of one entry.

    :ivar text: ``jump``, ``int3`` or ``original``, which means all 5 bytes or those up to the next
        probe.
    """

    text: str
    flags: KprobeFlag
    queue: Queue


def text_at(bench: Workbench, offset: int = 0) -> str:
    """The text at an offset of f as :class:`State` has it; no tail of a jump may be left."""
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
    """The entry of the table at an offset of f."""
    entry = bench.kprobes.get_kprobe(BASE + offset)
    assert entry is not None
    return entry


def aggr_at(bench: Workbench, offset: int = 0) -> AggrKprobe:
    """The aggregator at an offset of f."""
    entry = entry_at(bench, offset)
    assert isinstance(entry, AggrKprobe)
    return entry


def state(bench: Workbench, offset: int = 0) -> State:
    """The state of the entry at an offset of f."""
    entry = entry_at(bench, offset)
    queue = entry.queue if isinstance(entry, AggrKprobe) else Queue.NONE
    for name, listed in bench.kprobes.optimizer.lists.items():
        assert (entry in listed) == (name is queue), "the entry says another list than it is on"
    return State(text_at(bench, offset), entry.flags & ~KprobeFlag.ON_FUNC_ENTRY, queue)


def put(
    bench: Workbench, offset: int = 0, *, wait: bool = False, symbol: str = "f", **fields
) -> Kprobe:
    """Register a probe and, with ``wait``, wait for the optimizer."""
    p = Kprobe(symbol_name=symbol, offset=offset, **fields)
    bench.kprobes.register_kprobe(p)
    if wait:
        bench.kprobes.wait_for_kprobe_optimizer()
    return p


def whole(bench: Workbench) -> bool:
    """Whether the text is as it was loaded."""
    segment = bench.image.segments[0]
    return bench.machine.text.read(segment.addr, len(segment.data)) == segment.data


def recorded(bench: Workbench, monkeypatch) -> list[str]:
    """A list that gets the reason of every write to text from now on, in order.

    Where a grace period begins it gets ``grace period``.
    """
    log: list[str] = []
    bench.machine.text.listeners.append(lambda write: log.append(write.reason))
    wait = bench.plane.synchronize_sched

    def synchronize_sched(why: str) -> None:
        log.append("grace period")
        wait(why)

    monkeypatch.setattr(bench.plane, "synchronize_sched", synchronize_sched)
    return log
