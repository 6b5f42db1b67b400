"""The oracles in the order in which they are asked.

Of several violations that one event brings, the first counts.
"""

from __future__ import annotations

from typing import Final

from engine.patching.oracles.call_results import CallResults
from engine.patching.oracles.deadlock import Deadlock
from engine.patching.oracles.foreign_breakpoints import ForeignBreakpoints
from engine.patching.oracles.freed_code import FreedCode
from engine.patching.oracles.handler_entry import HandlerEntry
from engine.patching.oracles.hit_record import HitRecord
from engine.patching.oracles.hits import Hits
from engine.patching.oracles.invariants import Invariants
from engine.patching.oracles.kept_memory import KeptMemory
from engine.patching.oracles.oracle import Oracle
from engine.patching.oracles.patched_text import PatchedText
from engine.patching.oracles.pending_stores import PendingStores
from engine.patching.oracles.restored_text import RestoredText
from engine.patching.oracles.return_probes import ReturnProbes
from engine.patching.oracles.torn_instructions import TornInstructions

__all__ = ("ORACLES",)

ORACLES: Final[tuple[type[Oracle], ...]] = (
    Deadlock,
    RestoredText,
    KeptMemory,
    FreedCode,
    TornInstructions,
    PatchedText,
    PendingStores,
    Hits,
    ForeignBreakpoints,
    HitRecord,
    HandlerEntry,
    CallResults,
    ReturnProbes,
    Invariants,
)
