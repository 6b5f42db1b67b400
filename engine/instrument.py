"""The events that a core tells its watchers. Answers to kernel/kprobes.c.

The kernel has no tracepoints at these places; the events are named after what it does there. A
watcher, such as an exploration, a report or a test, derives from :class:`Instrument`, overrides the
methods of the events that it needs, and is appended to
:attr:`engine.core.kprobes.Kprobes.instruments`. A core without watchers calls nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.kprobe import AggrKprobe, Kprobe

__all__ = ("Instrument",)


class Instrument:
    """A watcher of a core, which ignores all events that it does not override.

    The core calls each method right behind what the method is named after, with the locks held that
    it holds there, and goes on when the method returns. A method must not change the core, call
    guest code or wait.
    """

    def registered(self, p: Kprobe) -> None:
        """The probe ``p`` is in the table, alone or as a child of an aggregator.

        What registering arms is armed; in ``next``, which pokes together what an operation pokes,
        it is armed when the locks are dropped.
        """

    def unregistered(self, p: Kprobe) -> None:
        """The grace period of unregistering ``p`` is over.

        Its handlers do not run any more, and what it alone used is freed.
        """

    def armed(self, p: Kprobe) -> None:
        """The breakpoint of the table's entry ``p``, or the call of ftrace, has been written."""

    def disarmed(self, p: Kprobe) -> None:
        """The original first byte of the table's entry ``p`` is back.

        Where ftrace's call stood, the whole original instruction is back.
        """

    def optimized(self, op: AggrKprobe) -> None:
        """The jump to the detour buffer of ``op`` has been written over its breakpoint."""

    def unoptimized(self, op: AggrKprobe) -> None:
        """The breakpoint of ``op`` has been written over its jump."""

    def aggregator_made(self, op: AggrKprobe) -> None:
        """The aggregator ``op`` was made, and is not in the table yet.

        Its detour buffer is prepared, if the site allows a jump.
        """

    def aggregator_freed(self, op: AggrKprobe) -> None:
        """The slot and the detour buffer of the aggregator ``op`` were given back."""

    def missed(self, p: Kprobe) -> None:
        """A hit on ``p`` was counted in its ``nmissed``, and its handlers do not run.

        A miss of an aggregator is told once for each of its children.
        """
