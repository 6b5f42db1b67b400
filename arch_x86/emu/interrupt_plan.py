"""What says when external interrupts come."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ("InterruptPlan",)


class InterruptPlan(Protocol):
    """When external interrupts come, in retired instructions of the vCPU that takes them."""

    def due(self, cpu: int, retired: int) -> int | None:
        """Return how many instructions remain until the next interrupt of ``cpu``, which has
        retired ``retired`` (0: it comes now; None: none comes).
        """
        ...

    def taken(self, cpu: int, retired: int) -> None:
        """Note that an interrupt was delivered whose handler will have returned when ``retired``
        instructions have retired. The instructions of the handler itself do not count, or a short
        period would never let the interrupted code go on.
        """
        ...

    def save_state(self) -> Any:
        """Return the plan's state, for a snapshot."""
        ...

    def restore_state(self, state: Any) -> None:
        """Go back to a state from a snapshot; None: to that of a plan that was never used."""
        ...
