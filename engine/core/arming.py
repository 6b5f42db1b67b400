"""Arming and disarming, one by one or all of an operation together. Answers to kernel/kprobes.c.

There it is the calls of arch_arm_kprobe() and arch_disarm_kprobe(). Every kernel calls them for one
probe at a time; only :data:`engine.core.profiles.NEXT` writes those of an operation together.
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
    """The breakpoints, or calls of ftrace's trampoline, that an operation writes and removes.

    :param instruments: the watchers that are told of each write.
    :ivar together: whether the writes wait for :meth:`flush`, which is called at the latest before
        the operation drops its locks; else each is done at once.
    :ivar waiting: the writes that wait, by address: the probe, and whether it is to be armed. A
        later one at the same address replaces an earlier one.
    """

    def __init__(
        self, arch: Arch, instruments: Sequence[Instrument] = (), *, together: bool
    ) -> None:
        self._arch = arch
        self._instruments = instruments
        self.together = together
        self.waiting: dict[int, tuple[Kprobe, bool]] = {}

    def groups(self, these: Iterable[T]) -> list[list[T]]:
        """``these`` in the groups that an operation works on one after the other.

        If the writes are done together, there is one group; else each member is a group of its own.
        """
        return [list(these)] if self.together else [[one] for one in these]

    def arm(self, p: Kprobe) -> None:
        """Write the breakpoint of ``p``, or ftrace's call."""
        self._change(p, on=True)

    def disarm(self, p: Kprobe) -> None:
        """Write back the original first byte of ``p``.

        Where ``p`` is made of ftrace, the whole instruction that ftrace's call replaced comes back.
        """
        self._change(p, on=False)

    def _change(self, p: Kprobe, *, on: bool) -> None:
        """Note that ``p`` is to be armed or disarmed, and do it unless writes wait."""
        self.waiting[p.at] = (p, on)
        if not self.together:
            self.flush()

    def flush(self) -> None:
        """Do all writes that wait: first those that arm, then those that disarm."""
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
