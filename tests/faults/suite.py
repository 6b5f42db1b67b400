"""All planted faults, and which tests look at which part of the project."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tests.faults.arch import ARCH
from tests.faults.core_handlers import HANDLERS, RESOURCES, RETURNS, SWITCHES
from tests.faults.core_optimizer import OPTIMIZING, PASS
from tests.faults.core_table import TABLE
from tests.faults.explorer_calls import CALL_STATES
from tests.faults.explorer_control import CHOICES, CONTROL_STATES
from tests.faults.fault import Fault, Kind
from tests.faults.fetches import FETCHES
from tests.faults.machine import MACHINE
from tests.faults.text import TEXT

__all__ = ("CHANGES_NOTHING", "FAULTS", "looked_at_by")

CORE: Final = (*TABLE, *HANDLERS, *SWITCHES, *PASS, *OPTIMIZING, *RETURNS, *RESOURCES)
EXPLORER: Final = (*CALL_STATES, *CONTROL_STATES, *CHOICES, *FETCHES)
FAULTS: Final = (*CORE, *ARCH, *TEXT, *MACHINE, *EXPLORER)

CHANGES_NOTHING: Final = {
    "the pass frees what was taken into use again": (
        "of what it has undone the pass takes off the list for freeing what is in use, with the"
        " tables locked, before it waits"
    ),
    "kprobes-optimization=1 lists disabled probes, too": (
        "who lists one asks whether it is disabled"
    ),
    "the replaced size is taken as the jump's 5 where neighbours are looked for": (
        "the last of the replaced instructions begins within the first five bytes, so no neighbour"
        " lies behind them"
    ),
    "next: what an operation disarms is disarmed before what it arms": "no operation does both",
}
"""Faults that look like some, and are not planted: why each changes nothing."""

_CORE: Final = (
    "tests/engine/test_optimizer.py",
    "tests/engine/test_transitions.py",
    "tests/engine/test_aggregation.py",
    "tests/engine/test_kprobes.py",
    "tests/engine/test_registration.py",
    "tests/engine/test_switches.py",
    "tests/engine/test_finds.py",
    "tests/engine/test_unloaded_text.py",
    "tests/engine/test_next.py",
    "tests/engine/test_locks.py",
    "tests/engine/test_behaviour.py",
    "tests/engine/test_reentrancy.py",
    "tests/engine/test_nested_calls.py",
    "tests/engine/test_handler_faults.py",
    "tests/engine/test_poke_batch.py",
    "tests/explore/test_waits.py",
    "tests/engine/test_core_machine.py",
)
_HITS: Final = (
    "tests/engine/test_kprobes.py",
    "tests/engine/test_reentrancy.py",
    "tests/engine/test_nested_calls.py",
    "tests/engine/test_handler_faults.py",
    "tests/engine/test_nmi_hits.py",
    "tests/engine/test_next.py",
    "tests/engine/test_selftests.py",
)
_COPIES: Final = (
    "tests/probes/test_relocate.py",
    "tests/probes/test_slot.py",
    "tests/probes/test_detour.py",
    "tests/probes/test_optimize.py",
    "tests/probes/test_emulation.py",
    "tests/equivalence/test_stepping.py",
    "tests/equivalence/test_copies.py",
    "tests/equivalence/test_hits.py",
    "tests/lab/test_verify.py",
)
_MACHINE: Final = (
    "tests/emu/test_traps.py",
    "tests/emu/test_nmi.py",
    "tests/emu/test_machine.py",
    "tests/emu/test_guards.py",
)
_RETURNS: Final = (
    "tests/engine/test_kretprobes.py",
    "tests/engine/test_kretprobe_registration.py",
    "tests/explore/test_points.py",
)
_EXPLORER: Final = (
    "tests/explore/test_call_states.py",
    "tests/explore/test_vcpu_states.py",
    "tests/explore/test_control_states.py",
    "tests/explore/test_choice_places.py",
    "tests/explore/test_points.py",
    "tests/explore/test_shared.py",
)
_PATCHING: Final = (
    "tests/explore/test_fetch_states.py",
    "tests/explore/test_freezing.py",
    "tests/explore/test_hidden_code.py",
    "tests/explore/test_patch.py",
    "tests/explore/test_fetch_verdicts.py",
    "tests/explore/test_fetch_schedules.py",
    "tests/explore/test_fetches.py",
    "tests/explore/test_static_keys.py",
    "tests/explore/test_static_calls.py",
    "tests/explore/test_static_call_updates.py",
    "tests/explore/test_deferred_syncs.py",
)
_FIRST: Final[dict[str, tuple[str, ...]]] = {
    "engine/core/kretprobes.py": _RETURNS,
    "engine/core/insn_slots.py": ("tests/engine/test_insn_slots.py", *_CORE),
    "engine/control/sync.py": ("tests/engine/test_locks.py", "tests/explore/test_waits.py", *_CORE),
    "arch_x86/probes/kretprobe_trampoline.py": _RETURNS,
    "arch_x86/probes/x86_arch.py": (*_COPIES, *_CORE),
    "arch_x86/probes/plain_sites.py": (*_COPIES, *_CORE),
    "arch_x86/probes/optimized_sites.py": (*_COPIES, *_CORE),
    "arch_x86/probes/copies.py": (*_COPIES, *_CORE),
    "arch_x86/probes/breakpoint.py": (*_HITS, *_MACHINE, *_COPIES),
    "arch_x86/probes/optimized_hit.py": (*_HITS, *_MACHINE, *_COPIES),
    "arch_x86/probes/recover.py": ("tests/engine/test_recover.py", *_CORE),
    "arch_x86/text": ("tests/engine/test_poke_batch.py", *_CORE, *_COPIES),
    "arch_x86/emu": (*_MACHINE, *_RETURNS, *_HITS, *_COPIES),
    "arch_x86/probes": (*_COPIES, *_HITS),
    "engine": _CORE,
}


def looked_at_by(fault: Fault) -> Sequence[str]:
    """The files of tests that look at the part of the project that ``fault`` is in."""
    if fault in FETCHES:
        return _PATCHING
    if fault.kind is Kind.EXPLORER:
        return _EXPLORER
    return next(tests for part, tests in _FIRST.items() if fault.file.startswith(part))
