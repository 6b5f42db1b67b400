"""What a core tells its watchers: an explorer, a report, a test.

A watcher derives from :class:`Instrument`, overrides the methods of the events that it wants to be
told of, and is appended to :attr:`engine.core.kprobes.Kprobes.instruments`. A core without watchers
calls nothing. The kernel has no tracepoints at these places; the events are named after what
kernel/kprobes.c does there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.kprobe import AggrKprobe, Kprobe

__all__ = ("Instrument",)


class Instrument:
    """Watches a core. The core calls each method right behind what the method is named after, with
    the locks of that operation held, and goes on when the method returns. A method must not change
    the core, call guest code or wait.
    """

    def registered(self, p: Kprobe) -> None:
        """The probe ``p`` is in the table, alone or as a child of an aggregator. What registering
        arms is armed; in ``next``, which pokes together what an operation pokes, it is armed when
        the locks are dropped.
        """

    def unregistered(self, p: Kprobe) -> None:
        """The grace period of unregistering ``p`` is over: its handlers do not run any more, and
        what it alone used is freed.
        """

    def armed(self, p: Kprobe) -> None:
        """The breakpoint of the table's entry ``p``, or the call of ftrace, has been written."""

    def disarmed(self, p: Kprobe) -> None:
        """The original code of the table's entry ``p`` is back at its first byte; behind a call of
        ftrace, the whole instruction.
        """

    def optimized(self, op: AggrKprobe) -> None:
        """The jump to the detour buffer of ``op`` has been written over its breakpoint."""

    def unoptimized(self, op: AggrKprobe) -> None:
        """The breakpoint of ``op`` has been written over its jump."""

    def aggregator_made(self, op: AggrKprobe) -> None:
        """The aggregator ``op`` was made. Its detour buffer is prepared where the site allows one,
        and ``op`` is not in the table yet.
        """

    def aggregator_freed(self, op: AggrKprobe) -> None:
        """The slot and the detour buffer of the aggregator ``op`` were given back."""

    def missed(self, p: Kprobe) -> None:
        """A hit on ``p`` was counted in its ``nmissed``: its handlers do not run. A hit on an
        aggregator is told for each of its children.
        """
