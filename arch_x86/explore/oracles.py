"""What must hold on every schedule: the oracles of section 8 of the design, each an object of its own.

Each answers with a :class:`Violation`, or None. They look at what the CPUs do; number 3, hits, is :mod:`arch_x86.explore.passes` and, for
return probes, :mod:`arch_x86.explore.return_oracle`; number 6, the core's own rules, is :mod:`arch_x86.explore.invariants`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from mmap import mmap
from typing import Any, Final

from arch_x86.emu.cpu import Cpu
from arch_x86.emu.uc import GPR_NAMES
from arch_x86.explore.lane import Lane
from arch_x86.isa.constants import JMP32_SIZE
from arch_x86.text.version import TextStore, TextVersion
from engine.kprobe import Kprobe
from engine.search.explorable import Violation, ViolationKind

__all__ = ("DeadlockOracle", "FreedOracle", "MemoryOracle", "RestoredOracle", "ResultOracle", "Site", "TornOracle", "difference")

_INT3: Final = 0xCC
_JMP: Final = 0xE9
Where = Callable[[int], str]


@dataclass(slots=True)
class Site:
    """An address that gets probes. ``insns``: the original instructions from there to behind what a jump may replace, by address.

    ``jumps``: jumps that were prepared for it so far; ``calls``: calls of ftrace. ``probes``: numbers of the scenario's probes there.
    """

    addr: int
    insns: dict[int, bytes]
    jumps: set[bytes] = field(default_factory=set[bytes])
    probes: set[int] = field(default_factory=set[int])
    calls: set[bytes] = field(default_factory=set[bytes])

    @property
    def end(self) -> int:
        """Behind its last instruction."""
        return max(addr + len(raw) for addr, raw in self.insns.items())

    def armed(self, fetched: bytes) -> bool:
        """``fetched`` at :attr:`addr`, 5 bytes or more, is a breakpoint, a jump, or a call of ours."""
        original = self.insns[self.addr]
        return not fetched.startswith(original[: len(fetched)]) and (fetched[0] in (_INT3, _JMP) or self.calls_ftrace(fetched))

    def calls_ftrace(self, fetched: bytes) -> bool:
        """``fetched`` begins with ftrace's call."""
        return any(map(fetched.startswith, self.calls))


class TornOracle:
    """1. Every instruction starts on a boundary of the code that is valid there, and is decoded from one version of the text.

    Near a site that is: an original instruction, whole; at a site also a breakpoint, or a whole jump or call that was prepared for it.
    """

    def __init__(self, store: TextStore, where: Where) -> None:
        self._store = store
        self._where = where
        self.insns: dict[int, bytes] = {}
        self.sites: dict[int, Site] = {}

    def learn(self, addr: int, insns: dict[int, bytes]) -> Site:
        """A site more, or more of the original instructions there."""
        site = self.sites.setdefault(addr, Site(addr, insns))
        site.insns = insns
        self.insns.update(insns)
        return site

    def check(self, cpu: Cpu) -> Violation | None:
        """``cpu`` is about to execute the instruction at its RIP, which lies near a site."""
        rip = cpu.rip
        original = self.insns.get(rip)
        if original is None:
            return self._torn(cpu, "which is inside of an original instruction")
        fetched = self._store.read(cpu.view, rip, max(len(original), JMP32_SIZE))
        if fetched.startswith(original):
            return None
        site = self.sites.get(rip)
        if site is not None and (fetched[0] == _INT3 or fetched[:JMP32_SIZE] in site.jumps or site.calls_ftrace(fetched)):
            return None
        return self._torn(cpu, f"where {fetched[: len(original)].hex(' ')} stands for {original.hex(' ')}")

    def _torn(self, cpu: Cpu, why: str) -> Violation:
        return Violation(ViolationKind.TORN, cpu.index, cpu.rip, f"CPU {cpu.index} executes {self._where(cpu.rip)}, {why}")


