"""Oracle 7: every control task ends."""

from __future__ import annotations

from collections.abc import Sequence

from engine.patching.oracles.oracle import Oracle
from engine.search.explorable import Violation, ViolationKind

__all__ = ("Deadlock",)


class Deadlock(Oracle):
    """When nobody can go on, every control task has ended."""

    def schedule_ended(self, waiting: Sequence[str]) -> Violation | None:
        """See :class:`Oracle`."""
        if not waiting:
            return None
        return Violation(
            ViolationKind.DEADLOCK, None, None, f"nobody can go on: {'; '.join(waiting)}"
        )
