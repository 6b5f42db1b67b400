"""The oracle of progress: every control task comes to its end."""

from __future__ import annotations

from collections.abc import Sequence

from engine.patching.oracles.oracle import Oracle
from engine.search.explorable import Violation, ViolationKind

__all__ = ("Deadlock",)


class Deadlock(Oracle):
    """When nothing can go on any more, no control task, no task and no vCPU is left waiting."""

    def schedule_ended(self, waiting: Sequence[str]) -> Violation | None:
        """Report the tasks and the vCPUs that wait for ever."""
        if not waiting:
            return None
        return Violation(
            ViolationKind.DEADLOCK, None, None, f"nobody can go on: {'; '.join(waiting)}"
        )