class MemoryOracle:
    """2. Memory that no unprobed call writes is as it was at the start.

    :param spans: physical spans that calls may write.
    """

    def __init__(self, ram: bytes, pages: Sequence[tuple[int, int]], spans: Sequence[range]) -> None:
        own = sorted((span.start, span.stop) for span in spans)
        self._kept = [(begin, ram[begin:end]) for page in pages for begin, end in _without(page, own)]

    def check(self, room: mmap) -> Violation | None:
        """``room``: the RAM, at the end of a schedule."""
        for begin, content in self._kept:
            if room[begin : begin + len(content)] != content:
                at = next(i for i, value in enumerate(content) if room[begin + i] != value)
                text = f"a byte that no unprobed call writes, at physical address {begin + at:#x}, has changed"
                return Violation(ViolationKind.WRONG_RESULT, None, None, text)
        return None


def _without(page: tuple[int, int], own: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """What of ``page`` lies outside of the spans ``own``, which ascend."""
    at, end = page
    for begin, stop in own:
        if begin < end and stop > at:
            if begin > at:
                yield at, begin
            at = max(at, stop)
    if at < end:
        yield at, end


class ResultOracle:
    """2. A call leaves what the unprobed call leaves: registers, flags, vector and x87 registers, buffers, and no fault."""

    def check(self, lane: Lane, addr: int, got: tuple[Any, ...], want: tuple[Any, ...]) -> Violation | None:
        """A call of ``addr`` on ``lane`` has ended with ``got``."""
        if got == want:
            return None
        text = f"call {lane.calls} of CPU {lane.index} left {difference(got, want)}"
        return Violation(ViolationKind.WRONG_RESULT, lane.index, addr, text)


def difference(got: tuple[Any, ...], want: tuple[Any, ...]) -> str:
    """The first part in which what a call has left differs from ``want``, which an unprobed one leaves."""
    for name, new, old in zip((*GPR_NAMES, "rflags"), got[0], want[0], strict=True):
        if new != old:
            return f"{name} = {new:#x}, without probes {old:#x}"
    parts = ("vector registers", "x87 registers", "a buffer", "the fault")
    different = (part for part, new, old in zip(parts, got[1:], want[1:], strict=True) if new != old)
    return f"{next(different)} that differs from the unprobed run"


class FreedOracle:
    """4. Nothing executes in, or returns to, a slot or detour buffer that is not in use."""

    def __init__(self, where: Where) -> None:
        self._where = where

    def check(self, cpu: int, rip: int, live: Callable[[int], bool]) -> Violation | None:
        """A CPU, or a task off its CPU, is at ``rip``, in the pages of slots or detour buffers; ``live``: whether an address there is in
        one that is in use."""
        if live(rip):
            return None
        return Violation(ViolationKind.USE_AFTER_FREE, cpu, rip, f"CPU {cpu} is at {self._where(rip)}, which was freed")

    def check_probe(self, cpu: int, p: Kprobe | None) -> Violation | None:
        """A hit goes on with ``p``."""
        if p is None or p.ainsn is not None:
            return None
        text = f"a hit on CPU {cpu} goes on with the probe at {self._where(p.at)}, which was freed"
        return Violation(ViolationKind.USE_AFTER_FREE, cpu, p.at, text)


class RestoredOracle:
    """5. After all is unregistered the text is the original, byte for byte."""

    def __init__(self, store: TextStore, private: Callable[[int], bool], where: Where) -> None:
        self._initial = store.initial
        self._private = private
        self._where = where

    def check(self, version: TextVersion) -> Violation | None:
        """Every control task has ended with ``version``."""
        originals = {page.vpn: page for page in self._initial.changes_from(None)}
        for page in version.changes_from(self._initial):
            old = originals.get(page.vpn)
            if old is None or self._private(page.vpn << 12):
                continue
            at = next(i for i, (new, was) in enumerate(zip(page.content, old.content, strict=True)) if new != was)
            addr = (page.vpn << 12) + at
            text = f"{self._where(addr)} holds {page.content[at]:#04x} at the end, originally {old.content[at]:#04x}"
            return Violation(ViolationKind.NOT_RESTORED, None, addr, text)
        return None


class DeadlockOracle:
    """7. Every control task ends."""

    def check(self, waiting: Sequence[str]) -> Violation | None:
        """Nobody can go on; ``waiting``: where the control tasks stand that have not ended."""
        if not waiting:
            return None
        return Violation(ViolationKind.DEADLOCK, None, None, f"nobody can go on: {'; '.join(waiting)}")
