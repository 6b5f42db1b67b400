"""Why leaving a step of a patch protocol out breaks nothing: a closed list of reasons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ("NOTES", "reason")

NOTES: Final[Mapping[str, str]] = {
    "at once": (
        "In `coherent` every CPU sees a store at once, so no core sync has anything to tell it."
    ),
    "in order": (
        "The CPU sees all stores to the site in their order: when it sees a new byte behind the"
        " first one it has seen the breakpoint, and when it sees the new first byte it has seen all"
        " bytes behind that."
    ),
    "sync refuses": (
        "The last core sync waits for every CPU in the trap, since such a CPU takes no interrupt;"
        " so nobody reads the handler's record when it goes."
    ),
    "sorted": (
        "The patches come in the order of their addresses, so none comes out of order, and the"
        " array is sorted. `smp_text_poke_single` is the one that needs the step."
    ),
}
"""The reasons by their names, in the order in which they are numbered."""
_WHOLE: Final = ("stale", "unit:8, inside")
"""The columns in which the stores to a site are seen in their order."""
_FIRST_SYNCS: Final = (
    *("sync-1", "sync-2", "bp-sync-1", "bp-sync-2", "unopt-sync-1", "unopt-sync-2"),
    *("arm", "o1", "u1", "u2"),
)
"""The core syncs behind a breakpoint, and behind the bytes behind it."""


def reason(subject: str, step: str, column: str) -> str | None:
    """Return the name of the reason why a cell is "not needed", or None if none is known.

    :param subject: the protocol.
    :param step: the step that is left out.
    :param column: the name of the column.
    """
    if step == "flush-out-of-order" and subject == "smp_text_poke_batch":
        return "sorted"
    if step in ("refs", "bp-refs"):
        return "sync refuses"
    if step in _FIRST_SYNCS:
        return "at once" if column == "coherent" else "in order" if column in _WHOLE else None
    return None
