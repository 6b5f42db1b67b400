"""The contract of a plan that says when external interrupts come."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ("InterruptPlan",)


class InterruptPlan(Protocol):
    """A plan of external interrupts, in retired instructions of the vCPU that takes them."""

    def due(self, cpu: int, retired: int) -> int | None:
        """Return how many instructions remain until the next interrupt of ``cpu``.

        :param retired: how many instructions ``cpu`` has retired.
        :returns: 0: the interrupt comes now; None: none comes.
        """
        ...

    def taken(self, cpu: int, retired: int) -> None:
        """Note that an interrupt was delivered to ``cpu``.

        The instructions of the handler itself do not count, or a short period would never let the
        interrupted code go on.

        :param retired: the handler will have returned when so many instructions have retired.
        """
        ...

    def save_state(self) -> Any:
        """Return the plan's state, for a snapshot."""
        ...

    def restore_state(self, state: Any) -> None:
        """Go back to a state from a snapshot; None is the state of a plan that was never used."""
        ...
