"""Breakpoints going in and out, each on its own, or all of one operation together. Answers to
arch_arm_kprobe() and arch_disarm_kprobe() as kernel/kprobes.c calls them; no kernel does it
together, :data:`engine.core.profiles.NEXT` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from engine.arch import Arch
from engine.instrument import Instrument
from engine.kprobe import Kprobe

__all__ = ("Arming",)

T = TypeVar("T")


class Arming:
    """What an operation arms and disarms.

    :param instruments: who is told of it.
    :ivar together: it waits for :meth:`flush`, at the latest when the operation drops its locks;
        else it is done at once.
    :ivar waiting: what waits, by address: the probe, and whether it is to be armed.
    """

    def __init__(
        self, arch: Arch, instruments: Sequence[Instrument] = (), *, together: bool
    ) -> None:
        self._arch = arch
        self._instruments = instruments
        self.together = together
        self.waiting: dict[int, tuple[Kprobe, bool]] = {}

    def groups(self, these: Iterable[T]) -> list[list[T]]:
        """What an operation on ``these`` does before it goes on to the next of them: all, or
        one.
        """
        return [list(these)] if self.together else [[one] for one in these]

    def arm(self, p: Kprobe) -> None:
        """The breakpoint goes in, or ftrace's call."""
        self._change(p, on=True)

    def disarm(self, p: Kprobe) -> None:
        """The original first byte comes back, or the whole instruction that ftrace's call
        replaced.
        """
        self._change(p, on=False)

    def _change(self, p: Kprobe, *, on: bool) -> None:
        self.waiting[p.at] = (p, on)
        if not self.together:
            self.flush()

    def flush(self) -> None:
        """Do what waits."""
        if not self.waiting:
            return
        armed = [p for p, on in self.waiting.values() if on]
        disarmed = [p for p, on in self.waiting.values() if not on]
        self.waiting.clear()
        if armed:
            self._arch.arch_arm_kprobes(armed)
            for instrument in self._instruments:
                for p in armed:
                    instrument.armed(p)
        if disarmed:
            self.disarm_now(disarmed)

    def disarm_now(self, ps: Sequence[Kprobe]) -> None:
        """Write the original first bytes of ``ps``, and tell the instruments."""
        self._arch.arch_disarm_kprobes(ps)
        for instrument in self._instruments:
            for p in ps:
                instrument.disarmed(p)
