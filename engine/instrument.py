"""What the core tells whoever watches it: an explorer, a report, a test.

Answers to the tracepoints that the kernel does not have here. A watcher derives from
:class:`Instrument`, says what it wants to be told by the methods it has of its own, and is added to
:attr:`engine.core.kprobes.Kprobes.instruments`. With none there, nothing is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.kprobe import AggrKprobe, Kprobe

__all__ = ("Instrument",)


class Instrument:
    """Watches a core. Each method is called by the code that does what it says, which goes on when
    it returns; it must not change the core.
    """

    def aggregator_made(self, op: AggrKprobe) -> None:
        """``op`` was made, its detour buffer is prepared where the site allows it, and it is not in
        the table yet.
        """

    def missed(self, p: Kprobe) -> None:
        """A hit on ``p`` was counted in its ``nmissed``: its handlers do not run. Of an aggregator,
        told for each child.
        """
