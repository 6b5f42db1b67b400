"""The events that a core tells its watchers, such as an exploration, a report or a test.

The kernel has no tracepoints for these events. A watcher is of a class derived from
:class:`Instrument` that overrides the methods of the events it needs, and it is added to
:attr:`engine.core.kprobes.Kprobes.instruments`. Where that is empty, nothing is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.kprobe import AggrKprobe, Kprobe

__all__ = ("Instrument",)


class Instrument:
    """A watcher of a core. It ignores all events that it does not override.

    The code that an event is about calls its method, and goes on when the method returns. A method
    must not change the core.
    """

    def aggregator_made(self, op: AggrKprobe) -> None:
        """``op`` was made, and is not in the table yet.

        Its detour buffer is prepared, if the site allows a jump.
        """

    def missed(self, p: Kprobe) -> None:
        """A hit on ``p`` was counted in its ``nmissed``, and its handlers do not run.

        A miss of an aggregator is told once for each of its children.
        """
