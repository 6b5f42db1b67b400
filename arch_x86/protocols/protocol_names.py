"""The patch protocols by name: those that come along, and those of a user's file."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from arch_x86.protocols import (
    freezing,
    ftrace_calls,
    plain_stores,
    text_poke_arrays,
    text_pokes,
    uprobes,
)
from arch_x86.protocols.protocol import PatchProtocol
from engine.core.safety_steps import SafetyStep
from engine.errors import InputError, printable
from engine.patching.protocol_file import protocol_file
from engine.patching.python_file import names_of_file

__all__ = ("OF_THE_POKE", "PROTOCOLS", "other_steps", "protocol_named", "steps_left_out")

PROTOCOLS: Final = (
    text_pokes.text_poke,
    text_pokes.text_poke_smp,
    text_pokes.text_poke_smp_batch,
    text_pokes.text_poke_bp,
    text_pokes.text_poke_bp_batch,
    text_pokes.text_poke_bp_deferred,
    text_poke_arrays.text_poke_bp_5_4,
    text_poke_arrays.text_poke_bp_5_6,
    text_poke_arrays.smp_text_poke_batch,
    text_poke_arrays.smp_text_poke_single,
    ftrace_calls.ftrace_replace_code,
    text_pokes.hlt_first,
    freezing.freeze_and_move,
    uprobes.uprobe_nop10_first,
    uprobes.uprobe_nop10,
    plain_stores.one_store,
    plain_stores.four_and_four,
    plain_stores.one_and_four,
    plain_stores.stop_by_fault,
)
"""The protocols that come along."""


OF_THE_POKE: Final = frozenset(
    {
        SafetyStep.STOP_MACHINE,
        SafetyStep.BP_INT3_FIRST,
        SafetyStep.BP_HANDLER,
        SafetyStep.BP_SYNC_1,
        SafetyStep.BP_SYNC_2,
        SafetyStep.BP_SYNC_3,
        SafetyStep.BP_REFS,
        SafetyStep.UNOPT_SYNC_1,
        SafetyStep.UNOPT_SYNC_2,
    }
)
"""The steps of the poke protocols of profiles, in whose place a patch protocol is."""
_SAFETY_STEPS: Final = frozenset(map(str, SafetyStep))
"""The names of all safety steps, and of the mends."""


def protocol_named(word: PatchProtocol | str) -> PatchProtocol:
    """Return the protocol that ``word`` names.

    :param word: the name of one that comes along, or ``FILE.py`` or ``FILE.py:NAME``, or a
        protocol.
    :raises InputError: there is no such protocol, or the file can't be run.
    """
    if isinstance(word, PatchProtocol):
        return word
    for one in PROTOCOLS:
        if one.name == word:
            return one
    name, wanted = protocol_file(word)
    if name is None:
        raise InputError(
            f"--protocol {printable(word)}: unknown; give a Python file, FILE.py or FILE.py:NAME,"
            f" or {', '.join(one.name for one in PROTOCOLS)}"
        )
    found = _of_file(name)
    chosen = [one for one in found if not wanted or one.name == wanted]
    if len(chosen) != 1:
        there = ", ".join(one.name for one in found)
        why = (
            f"name one protocol of the file, FILE.py:NAME; there is {there}"
            if there
            else "no patch protocol is in the file; put optprobe.protocol() over a function"
        )
        raise InputError(f"--protocol {printable(word)}: {why}")
    return chosen[0]


def _of_file(name: str) -> list[PatchProtocol]:
    names = names_of_file(name, "--protocol ", "give a Python file of protocols")
    return [value for value in names.values() if isinstance(value, PatchProtocol)]


def steps_left_out(protocol: PatchProtocol, names: Collection[str]) -> frozenset[str]:
    """Return ``names``, each of which has to be a step of ``protocol``.

    :raises InputError: one of them is none.
    """
    for name in names:
        if name not in protocol.steps:
            steps = ", ".join(protocol.steps) or "none"
            raise InputError(
                f"--without {printable(name)}: no step of {protocol.name}; it has {steps}"
            )
    return frozenset(names)


def other_steps(protocol: PatchProtocol, names: Collection[str]) -> tuple[str, ...]:
    """Return those of ``names`` that are no steps of ``protocol``, in order.

    :raises InputError: one of them is a step of the poke protocols in whose place ``protocol`` is,
        or no step at all.
    """
    others = tuple(sorted(set(names) - set(protocol.steps)))
    for name in others:
        if name in OF_THE_POKE:
            steps_left_out(protocol, [name])
        if name not in _SAFETY_STEPS:
            steps = ", ".join(protocol.steps) or "none"
            raise InputError(
                f"--without {printable(name)}: no step of {protocol.name}, which has {steps}, and"
                " no safety step; optprobe steps lists those"
            )
    return others
